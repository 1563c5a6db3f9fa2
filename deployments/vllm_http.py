"""A request to vLLM's own HTTP app, in the process that has it: all of its endpoints, validation and error bodies."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from deployments.messages import HttpStart

LEAVE_SECONDS = 1.0
"""How long vLLM's HTTP app may take to notice that a client left."""

Headers = list[tuple[bytes, bytes]]


async def post(app: Any, path: str, body: bytes, headers: Headers) -> AsyncGenerator[HttpStart | bytes, None]:
    """A POST to an ASGI app in this process. Closing the generator is a client that leaves: it ends the request."""
    messages: asyncio.Queue[Any] = asyncio.Queue(maxsize=16)
    left = asyncio.Event()
    sent = False

    async def receive() -> dict[str, Any]:
        nonlocal sent
        if sent:
            await left.wait()
            return {"type": "http.disconnect"}
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    async def serve() -> None:
        try:
            await app(_scope(path, body, headers), receive, messages.put)
        finally:
            if not left.is_set():
                await messages.put(None)

    task = asyncio.create_task(serve())
    try:
        while (message := await messages.get()) is not None:
            if message["type"] == "http.response.start":
                pairs = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in message["headers"]]
                yield HttpStart(message["status"], pairs)
            elif message.get("body"):
                yield message["body"]
        await task
    finally:
        # vLLM runs its handlers in tasks of their own, which end when the client leaves and not when we cancel ours.
        left.set()
        await asyncio.wait([task], timeout=LEAVE_SECONDS)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _scope(path: str, body: bytes, headers: Headers) -> dict[str, Any]:
    kept = [(name, value) for name, value in headers if name not in (b"content-length", b"host", b"authorization")]
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [*kept, (b"host", b"engine"), (b"content-length", str(len(body)).encode())],
        "client": ("127.0.0.1", 0),
        "server": ("engine", 80),
        "state": {},
    }
