"""What an attack is, and what those who write one need. All of it runs in the attacker's own process.

Standard library only: the attacker shares two cores with whom it attacks, and is to spend as little as it can.
"""

import asyncio
import contextlib
import json
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
RESPONSES = "/v1/responses"
EMBEDDINGS = "/v1/embeddings"
FILES = "/v1/files"
BATCHES = "/v1/batches"

MODEL = "tiny"
BOUNDARY = "----siege"
FINAL = ("completed", "failed", "expired", "cancelled")
POLL_SECONDS = 0.25

HEAD_END = b"\r\n\r\n"
READ_BYTES = 256 * 1024
KEPT_BYTES = 1024 * 1024
"""Of an answer the rest is counted and dropped."""

CUT_OFF, NO_ANSWER, NOT_LET_IN = "cut off", "no answer", "not let in"
"""What stands in the place of a status: closed without an answer, silent for as long as was waited, no connection."""


@dataclass
class Answer:
    outcome: str
    """The status, or one of the words above."""
    head: bytes = b""
    body: bytes = b""
    size: int = 0
    """Bytes of head and body."""
    seconds: float = 0.0

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Loot:
    """What the attacker got. `outcomes`: how many answers of each kind."""

    outcomes: Counter[str] = field(default_factory=Counter)
    bytes: int = 0
    slowest: float = 0.0
    note: str = ""

    def add(self, answer: Answer) -> None:
        self.outcomes[answer.outcome] += 1
        self.bytes += answer.size
        self.slowest = max(self.slowest, answer.seconds)


Fire = Callable[[], Awaitable[Loot]]
Prepare = Callable[["Target"], Awaitable[Fire]]


@dataclass(frozen=True)
class Attack:
    """A row to be. `prepare` makes what is sent, in the attacker's process and before the time that is measured."""

    name: str
    fault: str
    prepare: "Prepare"
    gets: Collection[str]
    """The only outcomes that it may have."""
    at_most: float | None = None
    """Seconds that its slowest answer may take; None: as long as it likes."""
    seconds: float = 60.0
    """After which it is broken off."""
    waits: Collection[str] = ()
    """Kinds of the honest client's requests that this attack may keep waiting: it takes a place that others need."""
    keyless: bool = False
    """Against a server without keys."""


@dataclass(frozen=True)
class Target:
    """The server under siege. `key` None: it has none."""

    port: int
    key: str | None = None

    def request(self, method: str, path: str, body: bytes = b"", **headers: str) -> bytes:
        """The bytes of a request that is the last of its connection. Headers: `content_type`, or None: not sent."""
        return self.head(method, path, len(body), **headers) + body

    def head(self, method: str, path: str, length: int | None, **headers: str) -> bytes:
        """`length` None: the body is chunked."""
        fields: dict[str, str] = {"host": f"127.0.0.1:{self.port}", "connection": "close"}
        if self.key is not None:
            fields["authorization"] = f"Bearer {self.key}"
        fields |= {"transfer-encoding": "chunked"} if length is None else {"content-length": str(length)}
        fields |= {name.replace("_", "-"): value for name, value in headers.items()}
        lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items() if value)]
        return "\r\n".join([*lines, "", ""]).encode()

    def post(self, path: str, value: Any, **headers: str) -> bytes:
        """A JSON request; `value` may be its bytes."""
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        return self.request("POST", path, body, **{"content_type": "application/json", **headers})

    def upload(self, data: bytes, name: str = "siege.jsonl", purpose: str = "batch", **headers: str) -> bytes:
        before, after = form(name, purpose)
        return self.request("POST", FILES, before + data + after, **{"content_type": FORM, **headers})

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def exchange(self, *parts: bytes | Iterable[bytes], patience: float = 60.0) -> Answer:
        """Sends and reads at once, since a refusal may come before the body is through."""
        started = time.monotonic()
        try:
            reader, writer = await self.connect()
        except OSError:
            return Answer(NOT_LET_IN)
        sending = asyncio.create_task(_send(writer, parts))
        answer = Answer(CUT_OFF)
        try:
            async with asyncio.timeout(patience):
                await _read_into(answer, reader)
            answer.outcome = _status(answer.head)
        except TimeoutError:
            answer.outcome = f"{_status(answer.head)}, unfinished" if answer.head else NO_ANSWER
        except OSError:
            answer.outcome = _status(answer.head)
        sending.cancel()
        writer.transport.abort()
        answer.seconds = time.monotonic() - started
        return answer

    async def volley(
        self,
        requests: Iterable[bytes],
        at_once: int = 8,
        patience: float = 60.0,
        seen: Callable[[Answer], object] = lambda answer: None,
    ) -> Loot:
        """All of them, so many at a time, each on a connection of its own. Each answer is shown to `seen`."""
        loot, waiting = Loot(), iter(requests)

        async def client() -> None:
            for request in waiting:
                answer = await self.exchange(request, patience=patience)
                loot.add(answer)
                seen(answer)

        await asyncio.gather(*(client() for _ in range(at_once)))
        return loot

    async def ask(self, request: bytes) -> Any:
        """JSON that is needed to go on. Raises ValueError on anything but a 200."""
        answer = await self.exchange(request)
        if answer.outcome != "200":
            raise ValueError(f"{request[:60]!r} was answered {answer.outcome} {answer.body[:300]!r}")
        return answer.json()

    async def uploaded(self, data: bytes, purpose: str = "batch") -> str:
        return str((await self.ask(self.upload(data, purpose=purpose)))["id"])

    def new_batch(self, file_id: str, endpoint: str = CHAT, **members: Any) -> bytes:
        body = {"input_file_id": file_id, "endpoint": endpoint, "completion_window": "24h", **members}
        return self.post(BATCHES, body)

    async def finished(self, batch_id: str) -> dict[str, Any]:
        while True:
            batch: dict[str, Any] = await self.ask(self.request("GET", f"{BATCHES}/{batch_id}"))
            if batch["status"] in FINAL:
                return batch
            await asyncio.sleep(POLL_SECONDS)


