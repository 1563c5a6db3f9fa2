"""Connections and HTTP: slow, many, broken, and not HTTP at all."""

import asyncio
import contextlib
from collections.abc import Callable

from tests.siege.attack import (
    BATCHES,
    CHAT,
    CUT_OFF,
    NO_ANSWER,
    Attack,
    Fire,
    Loot,
    Prepare,
    Target,
    chat_body,
    requests,
)

HOLD_SECONDS = 25.0
LOOK_SECONDS = 5.0
PIPELINED = 5000

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "BREW")


def slow_headers(count: int) -> Prepare:
    """A header line each few seconds, and no end."""

    async def prepare(target: Target) -> Fire:
        start = f"POST {CHAT} HTTP/1.1\r\nHost: 127.0.0.1:{target.port}\r\n".encode()
        return lambda: _held(target, count, start, b"X-Slow: 1\r\n")

    return prepare


def idle(count: int) -> Prepare:
    """Connections that are kept alive and say nothing more."""

    async def prepare(target: Target) -> Fire:
        request = target.request("GET", "/livez", connection="keep-alive")
        return lambda: _held(target, count, request, b"")

    return prepare


def pipelined(number: int) -> Prepare:
    """Thousands of requests on one connection, and none of the answers taken for a while."""

    async def prepare(target: Target) -> Fire:
        request = target.request("GET", "/v1/models", connection="keep-alive") * number

        async def fire() -> Loot:
            reader, writer = await target.connect()
            writer.write(request)
            await asyncio.sleep(LOOK_SECONDS)
            loot, rest = Loot(), b""
            with contextlib.suppress(TimeoutError, OSError):
                async with asyncio.timeout(45):
                    while loot.outcomes["200"] < number and (data := await reader.read(256 * 1024)):
                        loot.bytes += len(data)
                        answers = (rest + data).split(b"HTTP/1.1 200 OK")
                        loot.outcomes["200"] += len(answers) - 1
                        rest = answers[-1][-20:]
            writer.transport.abort()
            return loot

        return fire

    return prepare


def _heads(target: Target) -> list[bytes]:
    many = "".join(f"X-{each}: 1\r\n" for each in range(10_000))
    start = f"GET /v1/models HTTP/1.1\r\nHost: 127.0.0.1:{target.port}\r\n"
    bodies = [
        f"{start}X-Long: {'x' * 1_000_000}\r\n\r\n",
        f"{start}{many}\r\n",
        f"GET /{'a' * 1_000_000} HTTP/1.1\r\n\r\n",
    ]
    return [each.encode() for each in bodies] * 8


def _no_http(target: Target) -> list[bytes]:
    """HTTP/0.9, a TLS hello, HTTP/2's preface, SSH, zeros, two lengths, a length and chunks, odd chunks."""
    start = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\n"
    return [
        b"GET /\r\n",
        bytes.fromhex("16030100f8010000f40303") + bytes(244),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9),
        b"SSH-2.0-OpenSSH_9.2\r\n",
        bytes(100_000),
        f"{start}Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!".encode(),
        f"{start}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".encode(),
        f"{start}Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\nx".encode(),
        f"{start}Content-Length: -1\r\n\r\n".encode(),
    ]


def _impatient(target: Target) -> list[bytes]:
    return [target.post(CHAT, chat_body(max_tokens=64, ignore_eos=True), x_request_timeout_seconds="0.001")] * 8


def _impatient_without_key(target: Target) -> list[bytes]:
    stranger = Target(target.port)
    return [stranger.post(CHAT, chat_body(), x_request_timeout_seconds=each) for each in ("0.001", "0", "-1", "x")] * 4


def serves_own(paths: tuple[str, ...]) -> Prepare:
    """What Serve's proxy answers by itself, asked by every method and without a key."""

    async def prepare(target: Target) -> Fire:
        stranger = Target(target.port)

        async def fire() -> Loot:
            loot = Loot()
            for path in paths:
                for method in METHODS:
                    answer = await stranger.exchange(stranger.request(method, path), patience=10)
                    loot.bytes += answer.size
                    loot.outcomes[f"{'GET' if method in ('GET', 'HEAD') else 'other'} {answer.outcome}"] += 1
            return loot

        return fire

    return prepare


