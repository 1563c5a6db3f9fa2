"""An object store in memory, in the place of the module `obstore` under the real `app.objects`."""

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

from obstore.exceptions import GenericError

import app.objects
from tests.simulation.loop import Process, current_process
from tests.simulation.network import Message

if TYPE_CHECKING:
    from tests.simulation.world import World


class Bucket:
    """`contents`: what is in the store; `writers`: who put each key there. `damaged`: keys whose content a fault has
    changed. `other`: another store, while it is mounted in the place of this one."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self.contents: dict[str, bytes] = {}
        self.writers: dict[str, Process] = {}
        self.damaged: set[str] = set()
        self.other: dict[str, bytes] | None = None

    @contextmanager
    def in_place(self) -> Iterator[None]:
        with mock.patch.object(app.objects, "obstore", self):
            yield

    async def put_async(self, store: Any, key: str, data: bytes | Path, max_concurrency: int) -> None:
        await self._send("put", key, partial(self._put, _sender(), key, _bytes_of(data)))

    @asynccontextmanager
    async def open_writer_async(self, store: Any, key: str, buffer_size: int) -> AsyncIterator["_Writer"]:
        writer = _Writer()
        yield writer
        await self._send("put", key, partial(self._put, _sender(), key, bytes(writer.data)))

    async def get_async(self, store: Any, key: str, options: Any = None) -> "_Answer":
        wanted = (options or {}).get("range")
        start, end = (wanted["offset"], None) if isinstance(wanted, dict) else wanted or (0, None)
        return _Answer(await self._send("get", key, partial(self._get, key, start, end)))

    async def get_range_async(self, store: Any, key: str, *, start: int, end: int) -> bytes:
        data: bytes = await self._send("get", key, partial(self._get, key, start, end))
        return data

    async def head_async(self, store: Any, key: str) -> dict[str, Any]:
        return {"size": len(await self._send("head", key, partial(self._get, key, 0, None)))}

    async def delete_async(self, store: Any, keys: str | Sequence[str]) -> None:
        named = [keys] if isinstance(keys, str) else list(keys)
        await self._send("delete", " ".join(named), partial(self._delete, named))

    async def list(self, store: Any, prefix: str, chunk_size: int) -> AsyncIterator[Sequence[dict[str, Any]]]:
        found: Sequence[str] = await self._send("list", prefix, partial(self._list, prefix))
        for first in range(0, len(found), chunk_size):
            yield [{"path": key} for key in found[first : first + chunk_size]]

    async def _send(self, verb: str, key: str, work: Any) -> Any:
        process = _sender()
        return await self._world.network.send(process, Message(process.name, "objects", verb, key), work)

    @property
    def _mounted(self) -> dict[str, bytes]:
        return self.contents if self.other is None else self.other

    def _put(self, writer: Process, key: str, data: bytes) -> None:
        self._mounted[key] = data
        if self.other is None:
            self.writers[key] = writer
            self.damaged.discard(key)

    def _get(self, key: str, start: int, end: int | None) -> bytes:
        data = self._mounted.get(key)
        if data is None:
            raise FileNotFoundError(key)
        if start >= len(data) and (start or end):
            raise GenericError(f"a range behind the end of {key}")
        return data[start:end]

    def _delete(self, keys: Sequence[str]) -> None:
        for key in keys:
            if self._mounted.pop(key, None) is not None and self.other is None:
                self._world.trace.note("object store", "deletes", key)
                for check in self._world.checks:
                    check.after_delete(key)

    def _list(self, prefix: str) -> Sequence[str]:
        return sorted(key for key in self._mounted if key.startswith(prefix))


def _sender() -> Process:
    process = current_process()
    assert process is not None, "the world itself does not use the object store"
    return process


def _bytes_of(data: bytes | Path) -> bytes:
    return data.read_bytes() if isinstance(data, Path) else data


class _Writer:
    def __init__(self) -> None:
        self.data = bytearray()

    async def write(self, data: bytes) -> int:
        self.data += data
        return len(data)


class _Answer:
    def __init__(self, data: bytes) -> None:
        self._data = data

    async def stream(self, min_chunk_size: int) -> AsyncIterator[bytes]:
        if self._data:
            yield self._data
