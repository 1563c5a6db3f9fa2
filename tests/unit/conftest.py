"""The API over a real SQLite and a real folder of objects; only health and engines are made up."""

import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from starlette.applications import Starlette

from app.api.app import build_app
from app.objects import Objects
from app.settings import Settings
from app.store import File, Store
from tests.unit.fakes import START, AddResultFile, Clock, FakeEngines, FakeHealth, MakeClient, Upload, client_of
from tests.unit.yard import Yard


@pytest.fixture(autouse=True)
def quick_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    """The dispatcher's loops without their pauses, most of the seconds of the tests that run them."""
    for pause in ("RENEW_SECONDS", "SWEEP_SECONDS", "RETRY_SECONDS"):
        monkeypatch.setattr(f"app.batch.loops.{pause}", 0.05)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def make_settings(tmp_path: Path) -> Callable[..., Settings]:
    """Settings with two models, `good` with the adapter `polite`, and `other/model`, unless told otherwise."""

    def make(**args: Any) -> Settings:
        good = {"id": "good", "source": "/models/good", "adapters": {"polite": "/adapters/polite"}}
        models = [good, {"id": "other/model", "source": "/models/other"}]
        return Settings.load({"models": models, "data": str(tmp_path), **args}, environ={})

    return make


@pytest.fixture
def settings(make_settings: Callable[..., Settings]) -> Settings:
    return make_settings()


@pytest.fixture(scope="session")
def empty_ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated database to copy: migrating each test's own would be a third of their time."""
    path = tmp_path_factory.mktemp("ledger") / "empty.db"
    Store.open(f"sqlite:///{path}", Clock()).close()
    return path


@pytest.fixture
def store(settings: Settings, clock: Clock, empty_ledger: Path) -> Iterator[Store]:
    shutil.copy(empty_ledger, settings.data / "batchyard.db")
    store = Store.open(settings.database_url, clock)
    yield store
    store.close()


@pytest.fixture
def objects(settings: Settings) -> Objects:
    return Objects(settings.objects_url)


@pytest.fixture
def health(settings: Settings) -> FakeHealth:
    health = FakeHealth({})
    for model in settings.models:
        health.set(model.id, 1)
    return health


@pytest.fixture
def engines() -> FakeEngines:
    return FakeEngines()


@pytest.fixture
def make_app(
    store: Store, objects: Objects, health: FakeHealth, engines: FakeEngines, clock: Clock, settings: Settings
) -> Callable[..., Starlette]:
    """The application; keyword arguments take the place of what it is built from."""

    def make(**parts: Any) -> Starlette:
        given = {"settings": settings, "store": store, "objects": objects, "health": health, "engines": engines}
        return build_app(**{**given, "now": clock, **parts})

    return make


@pytest.fixture
def app(make_app: Callable[..., Starlette]) -> Starlette:
    return make_app()


@pytest.fixture
async def client(app: Starlette) -> AsyncIterator[httpx2.AsyncClient]:
    async with client_of(app) as client:
        yield client


@pytest.fixture
async def make_client(
    make_app: Callable[..., Starlette], make_settings: Callable[..., Settings]
) -> AsyncIterator[MakeClient]:
    """A client of an application with other settings: make_client(api_keys=["k"])."""
    made: list[httpx2.AsyncClient] = []

    def make(**args: Any) -> httpx2.AsyncClient:
        made.append(client_of(make_app(settings=make_settings(**args))))
        return made[-1]

    yield make
    for client in made:
        await client.aclose()


@pytest.fixture
def upload(client: httpx2.AsyncClient) -> Upload:
    """Uploads content as a batch file and gives the file object."""

    async def send(content: bytes = b"{}\n", filename: str = "in.jsonl", **fields: str) -> dict[str, Any]:
        data = {"purpose": "batch", **fields}
        answer = await client.post("/v1/files", data=data, files={"file": (filename, content)})
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    return send


@pytest.fixture
def add_result_file(store: Store, objects: Objects) -> AddResultFile:
    """Puts a batch_output file there, as finalising does."""

    async def add(file_id: str, content: bytes) -> None:
        await objects.put(f"files/{file_id}", content)
        await store.add_file(
            File(file_id, "default", "batch_output", "out.jsonl", len(content), f"files/{file_id}", START)
        )

    return add


@pytest.fixture
def yard(tmp_path: Path) -> Iterator[Yard]:
    made = Yard(tmp_path)
    yield made
    made.store.close()
