"""How slowly a request's body may come. Light: Serve's proxy imports it, too."""

import asyncio
import time
from dataclasses import dataclass

from starlette.types import Message, Receive, Scope

UPLOAD_PATH = "/v1/files"

STALLED = "upload_stalled"
"""The code of the error, 408, with which a body is refused that came too slowly."""


@dataclass(frozen=True)
class Pace:
    """At least `bytes` of a body, or its end, come in each `seconds` that we wait for it."""

    seconds: float
    bytes: int


UPLOADS = Pace(60, 60 * 1024)
"""A kilobyte a second, which the slowest of mobile networks have, and pauses of most of a minute."""

OTHERS = Pace(30, 240 * 1024)
"""All but uploads are short: most are whole within the first 30 s, or too slow."""


def pace_of(scope: Scope) -> Pace:
    return UPLOADS if is_upload(scope) else OTHERS


def is_upload(scope: Scope) -> bool:
    """Whether the body is a file: it may be long, and whoever serves it reads it part by part."""
    return scope["method"] == "POST" and bool(scope["path"].endswith(UPLOAD_PATH))


class TooSlow(Exception):
    """The body of a request came more slowly than its pace allows. The message is for the client."""


class PacedBody:
    """A request's `receive` that keeps a pace. Only time in which we wait counts; what comes after the body is free."""

    def __init__(self, receive: Receive, pace: Pace) -> None:
        self._receive = receive
        self._pace = pace
        self._ended = False
        self._start_over()

    async def receive(self) -> Message:
        """Raises TooSlow."""
        if self._ended:
            return await self._receive()
        began = time.monotonic()
        try:
            async with asyncio.timeout(self._seconds_left):
                message = await self._receive()
        except TimeoutError as error:
            raise TooSlow(self._words()) from error
        self._seconds_left -= time.monotonic() - began
        self._bytes_missing -= len(message.get("body", b""))
        if self._bytes_missing <= 0:
            self._start_over()
        self._ended = not message.get("more_body", False)
        return message

    def _start_over(self) -> None:
        self._seconds_left = self._pace.seconds
        self._bytes_missing = self._pace.bytes

    def _words(self) -> str:
        return (
            f"The body of the request came too slowly: at least {self._pace.bytes} bytes, or its end, "
            f"are expected in each {self._pace.seconds:g} seconds."
        )
