"""What stands between Serve's proxy and the network."""

import asyncio
import json
from collections.abc import Callable, Iterable

import pytest
import uvicorn.config
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api import taken
from app.api.pace import Pace
from app.api.taken import TAKEN, TellTaken
from deployments import proxy, proxy_answers, small_bodies
from tests.unit.serve import WithWindows
from tests.unit.waiting import until

Headers = list[tuple[bytes, bytes]]


@pytest.fixture
def wrapped(monkeypatch: pytest.MonkeyPatch) -> Callable[[ASGIApp], ASGIApp]:
    monkeypatch.setitem(uvicorn.config.HTTP_PROTOCOLS, "auto", uvicorn.config.HTTP_PROTOCOLS["auto"])

    def wrap(app: ASGIApp) -> ASGIApp:
        for middleware in proxy.middlewares():
            app = middleware.cls(app, *middleware.args, **middleware.kwargs)
        return app

    return wrap


async def asked(
    app: ASGIApp,
    headers: Iterable[tuple[bytes, bytes]] = (),
    method: str = "GET",
    path: str = "/",
    body: Iterable[bytes] = (b"",),
    ended: bool = True,
) -> list[Message]:
    """The messages of the answer. A body that has not `ended` stands still after these parts of it."""
    sent: list[Message] = []
    parts = list(body)
    incoming: asyncio.Queue[Message] = asyncio.Queue()
    for number, part in enumerate(parts, 1):
        more = number < len(parts) or not ended
        incoming.put_nowait({"type": "http.request", "body": part, "more_body": more})

    async def send(message: Message) -> None:
        sent.append(message)

    await app({"type": "http", "method": method, "path": path, "headers": list(headers)}, incoming.get, send)
    return sent


def ids(start: Message) -> list[str]:
    return [value.decode() for name, value in start["headers"] if name.lower() == b"x-request-id"]


def serve(status: int, *headers: tuple[bytes, bytes], seen: Headers | None = None) -> ASGIApp:
    """Serve's proxy with its own middleware, which adds the id of the request to each answer."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if seen is not None:
            seen.extend(scope["headers"])
        own = dict(scope["headers"])[b"x-request-id"]
        await send({"type": "http.response.start", "status": status, "headers": [*headers, (b"x-request-id", own)]})
        await send({"type": "http.response.body", "body": b"text"})

    return app


async def test_an_answer_has_one_id_and_serve_and_gateway_see_it(wrapped: Callable[[ASGIApp], ASGIApp]) -> None:
    seen: Headers = []
    app = wrapped(serve(200, (b"x-request-id", b"the gateway's"), seen=seen))
    start, _ = await asked(app, [(b"x-request-id", b"mine")])
    assert ids(start) == ["mine"] == [value.decode() for name, value in seen if name == b"x-request-id"]


@pytest.mark.parametrize("given", [b"a\xffb", b"a b", b"x" * 200])
async def test_an_id_that_is_no_good_is_replaced_before_serve_sees_it(
    wrapped: Callable[[ASGIApp], ASGIApp], given: bytes
) -> None:
    seen: Headers = []
    start, _ = await asked(wrapped(serve(200, seen=seen)), [(b"x-request-id", given)])
    (own,) = ids(start)
    assert own.startswith("req_")
    assert [value.decode() for name, value in seen if name == b"x-request-id"] == [own]


async def test_the_proxys_own_errors_have_envelope_and_id(wrapped: Callable[[ASGIApp], ASGIApp]) -> None:
    start, body = await asked(wrapped(serve(500, (b"content-type", b"text/plain"))))
    assert start["status"] == 503
    assert len(ids(start)) == 1
    assert json.loads(body["body"])["error"] == {
        "message": proxy_answers.WORDS[503],
        "type": "service_unavailable_error",
        "param": None,
        "code": None,
    }


async def test_clients_set_no_limits_of_serve(wrapped: Callable[[ASGIApp], ASGIApp]) -> None:
    seen: Headers = []
    theirs = [(name, b"1") for name in (*proxy.SERVES_OWN, b"x-mine")]
    await asked(wrapped(serve(200, seen=seen)), theirs)
    assert [name for name, _ in seen] == [b"x-mine", b"x-request-id"]


def hidden(swallow: bool) -> ASGIApp:
    """Serve without a gateway: it waits, and when it is cancelled it may end as if its client had left."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if not swallow:
                raise

    return app


