"""Transfers: bodies that stand still, that are many, that are large, that nobody takes."""

import asyncio
import contextlib
import json
import time
import zlib
from collections.abc import Awaitable, Callable, Iterator

from tests.siege.attack import (
    BATCHES,
    BOUNDARY,
    CHAT,
    FILES,
    FORM,
    Answer,
    Attack,
    Fire,
    Loot,
    Prepare,
    Target,
    chat_body,
    form,
    line,
    posts,
    requests,
)

BLOCK = b"x" * 1_000_000
SILENT_SECONDS = 100.0
"""Longer than a body may stand still, and than the watchdog of the cluster would wait for an answer."""

FILE_MB = 200
SLOW_CHUNK, SLOW_REST = 65536, 1.0
"""A slow reader takes so many bytes, then rests for so many seconds."""

READ_SECONDS = 20.0


def one_byte(count: int) -> Prepare:
    """One byte of a small body, then silence."""

    async def prepare(target: Target) -> Fire:
        start = target.head("POST", BATCHES, 200, content_type="application/json") + b"{"
        return lambda: _together(count, lambda: target.exchange(start, patience=SILENT_SECONDS))

    return prepare


def large_then_silent(count: int) -> Prepare:
    """More than what is read ahead of a body, then silence."""

    async def prepare(target: Target) -> Fire:
        start = target.head("POST", CHAT, 1_000_000, content_type="application/json") + b" " * 100_000
        return lambda: _together(count, lambda: target.exchange(start, patience=SILENT_SECONDS))

    return prepare


def dripping(count: int, seconds: float, piece: bytes = b"x") -> Prepare:
    """Uploads that move by a piece a second."""

    async def prepare(target: Target) -> Fire:
        before, _ = form("drip.jsonl", "batch")
        start = target.head("POST", FILES, 100_000, content_type=FORM) + before

        async def drip() -> str:
            reader, writer = await target.connect()
            writer.write(start)
            answer = asyncio.create_task(reader.read(4096))
            deadline = time.monotonic() + seconds
            with contextlib.suppress(OSError):
                while time.monotonic() < deadline and not answer.done():
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.wait([answer], timeout=1)
            head = await _what_came(answer)
            writer.transport.abort()
            return head.split()[1].decode() if head else "still taken"

        async def fire() -> Loot:
            loot = Loot()
            loot.outcomes.update(await asyncio.gather(*(drip() for _ in range(count))))
            return loot

        return fire

    return prepare


def uploads(count: int, megabytes: int, *, rate: float = 0, chunked: bool = False) -> Prepare:
    """All at once. `rate`: MB a second that each sends; 0: as fast as they are taken."""

    async def prepare(target: Target) -> Fire:
        before, after = form("large.bin", "user_data")
        length = None if chunked else len(before) + megabytes * len(BLOCK) + len(after)
        start = target.head("POST", FILES, length, content_type=FORM)
        pieces = [before, *[BLOCK] * megabytes, after]
        if chunked:
            pieces = [b"%x\r\n%b\r\n" % (len(each), each) for each in (before, BLOCK, after)]
            pieces = [pieces[0], *[pieces[1]] * megabytes, pieces[2] + b"0\r\n\r\n"]

        async def upload() -> str:
            if not rate:
                return (await target.exchange(start, pieces, patience=150)).outcome
            return await _paced(target, start, pieces, 1 / rate)

        async def fire() -> Loot:
            loot = Loot()
            loot.outcomes.update(await asyncio.gather(*(upload() for _ in range(count))))
            return loot

        return fire

    return prepare


def slow_readers(count: int, path_of: Callable[[Target], Awaitable[str]]) -> Prepare:
    """Each takes 64 kB a second of a large answer."""

    async def prepare(target: Target) -> Fire:
        request = target.request("GET", await path_of(target))

        async def read() -> int:
            reader, writer = await target.connect()
            writer.write(request)
            taken, deadline = 0, time.monotonic() + READ_SECONDS
            while time.monotonic() < deadline and (data := await reader.read(SLOW_CHUNK)):
                taken += len(data)
                await asyncio.sleep(SLOW_REST)
            writer.transport.abort()
            return taken

        async def fire() -> Loot:
            taken = await asyncio.gather(*(read() for _ in range(count)))
            loot = Loot(bytes=sum(taken))
            loot.outcomes.update("left half-way" if each else "cut off" for each in taken)
            return loot

        return fire

    return prepare


