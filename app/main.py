"""The composition root: from settings to one Serve application."""

from collections.abc import Mapping
from typing import Any
from uuid import uuid4

import ray
from ray.serve import Application

from app.errors import SettingsError
from app.settings import Settings
from app.store import Store
from deployments.dispatcher import BatchDispatcher
from deployments.engines import engine_application, graceful_seconds
from deployments.environment import warn_of_what_is_missing
from deployments.gateway import Gateway
from deployments.restarts import ENDLESS


def build(args: Mapping[str, Any]) -> Application:
    """What `import_path: app.main:build` of a Serve config calls with the config's `args`.

    Makes the ledger if there is none: whatever is started later, maybe on another node, opens one that exists. Raises
    SettingsError and StoreUnavailable.
    """
    settings = Settings.load(args)
    _refuse_hidden_folders(settings)
    Store.make(settings.database_url)
    warn_of_what_is_missing()
    deploy = uuid4().hex
    engines = {model.id: engine_application(model, settings, deploy) for model in settings.models}
    common = {
        "health_check_period_s": settings.health_check_seconds,
        "max_constructor_retry_count": ENDLESS,  # they need database and objects, which may be away for longer
        "ray_actor_options": {"num_cpus": 0},
    }
    dispatcher = BatchDispatcher.options(
        num_replicas=settings.dispatch.dispatchers,
        graceful_shutdown_timeout_s=graceful_seconds(settings),
        **common,
    ).bind(settings, engines)
    return Gateway.options(num_replicas=settings.gateways, max_ongoing_requests=1000, **common).bind(
        settings, engines, dispatcher
    )


def _refuse_hidden_folders(settings: Settings) -> None:
    nodes = [node for node in ray.nodes() if node["Alive"]]
    if settings.one_node_only and len(nodes) > 1:
        raise SettingsError(
            f"The cluster has {len(nodes)} nodes, but the database is {settings.database_url} and the object store "
            f"{settings.objects_url}: other nodes do not see these. Set `database` and `objects` to URLs that all reach"
        )