@pytest.mark.parametrize("swallow", [True, False])
async def test_a_request_that_nobody_takes_is_a_503(
    wrapped: Callable[[ASGIApp], ASGIApp], monkeypatch: pytest.MonkeyPatch, swallow: bool
) -> None:
    monkeypatch.setattr(proxy, "TAKE_SECONDS", 0.01)
    start, body = await asked(wrapped(hidden(swallow)))
    assert (start["status"], dict(start["headers"])[b"retry-after"]) == (503, b"5")
    assert json.loads(body["body"])["error"]["message"] == proxy_answers.WORDS[503]
    assert len(ids(start)) == 1


async def test_a_request_that_is_taken_may_take_its_time(
    wrapped: Callable[[ASGIApp], ASGIApp], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proxy, "TAKE_SECONDS", 0.2)
    monkeypatch.setattr(taken, "TELL_SECONDS", 0.0)
    told = asyncio.Event()

    async def gateway(scope: Scope, receive: Receive, send: Send) -> None:
        with pytest.raises(TimeoutError):  # this is how long it thinks
            async with asyncio.timeout(0.4):
                await asyncio.Event().wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"late"})

    def noticing(app: ASGIApp) -> ASGIApp:
        async def between(scope: Scope, receive: Receive, send: Send) -> None:
            async def forward(message: Message) -> None:
                if message["type"] == TAKEN:
                    told.set()
                await send(message)

            await app(scope, receive, forward)

        return between

    start, body = await asked(wrapped(noticing(TellTaken(gateway))))
    assert told.is_set()
    assert (start["status"], body["body"]) == (200, b"late")


async def test_a_proxy_that_does_not_ask_is_told_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(taken, "TELL_SECONDS", 0.0)

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        for _ in range(5):
            await asyncio.sleep(0)
        await serve(200)({**scope, "headers": [(b"x-request-id", b"a")]}, receive, send)

    assert [message["type"] for message in await asked(TellTaken(slow))] == [
        "http.response.start",
        "http.response.body",
    ]


@pytest.mark.parametrize("path", ["/-/routes", "/-/healthz"])
async def test_serves_own_paths_are_for_reading_alone(wrapped: Callable[[ASGIApp], ASGIApp], path: str) -> None:
    app = wrapped(serve(200))
    for method in ("GET", "HEAD"):
        assert (await asked(app, method=method, path=path))[0]["status"] == 200
    for method in ("POST", "DELETE", "OPTIONS", "BREW"):
        start, body = await asked(app, method=method, path=path)
        assert (start["status"], dict(start["headers"])[b"allow"]) == (405, b"GET, HEAD")
        assert json.loads(body["body"])["error"]["code"] == "method_not_allowed"


# Bodies


async def collected(receive: Receive) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message["body"], message["more_body"]
    return body


class Slots:
    """Serve and a gateway that reads bodies: how many requests have reached it, and what they said."""

    def __init__(self) -> None:
        self.reached = 0
        self.bodies: list[bytes] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.reached += 1
        self.bodies.append(await collected(receive))
        await serve(200)(scope, receive, send)


