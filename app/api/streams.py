"""Answers whose body is made part by part."""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Self

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

JSONL = "application/jsonl"


@asynccontextmanager
async def closing(parts: AsyncIterator[bytes]) -> AsyncIterator[None]:
    """Closes the source of the parts when the block ends, so that work stops once no client waits for it."""
    try:
        yield
    finally:
        if isinstance(parts, AsyncGenerator):
            await parts.aclose()


class PartsResponse(StreamingResponse):
    """Streams parts; for HEAD it sends the headers alone. Its source is closed whatever happens."""

    def __init__(
        self, first: bytes, rest: AsyncIterator[bytes], status: int, headers: Mapping[str, str], media_type: str | None
    ) -> None:
        super().__init__(_chained(first, rest), status, headers, media_type)
        self._rest = rest

    @classmethod
    async def start(
        cls,
        parts: AsyncIterator[bytes],
        *,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        media_type: str | None = None,
    ) -> Self:
        """Waits for the first part: what fails before it is told as an error, not as a 200 that breaks off."""
        first = await anext(parts, b"")
        return cls(first, parts, status, headers or {}, media_type)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with closing(self._rest):
            if scope["method"] == "HEAD":
                self.body_iterator = _nothing()
            await super().__call__(scope, receive, send)


async def _chained(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for part in rest:
        yield part


async def _nothing() -> AsyncIterator[bytes]:
    return
    yield
