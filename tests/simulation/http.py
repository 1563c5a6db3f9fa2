"""A client's request to a gateway: the real ASGI application, called in the gateway's process."""

import asyncio
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.simulation.loop import Process
from tests.simulation.network import Fate, Message

if TYPE_CHECKING:
    from tests.simulation.world import World

PATIENCE_SECONDS = 20.0


@dataclass(frozen=True)
class Response:
    status: int
    body: bytes

    def json(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body)
        return found


@dataclass(frozen=True)
class Gateway:
    process: Process
    app: Any


async def ask(
    world: "World", client: str, gateway: Gateway, method: str, path: str, body: bytes, headers: dict[str, str]
) -> Response:
    """Raises ConnectionError when the gateway dies, cuts the answer off or is not reached, and TimeoutError."""
    loop = asyncio.get_running_loop()
    network = world.network
    done: asyncio.Future[Response] = loop.create_future()
    message = Message(client, "http", method, path)
    fate = next((fate for each in network.meddlers if (fate := each.fate(message))), Fate())

    def arrive() -> None:
        if fate.refused is not None or gateway.process.dead:
            tell(None)
            return
        gateway.process.when_dead.append(lambda: network.later(0.01, tell, None))
        gateway.process.start(serve())

    async def serve() -> None:
        response = await _response(gateway.app, method, path, body, headers)
        network.later(network.latency() + fate.back, tell, None if fate.lost is not None else response)

    def tell(response: Response | None) -> None:
        if done.done():
            return
        if response is None:
            done.set_exception(ConnectionError(f"{gateway.process.name} broke off"))
        else:
            done.set_result(response)

    network.later(network.latency() + fate.there, arrive)
    async with asyncio.timeout(PATIENCE_SECONDS):
        response = await done
    if method != "GET":
        world.trace.note(client, f"{method} {path}", "→", str(response.status))
    return response


async def _response(app: Any, method: str, path: str, body: bytes, headers: dict[str, str]) -> Response | None:
    """None: the answer was cut off."""
    status, parts, sent, left = 0, bytearray(), False, asyncio.Event()
    whole = False

    async def receive() -> dict[str, Any]:
        nonlocal sent
        if sent:
            await left.wait()
            return {"type": "http.disconnect"}
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        nonlocal status, whole
        if message["type"] == "http.response.start":
            status = message["status"]
        else:
            parts.extend(message.get("body", b""))
            whole = not message.get("more_body", False)

    named = {**headers, "host": "127.0.0.1", "content-length": str(len(body))}
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(name.encode(), value.encode()) for name, value in named.items()],
        "client": ("127.0.0.1", 1),
        "server": ("batchyard", 80),
        "state": {},
    }
    try:
        await app(scope, receive, send)
    except Exception:  # noqa: BLE001  # the application logs it; its server cuts the connection
        return None
    return Response(status, bytes(parts)) if whole else None
