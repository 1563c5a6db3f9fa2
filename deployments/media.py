"""How an engine fetches media: from the hosts that its model names, at public addresses, and at no other.

vLLM asks for a host once, of the first URL, and an empty list lets all pass. Here the host is looked at for each
request, those that follow a redirect among them, and the address for each connection, after the name was resolved: a
name that stands for another address a moment later is of no use. The environment variable VLLM_MEDIA_CONNECTOR has vLLM
take this one, in the process that imports this module.
"""

import socket
from functools import cache
from typing import Any

import aiohttp
from vllm.connections import HTTPConnection
from vllm.exceptions import VLLMValidationError
from vllm.multimodal.media import MEDIA_CONNECTOR_REGISTRY, MediaConnector

from app.media import host_refusal, is_public

VARIABLE = "VLLM_MEDIA_CONNECTOR"
NAME = "batchyard"


class MediaRefused(VLLMValidationError):
    """vLLM answers it with a 400, and does not try again."""


@MEDIA_CONNECTOR_REGISTRY.register(NAME)
class GuardedConnector(MediaConnector):
    """Fetches from `allowed_media_domains`, and reads no files of this machine."""

    def __init__(
        self, media_io_kwargs: Any = None, *, allowed_media_domains: list[str] | None = None, **_: Any
    ) -> None:
        super().__init__(media_io_kwargs, _connection(tuple(allowed_media_domains or ())))


class GuardedConnection(HTTPConnection):
    """Without the proxy that the environment may name: it would resolve names itself, and we not see the address."""

    def __init__(self, allowed: tuple[str, ...]) -> None:
        super().__init__()
        self._allowed = allowed
        self._session: aiohttp.ClientSession | None = None

    def get_sync_client(self) -> Any:
        raise MediaRefused("Media are fetched by the server's event loop alone.")

    async def get_async_client(self) -> aiohttp.ClientSession:
        if self._session is None:
            # One address after the other: in a race of several, a refusal would be lost.
            connector = aiohttp.TCPConnector(socket_factory=_public_socket, happy_eyeballs_delay=None)
            self._session = aiohttp.ClientSession(connector=connector, middlewares=(self._from_allowed_hosts,))
        return self._session

    async def _from_allowed_hosts(
        self, request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        if (why := host_refusal(request.url.host or "", self._allowed)) is not None:
            raise MediaRefused(why)
        return await send(request)


@cache
def _connection(allowed: tuple[str, ...]) -> GuardedConnection:
    """One for all requests: vLLM makes a connector for each."""
    return GuardedConnection(allowed)


def _public_socket(info: aiohttp.AddrInfoType) -> socket.socket:
    """aiohttp calls it with each address right before it connects there."""
    family, kind, protocol, _, address = info
    if not is_public(str(address[0])):
        raise MediaRefused("The host of this URL is not on the public internet, so no media are fetched from it.")
    return socket.socket(family=family, type=kind, proto=protocol)