FORM = f"multipart/form-data; boundary={BOUNDARY}"


def form(name: str, purpose: str) -> tuple[bytes, bytes]:
    """What stands before a file's bytes in the form of an upload, and what after."""
    start = f"--{BOUNDARY}\r\nContent-Disposition: form-data; "
    before = f'{start}name="purpose"\r\n\r\n{purpose}\r\n{start}name="file"; filename="{name}"\r\n\r\n'
    return before.encode(), f"\r\n--{BOUNDARY}--\r\n".encode()


def chat_body(**members: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": [{"role": "user", "content": "Go."}], "max_tokens": 8, **members}


def line(custom_id: str, body: dict[str, Any], url: str = CHAT) -> bytes:
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": url, "body": body}).encode() + b"\n"


def requests(make: Callable[[Target], Sequence[bytes]], at_once: int = 8, patience: float = 60.0) -> Prepare:
    """The attack that is a volley of requests."""

    async def prepare(target: Target) -> Fire:
        made = make(target)
        return lambda: target.volley(made, at_once, patience)

    return prepare


def posts(path: str, *bodies: Any, times: int = 1, at_once: int = 8) -> Prepare:
    """The attack that posts each of these bodies so many times. A callable makes its body in the attacker's process."""

    def make(target: Target) -> list[bytes]:
        return [target.post(path, body() if callable(body) else body) for body in bodies] * times

    return requests(make, at_once)


async def _send(writer: asyncio.StreamWriter, parts: Sequence[bytes | Iterable[bytes]]) -> None:
    with contextlib.suppress(OSError):
        for part in parts:
            for piece in [part] if isinstance(part, bytes) else part:
                writer.write(piece)
                await writer.drain()


async def _read_into(answer: Answer, reader: asyncio.StreamReader) -> None:
    """Until the answer has its length, or the server closes the connection."""
    length: int | None = None
    async for data in _chunks(reader):
        answer.size += len(data)
        if not answer.head.endswith(HEAD_END):
            head, end, data = (answer.head + data).partition(HEAD_END)
            answer.head = head + end
            length = _length(answer.head)
        answer.body += data[: KEPT_BYTES - len(answer.body)]
        if answer.head.endswith(HEAD_END) and length is not None and answer.size >= len(answer.head) + length:
            return


def _length(head: bytes) -> int | None:
    found = re.search(rb"\r\ncontent-length: *(\d+)\r\n", head, re.IGNORECASE)
    return int(found[1]) if found else None


async def _chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while data := await reader.read(READ_BYTES):
        yield data


def _status(head: bytes) -> str:
    words = head.split(maxsplit=2)
    return words[1].decode() if len(words) > 1 and words[0].startswith(b"HTTP/") else CUT_OFF