async def _content(target: Target) -> str:
    before, after = form("large.bin", "user_data")
    start = target.head("POST", FILES, len(before) + FILE_MB * len(BLOCK) + len(after), content_type=FORM)
    answer = await target.exchange(start, [before, *[BLOCK] * FILE_MB, after], patience=200)
    return f"{FILES}/{answer.json()['id']}/content"


async def _results(target: Target) -> str:
    """Of a batch whose answers are long: each token of a line comes with twenty others and their probabilities."""
    body = chat_body(max_tokens=400, ignore_eos=True, logprobs=True, top_logprobs=20)
    data = b"".join(line(f"line-{number}", body) for number in range(60))
    batch = await target.ask(target.new_batch(await target.uploaded(data)))
    await target.finished(batch["id"])
    return f"{BATCHES}/{batch['id']}/results"


def deflated(target: Target) -> list[bytes]:
    """1 GB of zeros as 1 MB, which nobody is to unpack."""
    packer = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    megabyte = packer.compress(bytes(1_000_000)) + packer.flush(zlib.Z_FULL_FLUSH)
    packed = bytes.fromhex("1f8b08000000000000ff") + megabyte * 1000
    return [target.post(path, packed, content_encoding="gzip") for path in (CHAT, BATCHES)]


def _many_parts(parts: int) -> Callable[[Target], list[bytes]]:
    def make(target: Target) -> list[bytes]:
        part = b'--%b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n' % BOUNDARY.encode()
        body = part * parts + b"--%b--\r\n" % BOUNDARY.encode()
        return [target.request("POST", FILES, body, content_type=FORM)] * 8

    return make