async def test_a_body_that_stands_still_takes_no_slot(
    wrapped: Callable[[ASGIApp], ASGIApp], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(small_bodies, "OTHERS", Pace(0.02, 1000))
    slots = Slots()
    app = wrapped(slots)
    answers = await asyncio.gather(*(asked(app, method="POST", body=[b"{"], ended=False) for _ in range(1100)))
    assert slots.reached == 0
    start, body = answers[0]
    assert (start["status"], dict(start["headers"])[b"connection"]) == (408, b"close")
    assert json.loads(body["body"])["error"]["code"] == "upload_stalled"
    assert len(ids(start)) == 1


async def test_a_small_body_arrives_whole(wrapped: Callable[[ASGIApp], ASGIApp]) -> None:
    slots = Slots()
    [start, _] = await asked(wrapped(WithWindows(slots)), method="POST", body=[b"a", b"", b"bc"])
    assert (start["status"], slots.bodies) == (200, [b"abc"])


async def test_large_bodies_that_stand_still_leave_slots_free(
    wrapped: Callable[[ASGIApp], ASGIApp], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(small_bodies, "LARGE_AT_ONCE", 2)
    monkeypatch.setattr(small_bodies, "PLACE_SECONDS", 0.05)
    slots = Slots()
    app = wrapped(WithWindows(slots))
    large = b"x" * small_bodies.SMALL_BYTES
    async with asyncio.TaskGroup() as group:
        standing = [group.create_task(asked(app, method="POST", body=[large], ended=False)) for _ in range(2)]
        await until(lambda: slots.reached == 2)
        [start, body] = await asked(app, method="POST", body=[large, b"y"])
        assert (start["status"], dict(start["headers"])[b"retry-after"]) == (503, b"5")
        assert json.loads(body["body"])["error"]["code"] == "too_many_large_bodies"
        assert (await asked(app, method="POST", body=[b"small"]))[0]["status"] == 200
        for each in standing:
            each.cancel()
        await asyncio.wait(standing)
    assert slots.reached == 3


async def test_a_large_body_that_was_read_makes_room_before_its_answer(
    wrapped: Callable[[ASGIApp], ASGIApp], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(small_bodies, "LARGE_AT_ONCE", 1)
    read, go_on = asyncio.Event(), asyncio.Event()

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        await collected(receive)
        read.set()
        await go_on.wait()
        await serve(200)(scope, receive, send)

    app = wrapped(WithWindows(slow))
    large = [b"x" * small_bodies.SMALL_BYTES, b"y"]
    async with asyncio.TaskGroup() as group:
        first = group.create_task(asked(app, method="POST", body=large))
        await read.wait()
        read.clear()
        second = group.create_task(asked(app, method="POST", body=large))
        await read.wait()
        go_on.set()
    assert [each.result()[0]["status"] for each in (first, second)] == [200, 200]


# Pages of other origins


async def test_the_proxys_own_answers_can_be_read_by_the_pages_that_the_gateway_allows(
    wrapped: Callable[[ASGIApp], ASGIApp],
) -> None:
    allowed = {b"https://chat.example"}
    up = True

    async def gateway(scope: Scope, receive: Receive, send: Send) -> None:
        if not up:
            await serve(500, (b"content-type", b"text/plain"))(scope, receive, send)
            return
        origin = dict(scope["headers"])[b"origin"]
        cors = [(b"access-control-allow-origin", origin), (b"vary", b"Origin")] if origin in allowed else []
        await serve(200, *cors)(scope, receive, send)

    async def readable(origin: bytes) -> bool:
        start, _ = await asked(app, [(b"origin", origin)])
        assert start["status"] == (200 if up else 503)
        return dict(start["headers"]).get(b"access-control-allow-origin") == origin

    app = wrapped(gateway)
    assert await readable(b"https://chat.example")
    assert not await readable(b"https://evil.example")
    up = False
    assert await readable(b"https://chat.example")
    assert not await readable(b"https://evil.example")
    up, allowed = True, set()
    assert not await readable(b"https://chat.example")
    up = False
    assert not await readable(b"https://chat.example")


def test_the_proxys_uvicorn_speaks_our_http(wrapped: Callable[[ASGIApp], ASGIApp]) -> None:
    wrapped(serve(200))
    config = uvicorn.Config(serve(200))
    config.load()
    assert config.http_protocol_class.__name__ == "Http1Protocol"
