"""The only place with blobs: one object store by URL (folder, S3, GCS, Azure), through obstore.

What `put` and `writer` have returned from survives power loss: an object store of the cloud promises that by itself,
for a folder the file and its directory are synchronised here, which obstore leaves out.
"""

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Protocol, Self
from urllib.parse import unquote, urlsplit
from uuid import uuid4

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, from_url

from app.errors import ObjectCutShort, ObjectMissing, ObjectsUnavailable

READ_BYTES = 1024 * 1024
"""Bytes a streamed read hands on at a time: large enough for throughput, small against our memory."""

PARTS_AT_ONCE = 2
"""Parts of a large object, of 5 MiB each, that are in memory while it is put."""

MARK_TEXT = (
    b"A Batchyard ledger knows its object store by this object: without it the ledger takes the store for another.\n"
)


class Writer(Protocol):
    async def write(self, data: bytes) -> int: ...


class MarkKeeper(Protocol):
    """The ledger: what remembers which object store is its own."""

    async def objects_mark(self) -> str | None: ...

    async def set_objects_mark(self, key: str) -> str:
        """Returns the mark that stands: another's, if that came first."""
        ...


class Objects:
    """Keys are paths with slashes. Every method raises ObjectsUnavailable, readers also ObjectMissing."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._mark: str | None = None
        self._folder = Path(unquote(parts.path)) if parts.scheme == "file" else None
        try:
            # Cleanup: a folder goes with its last object, or each batch would leave one behind.
            local = self._folder and LocalStore(self._folder, mkdir=True, automatic_cleanup=True)
            self._store = local or from_url(url)
        except (BaseError, ValueError, OSError) as error:
            raise ObjectsUnavailable(f"The object store {url} cannot be opened: {error}") from error

    @classmethod
    async def open(cls, url: str, ledger: MarkKeeper) -> Self:
        """The object store of this ledger. An object in it, the mark, says so from the ledger's first start on.

        Without a mark, a folder that is not mounted and a bucket that is another would look like the ledger's own with
        every file deleted. Raises ObjectsUnavailable and StoreUnavailable.
        """
        objects = cls(url)
        mark = await ledger.objects_mark()
        if mark is None:
            mine = f"marks/{uuid4().hex}"
            await objects.put(mine, MARK_TEXT)
            mark = await ledger.set_objects_mark(mine)
            if mark != mine:
                await objects.delete(mine)
        objects._mark = mark
        return objects

    async def put(self, key: str, data: bytes | Path) -> None:
        async with self._changing(key):
            await obstore.put_async(self._store, key, data, max_concurrency=PARTS_AT_ONCE)
            await self._synchronise(key)

    @asynccontextmanager
    async def writer(self, key: str) -> AsyncIterator[Writer]:
        """Streams an object; it is there once the block ends, and not at all when the block raises."""
        async with self._changing(key):
            async with obstore.open_writer_async(self._store, key, buffer_size=5 * READ_BYTES) as writer:
                yield writer
            await self._synchronise(key)

    async def read(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        """Bytes [start, end) of the object; to its end when `end` is None. One that ends earlier counts as missing."""
        async with self._reading(key):
            if end is None:
                return b"".join([chunk async for chunk in self.stream(key, start)])
            return await self._range(key, start, end) if end > start else b""

    async def stream(self, key: str, start: int = 0, end: int | None = None) -> AsyncGenerator[bytes, None]:
        """The bytes of `read`, a part at a time."""
        async with self._reading(key):
            if end is not None and end <= start:
                return
            options: obstore.GetOptions = {"range": {"offset": start} if end is None else (start, end)}
            answer = await obstore.get_async(self._store, key, options=options if start or end is not None else None)
            async for chunk in answer.stream(min_chunk_size=READ_BYTES):
                yield bytes(chunk)

    async def delete(self, key: str) -> None:
        """Deleting what is not there is no error."""
        async with self._changing(key):
            try:
                await obstore.delete_async(self._store, key)
            except FileNotFoundError:
                return

    async def delete_prefix(self, prefix: str) -> None:
        async with self._changing(prefix):
            async for found in obstore.list(self._store, prefix=prefix, chunk_size=500):
                await obstore.delete_async(self._store, [entry["path"] for entry in found])

    @asynccontextmanager
    async def _reading(self, key: str) -> AsyncIterator[None]:
        try:
            with _obstore_errors(key):
                yield
        except ObjectCutShort:
            raise
        except ObjectMissing:
            # The store may have been away and have come back: it is the ledger's before and after a second look.
            await self._verify()
            if await self._has(key):
                raise ObjectsUnavailable(f"The object store was away while {key!r} was read; try again.") from None
            await self._verify()
            raise

    @asynccontextmanager
    async def _changing(self, key: str) -> AsyncIterator[None]:
        await self._verify()
        with _obstore_errors(key):
            yield
        await self._verify()  # else it may have come to another store, which took this one's place meanwhile

    async def _range(self, key: str, start: int, end: int) -> bytes:
        try:
            data = bytes(await obstore.get_range_async(self._store, key, start=start, end=end))
        except BaseError:  # what each store says of a range behind an object's end is its own
            if await self._size(key) >= end:
                raise
            data = b""
        if len(data) < end - start:
            raise ObjectCutShort(f"The object {key!r} of the object store ends before byte {end}, and was longer.")
        return data

    async def _size(self, key: str) -> int:
        return int((await obstore.head_async(self._store, key))["size"])

    async def _has(self, key: str) -> bool:
        try:
            with _obstore_errors(key):
                await self._size(key)
        except ObjectMissing:
            return False
        return True

    async def _verify(self) -> None:
        """Raises ObjectsUnavailable when this is not the ledger's store."""
        if self._mark is None:
            return
        try:
            with _obstore_errors(self._mark):
                await obstore.head_async(self._store, self._mark)
        except ObjectMissing as error:
            raise ObjectsUnavailable(
                f"The object store is not the one that the ledger's files lie in: it has no object {self._mark!r}. "
                "Mount its folder or correct `objects`; if only that object was deleted, put an empty one in its place"
            ) from error

    async def _synchronise(self, key: str) -> None:
        if self._folder is not None:
            await asyncio.to_thread(_synchronise_file, self._folder, key)


def _synchronise_file(folder: Path, key: str) -> None:
    """The file and the folders from it up to `folder`: each may be new, and lasts only once its parent is written."""
    path = folder / key
    for each in (path, *path.parents[: len(Path(key).parts)]):
        descriptor = os.open(each, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def _obstore_errors(key: str) -> Iterator[None]:
    """Raises our errors for obstore's."""
    try:
        yield
    except FileNotFoundError as error:
        raise ObjectMissing(f"The object store has no object {key!r}.") from error
    except (BaseError, OSError) as error:
        # obstore's errors carry pages of debugging detail behind the first line; the cause keeps them.
        reason = str(error).partition("\n")[0]
        raise ObjectsUnavailable(f"The object store did not take {key!r}: {reason}") from error