def _part_headers(size: int) -> Callable[[Target], list[bytes]]:
    def make(target: Target) -> list[bytes]:
        start = b'--%b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n' % BOUNDARY.encode()
        one_line = b"X-Long: " + b"x" * size
        many_lines = b"X-Many: x\r\n" * (size // 11)
        bodies = [start + headers + b"\r\n\r\nx\r\n" for headers in (one_line, many_lines)]
        return [target.request("POST", FILES, body, content_type=FORM) for body in bodies] * 4

    return make


def _without_end(target: Target) -> list[bytes]:
    before, _ = form("open.jsonl", "batch")
    body = before + BLOCK * 10
    return [target.request("POST", FILES, body, content_type=FORM)] * 16


def _file_names(target: Target) -> list[bytes]:
    names = ("n" * 65_536, "%00" * 20_000, "../" * 20_000, "=?utf-8?B?" + "QQ" * 30_000 + "?=")
    return [target.upload(b"{}\n", name=name) for name in names] * 8


def ranges(count: int) -> Prepare:
    """Ranges that overlap, that are many, that lie outside, that are none."""

    async def prepare(target: Target) -> Fire:
        path = f"{FILES}/{await target.uploaded(BLOCK, purpose='user_data')}/content"
        wanted = (
            "bytes=" + "0-," * 1300,
            "bytes=5-2",
            "bytes=-0",
            "bytes=99999999999999999999-",
            "lines=1-",
            "bytes=0-0",
        )
        made = [target.request("GET", path, range=each) for each in wanted] * count
        return lambda: target.volley(made)

    return prepare


def _brackets(size: int) -> bytes:
    return b'{"model": "tiny", "messages": ' + b"[" * size + b"]" * size + b"}"


def _empty_objects(size: int) -> bytes:
    return b'{"model": "tiny", "messages": [' + b"{}," * (size // 3) + b"{}]}"


def _twice(size: int) -> bytes:
    body = json.dumps(chat_body())[:-1].encode()
    return body + b', "user": "a"' * (size // 13) + b"}"


async def _together(count: int, send: Callable[[], Awaitable[Answer]]) -> Loot:
    loot = Loot()
    for answer in await asyncio.gather(*(send() for _ in range(count))):
        loot.add(answer)
    return loot


async def _paced(target: Target, start: bytes, pieces: list[bytes], rest: float) -> str:
    reader, writer = await target.connect()
    answer = asyncio.create_task(reader.read(4096))
    with contextlib.suppress(OSError):
        for piece in _shortened([start, *pieces]):
            if answer.done():
                break
            writer.write(piece)
            await writer.drain()
            await asyncio.wait([answer], timeout=rest)
    head = await _what_came(answer)
    writer.transport.abort()
    return head.split()[1].decode() if head else "left half-way"


def _shortened(pieces: list[bytes]) -> Iterator[bytes]:
    """As much as a slow one sends before it leaves."""
    yield from pieces[:25]


async def _what_came(answer: "asyncio.Task[bytes]") -> bytes:
    with contextlib.suppress(TimeoutError, OSError):
        async with asyncio.timeout(1):
            return await answer
    return b""


def _huge(target: Target) -> list[bytes]:
    return [target.request("POST", FILES, content_type=FORM, content_length="9" * 18)] * 8


UPLOADS_WAIT = ("upload",)

ATTACKS = (
    Attack(
        "one-byte-bodies",
        "1,100 × `POST /v1/batches`, one byte of the body, then silence",
        one_byte(1100),
        ("408", "503"),
        seconds=130,
    ),
    Attack("dripping-uploads", "8 uploads at 1 byte a second", dripping(8, 90), ("408",), seconds=120),
    Attack(
        "large-then-silent",
        "100 online chats of 1 MB, 100 kB of it, then silence",
        large_then_silent(100),
        ("408", "503"),
        seconds=130,
    ),
    Attack(
        "uploads-2kb",
        "100 uploads at 2 kB a second, for 45 s",
        dripping(100, 45, b"x" * 2000),
        ("408", "503", "still taken"),
        seconds=80,
    ),
    Attack(
        "uploads-40x64", "40 uploads of 64 MB at once", uploads(40, 64), ("200", "503"), seconds=200, waits=UPLOADS_WAIT
    ),
    Attack(
        "uploads-50x200",
        "50 uploads of 200 MB at once",
        uploads(50, 200),
        ("200", "503"),
        seconds=240,
        waits=UPLOADS_WAIT,
    ),
    Attack(
        "uploads-chunked",
        "50 uploads of 200 MB at once, without Content-Length",
        uploads(50, 200, chunked=True),
        ("200", "503"),
        seconds=240,
        waits=UPLOADS_WAIT,
    ),
    Attack(
        "uploads-slow",
        "50 uploads of 200 MB at once, 1 MB a second each",
        uploads(50, 200, rate=1),
        ("503", "left half-way"),
        seconds=120,
        waits=UPLOADS_WAIT,
    ),
    Attack("slow-readers", "50 slow readers of a file of 200 MB", slow_readers(50, _content), ("left half-way",)),
    Attack("slow-results", "50 slow readers of `/results`", slow_readers(50, _results), ("left half-way",)),
    Attack(
        "gzip-bomb", "1 GB of zeros packed as 1 MB, `Content-Encoding: gzip`", requests(deflated), ("400", "413", "415")
    ),
    Attack(
        "brackets-16mb",
        "online chat of 16 MB of nested brackets, 4 times",
        posts(CHAT, lambda: _brackets(8_000_000), times=4),
        ("400", "413"),
        at_most=1,
    ),
    Attack(
        "objects-16mb",
        "online chat with 16 MB of `{}`, 4 times",
        posts(CHAT, lambda: _empty_objects(16_000_000), times=4),
        ("400", "413"),
        at_most=2,
    ),
    Attack(
        "keys-16mb",
        "online chat with one member a million times",
        posts(CHAT, lambda: _twice(16_000_000)),
        ("200", "400"),
        at_most=2,
    ),
    Attack("form-parts", "forms of 10,000 parts, 8 times", requests(_many_parts(10_000)), ("400",)),
    Attack(
        "form-headers", "forms with 1 MB of part headers, 8 times", requests(_part_headers(1_000_000)), ("400", "413")
    ),
    Attack(
        "form-without-end",
        "forms of 10 MB without a last boundary, 16 times",
        requests(_without_end),
        ("400", "503"),
        waits=UPLOADS_WAIT,
    ),
    Attack("file-names", "file names of 64 kB, of zeros, of `../`", requests(_file_names), ("200", "400", "413")),
    Attack("content-length", "uploads that announce 10^18 bytes", requests(_huge), ("400", "413"), at_most=1),
    Attack("ranges", "600 odd ranges of a file", ranges(100), ("200", "206", "400", "416")),
)
