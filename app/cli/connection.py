"""Which server the commands speak to, and what they say when it refuses or does not answer."""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, TypeVar
from urllib.parse import urlsplit

import httpx
import typer
from openai import (
    APIConnectionError,
    APIError,
    APIStatusError,
    DefaultHttpxClient,
    InternalServerError,
    NotFoundError,
    OpenAI,
    RateLimitError,
)

from app.cli.console import fail, warn
from app.errors import SettingsError
from app.loopback import is_loopback

AWAY_SECONDS = 600.0
"""How long a server may be away before a command stops asking: a restart of everything takes a minute or two."""

RETRY_SECONDS = 2.0

ANSWER_SECONDS = 30.0
"""How long an answer may take to come, and to go on. A server that takes longer hangs."""

UPLOAD_SECONDS = 600.0
"""The same for an upload, which the server may have to pass on to a store before it answers."""

SERVER_HELP = "The server's URL. Default: BATCHYARD_SERVER, else OPENAI_BASE_URL, else this machine's."
ServerUrl = Annotated[str, typer.Option("--server", "--base-url", help=SERVER_HELP, show_default=False)]
ApiKey = Annotated[
    str, typer.Option(envvar="OPENAI_API_KEY", help="The server's API key, if it wants one.", show_default="none")
]

Answer = TypeVar("Answer")


class ServerAway(Exception):
    """The server did not answer for AWAY_SECONDS."""


@dataclass(frozen=True)
class Connection:
    """`url` ends with /v1; `key` may be empty: then none is sent."""

    url: str
    key: str

    @classmethod
    def of(cls, server: str, key: str) -> "Connection":
        """As option, environment and config say.

        Says so where OPENAI_BASE_URL decides: it may be set for somebody else. Raises SettingsError for a config that
        BATCHYARD_CONFIG names and that cannot be read.
        """
        if url := server or os.environ.get("BATCHYARD_SERVER", ""):
            return cls(_with_v1(url, "--server" if server else "BATCHYARD_SERVER"), key)
        if url := os.environ.get("OPENAI_BASE_URL", ""):
            connection = cls(_with_v1(url, "OPENAI_BASE_URL"), key)
            warn(f"Server: {connection.url}, from OPENAI_BASE_URL. BATCHYARD_SERVER or --server choose another.")
            return connection
        return cls(_with_v1(local_url(), "BATCHYARD_HOST and BATCHYARD_PORT"), key)

    @cached_property
    def client(self) -> OpenAI:
        return OpenAI(
            base_url=self.url,
            api_key=self.key or "none",  # the client wants some
            timeout=ANSWER_SECONDS,
            http_client=DefaultHttpxClient(
                # A proxy that the environment names would answer in place of a server on this machine.
                trust_env=not is_loopback(urlsplit(self.url).hostname or ""),
                event_hooks={} if self.key else {"request": [_without_key]},
            ),
        )

    @cached_property
    def once(self) -> OpenAI:
        """For `patiently`, which tries again itself and says so."""
        return self.client.with_options(max_retries=0)

    def post(self, path: str) -> object:
        """To a path beside /v1."""
        return self.client.with_options(base_url=self.url.removesuffix("/v1")).post(path, cast_to=object)

    def words(self, error: APIError) -> str:
        """What happened, and what to do."""
        if isinstance(error, APIConnectionError):
            why = f" ({error.__cause__})" if error.__cause__ else ""
            return (
                f"{self.url} does not answer{why}. `batchyard status` says whether this machine's server runs, "
                "`batchyard up` starts it; BATCHYARD_SERVER or --server name another."
            )
        if isinstance(error, APIStatusError) and error.status_code == 401:
            given = "does not take this API key" if self.key else "wants an API key"
            return f"{self.url} {given}. Give one that it knows as --api-key or OPENAI_API_KEY."
        return f"{self.url}: {_message(error)}"


@contextmanager
def answers(connection: Connection) -> Iterator[None]:
    """Ends the command in words when the server refuses, or does not answer."""
    try:
        yield
    except APIError as error:
        fail(connection.words(error))


def patiently(ask: Callable[[], Answer], on_away: Callable[[str], None], on_back: Callable[[], None]) -> Answer:
    """The answer, however often the server is away meanwhile. Raises ServerAway after AWAY_SECONDS of that.

    `on_away` is called with the reason, once; `on_back` at the first answer after it.
    """
    since: float | None = None
    while True:
        try:
            answer = ask()
        except (APIConnectionError, InternalServerError, RateLimitError, NotFoundError, httpx.TransportError) as error:
            if isinstance(error, NotFoundError) and error.param is not None:
                raise  # of the application: it knows no such thing. Serve says 404 as well until there is one
            if since is None:
                since = time.monotonic()
                on_away(_message(error))
            elif time.monotonic() - since > AWAY_SECONDS:
                raise ServerAway from error
            time.sleep(RETRY_SECONDS)
        else:
            if since is not None:
                on_back()
            return answer


def local_url(environ: Mapping[str, str] = os.environ) -> str:
    """Where `batchyard up` would serve from here. Raises SettingsError as Connection.of does."""
    from deployments.local.local_config import LocalConfig

    host, port = environ.get("BATCHYARD_HOST") or "127.0.0.1", environ.get("BATCHYARD_PORT") or "8000"
    try:
        config = LocalConfig.load(environ)
        host, port = config.host, str(config.port)
    except SettingsError:
        if environ.get("BATCHYARD_CONFIG"):
            raise
        # Not a folder that a server is started from: a local.yaml in it, if there is one, is of something else.
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # every address: also the loopback's
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def _with_v1(url: str, where_from: str) -> str:
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and parts.hostname and (parts.port is None or parts.port > 0)
    except ValueError:  # its port is not a number
        good = False
    if not good:
        raise typer.BadParameter(f"{url!r} (from {where_from}) is no URL such as http://127.0.0.1:8000")
    return f"{url.rstrip('/').removesuffix('/v1')}/v1"


def _without_key(request: httpx.Request) -> None:
    """No key was given, so none is sent: "needs an API key" is clearer than "incorrect key"."""
    request.headers.pop("Authorization", None)


def _message(error: Exception) -> str:
    body = error.body if isinstance(error, APIError) else None
    if isinstance(body, dict) and isinstance(body.get("message"), str):
        return str(body["message"])
    return str(error.__cause__ or error)