def websockets(number: int) -> Prepare:
    """Offers to upgrade; each must be answered in JSON, as everything else is."""

    async def prepare(target: Target) -> Fire:
        offer = {
            "connection": "Upgrade",
            "upgrade": "websocket",
            "sec_websocket_key": "dGhlIHNhbXBsZSBub25jZQ==",
            "sec_websocket_version": "13",
        }
        made = [target.request("GET", path, b"", **offer) for path in ("/v1/realtime", "/", CHAT)] * number

        async def fire() -> Loot:
            loot = Loot()
            for request in made:
                answer = await target.exchange(request, patience=10)
                loot.bytes += answer.size
                kind = "JSON" if answer.body.startswith(b"{") else "no JSON"
                loot.outcomes[f"{answer.outcome}, {kind}"] += 1
            return loot

        return fire

    return prepare


def leaving(count: int) -> Prepare:
    """Clients that leave while they are worked for; half of them in the middle of their body."""

    async def prepare(target: Target) -> Fire:
        whole = target.post(CHAT, chat_body(max_tokens=900, ignore_eos=True))
        half = target.post(BATCHES, b" " * 1000)[:-500]

        async def leave(request: bytes) -> None:
            _, writer = await target.connect()
            writer.write(request)
            await writer.drain()
            await asyncio.sleep(0.5)
            writer.transport.abort()

        async def fire() -> Loot:
            await asyncio.gather(*(leave(half if each % 2 else whole) for each in range(count)))
            loot = Loot()
            loot.outcomes["left"] = count
            return loot

        return fire

    return prepare


async def _held(target: Target, count: int, start: bytes, more: bytes) -> Loot:
    """So many connections at once, each with `more` from time to time."""
    loot, held = Loot(), []
    for _ in range(count):
        try:
            reader, writer = await target.connect()
        except OSError:
            loot.outcomes["not let in"] += 1
            continue
        writer.write(start)
        held.append((reader, writer))
    for _ in range(int(HOLD_SECONDS / LOOK_SECONDS)):
        await asyncio.sleep(LOOK_SECONDS)
        for _, writer in held:
            with contextlib.suppress(OSError):
                writer.write(more)
    for reader, writer in held:
        loot.outcomes["closed" if reader.at_eof() or writer.is_closing() else "held"] += 1
        writer.transport.abort()
    return loot


def odd_bytes(make: Callable[[Target], list[bytes]]) -> Prepare:
    return requests(make, patience=10)


ATTACKS = (
    Attack("slow-headers", "500 clients that send a header line each 5 s", slow_headers(500), ("held", "closed")),
    Attack("idle-connections", "3,000 connections kept alive and idle", idle(3000), ("held", "closed")),
    Attack("pipelined", f"{PIPELINED:,} requests on one connection, answers not taken", pipelined(PIPELINED), ("200",)),
    Attack(
        "huge-heads",
        "headers of 1 MB, 10,000 headers, a URL of 1 MB",
        requests(_heads),
        ("200", "400", "404", "413", "414", "431", CUT_OFF),
    ),
    Attack(
        "no-http",
        "HTTP/0.9, a TLS hello, an HTTP/2 preface, two lengths",
        odd_bytes(_no_http),
        ("400", CUT_OFF, NO_ANSWER),
    ),
    Attack("impatient", "`x-request-timeout-seconds: 0.001`, with a key", requests(_impatient), ("200",)),
    Attack("impatient-stranger", "the same without a key", requests(_impatient_without_key), ("401",), at_most=1),
    Attack(
        "serves-own",
        "`/-/routes` and `/-/healthz` without a key, by every method",
        serves_own(("/-/routes", "/-/healthz")),
        ("GET 200", "GET 401", "GET 404", "other 400", "other 401", "other 404", "other 405"),
    ),
    Attack(
        "websocket",
        "30 offers of a websocket",
        websockets(10),
        ("400, JSON", "403, JSON", "404, JSON", "405, JSON", "426, JSON"),
    ),
    Attack("leaving", "80 clients that leave while they are worked for", leaving(80), ("left",)),
)
