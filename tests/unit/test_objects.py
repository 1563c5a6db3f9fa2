"""One suite for every object store: a test that takes `objects` or `url` runs once for each factory here."""

import errno
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest

from app.errors import ObjectMissing, ObjectsUnavailable
from app.objects import READ_BYTES, Objects

LARGE = bytes(range(256)) * (3 * READ_BYTES // 256) + b"the end"
LARGER_THAN_A_WRITERS_BUFFER = 12 * READ_BYTES


def folder(tmp_path: Path) -> str:
    return (tmp_path / "objects here").as_uri()


@pytest.fixture(params=[folder], ids=lambda factory: factory.__name__)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(request.param(tmp_path))


@pytest.fixture
def objects(url: str) -> Objects:
    return Objects(url)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The folder of `local`, for what is the folder's own."""
    return tmp_path / "objects here"


@pytest.fixture
def local(root: Path) -> Objects:
    return Objects(root.as_uri())


def entries(folder: Path) -> set[str]:
    return {each.name for each in folder.iterdir()}


async def joined(stream: AsyncIterator[bytes]) -> bytes:
    return b"".join([part async for part in stream])


# Put and read


@pytest.mark.parametrize("data", [b"", b"hello\n", LARGE], ids=["empty", "small", "large"])
async def test_what_was_put_is_read(objects: Objects, data: bytes) -> None:
    await objects.put("a/b/c", data)
    assert await objects.read("a/b/c") == data
    assert await joined(objects.stream("a/b/c")) == data


async def test_a_file_can_be_put(objects: Objects, tmp_path: Path) -> None:
    (tmp_path / "upload").write_bytes(LARGE)
    await objects.put("a", tmp_path / "upload")
    assert await objects.read("a") == LARGE


async def test_a_later_put_takes_the_place_of_an_earlier(objects: Objects) -> None:
    await objects.put("a", b"a long first text")
    await objects.put("a", b"short")
    assert await objects.read("a") == b"short"


async def test_what_was_put_is_there_for_others(objects: Objects, url: str) -> None:
    await objects.put("a", b"hello")
    assert await Objects(url).read("a") == b"hello"


@pytest.mark.parametrize("start, end", [(0, 5), (2, 4), (2, None), (0, None), (0, 0), (4, 2), (5, 5)])
async def test_a_range_is_read(objects: Objects, start: int, end: int | None) -> None:
    await objects.put("a", b"hello")
    assert await objects.read("a", start, end) == b"hello"[start:end]
    assert await joined(objects.stream("a", start, end)) == b"hello"[start:end]


@pytest.mark.parametrize("start", [0, 3, 5, 9])
async def test_a_range_of_which_the_end_is_not_there_is_missing(objects: Objects, start: int) -> None:
    """What asks for it knows what was written: the object was cut short since."""
    await objects.put("a", b"hello")
    with pytest.raises(ObjectMissing, match="ends before byte 99"):
        await objects.read("a", start, 99)


async def test_a_large_object_is_streamed_in_parts(objects: Objects) -> None:
    await objects.put("a", LARGE)
    parts = [part async for part in objects.stream("a", 1, len(LARGE) - 1)]
    assert b"".join(parts) == LARGE[1:-1]
    assert len(parts) > 1
    assert max(map(len, parts)) <= 2 * READ_BYTES


async def test_a_stream_may_be_left_early(objects: Objects) -> None:
    await objects.put("a", LARGE)
    stream = objects.stream("a")
    assert LARGE.startswith(await anext(stream))
    await stream.aclose()


# Write


@pytest.mark.parametrize("size", [0, 10, LARGER_THAN_A_WRITERS_BUFFER])
async def test_what_was_written_is_there_once_the_block_ends(objects: Objects, size: int) -> None:
    async with objects.writer("a/b") as writer:
        for _ in range(4):
            await writer.write(b"x" * (size // 4))
        with pytest.raises(ObjectMissing):
            await objects.read("a/b")
    assert await objects.read("a/b") == b"x" * (size // 4 * 4)


@pytest.mark.parametrize("size", [0, 10, LARGER_THAN_A_WRITERS_BUFFER])
async def test_a_block_that_raises_leaves_nothing(objects: Objects, size: int) -> None:
    with pytest.raises(ZeroDivisionError):
        async with objects.writer("a/b") as writer:
            await writer.write(b"x" * size)
            raise ZeroDivisionError
    with pytest.raises(ObjectMissing):
        await objects.read("a/b")


async def test_a_block_that_raises_leaves_the_earlier_object(objects: Objects) -> None:
    await objects.put("a", b"earlier")
    with pytest.raises(ZeroDivisionError):
        async with objects.writer("a") as writer:
            await writer.write(b"later")
            raise ZeroDivisionError
    assert await objects.read("a") == b"earlier"


# Delete


async def test_a_deleted_object_is_missing(objects: Objects) -> None:
    await objects.put("a", b"hello")
    await objects.delete("a")
    with pytest.raises(ObjectMissing):
        await objects.read("a")


async def test_what_is_not_there_can_be_deleted(objects: Objects) -> None:
    await objects.delete("a")
    await objects.delete_prefix("a/b/")


async def test_a_prefix_is_deleted_and_its_neighbours_stay(objects: Objects) -> None:
    for key in ("segments/batch_1/a", "segments/batch_1/b", "segments/batch_10/a", "segments/batch_2/a", "segments/b"):
        await objects.put(key, b"x")
    await objects.delete_prefix("segments/batch_1/")
    for gone in ("segments/batch_1/a", "segments/batch_1/b"):
        with pytest.raises(ObjectMissing):
            await objects.read(gone)
    for kept in ("segments/batch_10/a", "segments/batch_2/a", "segments/b"):
        assert await objects.read(kept) == b"x"


async def test_a_folder_goes_with_its_last_object(local: Objects, root: Path) -> None:
    for key in ("segments/batch_1/a", "segments/batch_1/b", "segments/batch_2/a"):
        await local.put(key, b"x")
    await local.delete_prefix("segments/batch_1/")
    assert entries(root / "segments") == {"batch_2"}
    await local.delete("segments/batch_2/a")
    assert entries(root) == set()


# Missing and unavailable


async def test_a_missing_object_is_named(objects: Objects) -> None:
    for reading in (objects.read("a/b"), objects.read("a/b", 1, 3), joined(objects.stream("a/b"))):
        with pytest.raises(ObjectMissing, match="has no object 'a/b'"):
            await reading


def test_an_object_store_that_cannot_be_opened_is_unavailable_and_says_why(tmp_path: Path) -> None:
    (tmp_path / "a file").write_bytes(b"")
    with pytest.raises(ObjectsUnavailable, match="cannot be opened: Not a directory"):
        Objects((tmp_path / "a file" / "objects").as_uri())
    with pytest.raises(ObjectsUnavailable, match="nonsense://x cannot be opened"):
        Objects("nonsense://x")


async def _put(objects: Objects) -> None:
    await objects.put("a/b", b"x")


async def _write(objects: Objects) -> None:
    async with objects.writer("a/b") as writer:
        await writer.write(b"x")


async def _delete(objects: Objects) -> None:
    await objects.delete("a/b")


async def _delete_prefix(objects: Objects) -> None:
    await objects.delete_prefix("a/")


async def _read(objects: Objects) -> None:
    await objects.read("a/b")


async def _stream(objects: Objects) -> None:
    await joined(objects.stream("a/b"))


Verb = Callable[[Objects], Awaitable[None]]


@pytest.mark.parametrize("verb", [_put, _write, _delete])
async def test_a_place_that_cannot_be_written_is_unavailable_and_says_why(
    local: Objects, root: Path, verb: Verb
) -> None:
    (root / "a").write_bytes(b"a file where a folder should be")
    with pytest.raises(ObjectsUnavailable, match=r"did not take 'a/b': .*Not a directory"):
        await verb(local)


@pytest.mark.parametrize("verb", [_put, _write])
async def test_what_the_disk_did_not_take_is_unavailable(
    local: Objects, verb: Verb, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ObjectsUnavailable, match="No space left on device"):
        await verb(local)


# The mark: a ledger's own store, or another


class Ledger:
    """Remembers a mark; `first` is one that another process sets just before us."""

    def __init__(self, first: str | None = None) -> None:
        self.mark: str | None = None
        self._first = first

    async def objects_mark(self) -> str | None:
        return self.mark

    async def set_objects_mark(self, key: str) -> str:
        self.mark = self.mark or self._first or key
        return self.mark


@pytest.mark.parametrize("verb", [_put, _write, _delete, _delete_prefix, _read, _stream])
async def test_a_store_that_is_another_is_unavailable_until_the_right_one_is_back(
    url: str, root: Path, tmp_path: Path, verb: Verb
) -> None:
    """As when a folder is not mounted: what is there is empty, and must stay so."""
    ledger = Ledger()
    await (await Objects.open(url, ledger)).put("a/b", b"hello")
    os.rename(root, tmp_path / "elsewhere")
    objects = await Objects.open(url, ledger)
    with pytest.raises(ObjectsUnavailable, match="is not the one that the ledger's files lie in"):
        await verb(objects)
    assert entries(root) == set()
    os.rename(tmp_path / "elsewhere", root)
    await verb(objects)


async def test_what_is_missing_from_the_ledgers_own_store_is_missing(url: str) -> None:
    objects = await Objects.open(url, Ledger())
    with pytest.raises(ObjectMissing):
        await objects.read("a")


async def test_what_is_missed_in_a_store_that_comes_back_meanwhile_is_not_missing(
    url: str, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects, away = await Objects.open(url, Ledger()), tmp_path / "away"
    await objects.put("key", b"data")
    os.rename(root, away)
    verify = objects._verify

    async def verify_once_it_is_back() -> None:
        with suppress(FileNotFoundError):
            os.rename(away, root)
        await verify()

    monkeypatch.setattr(objects, "_verify", verify_once_it_is_back)
    with pytest.raises(ObjectsUnavailable, match="was away while 'key' was read"):
        await objects.read("key")
    assert await objects.read("key") == b"data"


@pytest.mark.parametrize("verb", [_put, _write, _delete, _delete_prefix])
async def test_what_may_have_come_to_another_store_did_not_come_to_ours(
    url: str, root: Path, tmp_path: Path, verb: Verb, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder was there at the first look, and was not mounted any more when the object came."""
    objects = await Objects.open(url, Ledger())
    verify, looks = objects._verify, 0

    async def verify_and_unmount() -> None:
        nonlocal looks
        await verify()
        looks += 1
        if looks == 1:
            os.rename(root, tmp_path / "elsewhere")

    monkeypatch.setattr(objects, "_verify", verify_and_unmount)
    with pytest.raises(ObjectsUnavailable, match="is not the one that the ledger's files lie in"):
        await verb(objects)


async def test_of_two_marks_the_first_stands_and_the_other_goes(url: str, root: Path) -> None:
    await Objects(url).put("marks/first", b"")
    objects = await Objects.open(url, Ledger(first="marks/first"))
    assert entries(root / "marks") == {"first"}
    await objects.put("a", b"hello")


async def test_a_store_that_lost_only_its_mark_is_mended_by_an_empty_object(url: str) -> None:
    ledger = Ledger()
    objects = await Objects.open(url, ledger)
    assert ledger.mark is not None
    await Objects(url).delete(ledger.mark)
    with pytest.raises(ObjectsUnavailable, match="put an empty one in its place"):
        await objects.put("a", b"hello")
    await Objects(url).put(ledger.mark, b"")
    await objects.put("a", b"hello")


# Power loss


@pytest.mark.parametrize("verb", [_put, _write])
async def test_the_file_and_each_folder_that_leads_to_it_are_synchronised_before_it_counts(
    local: Objects, root: Path, verb: Verb, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder's entry is durable once the folder it stands in is synchronised."""
    synchronised: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synchronised.append(os.readlink(f"/proc/self/fd/{descriptor}")))
    await verb(local)
    assert synchronised == [str(root / "a" / "b"), str(root / "a"), str(root)]
