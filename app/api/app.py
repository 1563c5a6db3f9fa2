"""The HTTP application: its resources, what stands around them, and how errors are answered."""

import time
from collections.abc import Callable

from starlette.applications import Starlette
from starlette.middleware import Middleware

from app.api.admin import Admin
from app.api.auth import RequireKey
from app.api.batches import Batches
from app.api.cors import Cors
from app.api.errors import HANDLERS
from app.api.files import Files
from app.api.health import Probes
from app.api.keyless import KeylessDoor
from app.api.metrics import Metrics
from app.api.models import Models
from app.api.observe import Observe
from app.api.online import Online, OnlineEngines
from app.api.openapi import Description
from app.api.slots import RequestSlots
from app.api.stalls import CutSlowBodies
from app.api.taken import TellTaken
from app.api.windows import GatewayWindows
from app.capabilities import CapabilitiesOf
from app.health import Health
from app.objects import Objects
from app.settings import Settings
from app.store import Store


def _unix_time() -> int:
    return int(time.time())


def build_app(
    settings: Settings,
    store: Store,
    objects: Objects,
    health: Health,
    engines: OnlineEngines,
    now: Callable[[], int] = _unix_time,
    batch_created: Callable[[], None] = lambda: None,
    capabilities: CapabilitiesOf = lambda model: None,
) -> Starlette:
    """An ASGI application over what the caller has opened and will close. `now`: whole unix seconds."""
    metrics = Metrics(store, health)
    resources = (
        Files(settings, store, objects, now),
        Batches(settings, store, objects, health, now, batch_created),
        Models(settings, now()),
        Online(settings, health, engines, capabilities),
        Admin(settings, store),
        Probes(settings, store, health),
        metrics,
        Description(),
    )
    app = Starlette(
        routes=[route for each in resources for route in each.routes()],
        middleware=_middleware(settings, metrics),
        exception_handlers=HANDLERS,
    )
    app.router.redirect_slashes = False  # OpenAI has one URL for each thing, and a client would drop the body
    return app


def _middleware(settings: Settings, metrics: Metrics) -> list[Middleware]:
    """The first is the outermost."""
    layers = [
        Middleware(GatewayWindows),
        Middleware(TellTaken),
        Middleware(Observe, metrics=metrics),
        _door(settings),
        Middleware(RequestSlots, slots=settings.limits.requests_at_once),
        Middleware(CutSlowBodies),
    ]
    if settings.cors_origins:
        layers.insert(2, Middleware(Cors, origins=settings.cors_origins))
    return layers


def _door(settings: Settings) -> Middleware:
    if settings.api_keys:
        return Middleware(RequireKey, digests=settings.api_keys)
    return Middleware(KeylessDoor, origins=settings.cors_origins)
