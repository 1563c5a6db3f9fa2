"""The composition root: from settings to one Serve application."""

from collections.abc import Mapping
from typing import Any
from uuid import uuid4

import ray
import structlog
from ray.serve import Application

from app.errors import SettingsError
from app.file_modes import keep_data_private
from app.settings import Settings
from app.store import Store
from deployments.dispatcher import BatchDispatcher
from deployments.engines import engine_application, graceful_seconds
from deployments.environment import warn_of_what_is_missing
from deployments.gateway import Gateway
from deployments.http_address import http_host
from deployments.open_door import refuse_public_host
from deployments.placement import shortage
from deployments.restarts import ENDLESS

log = structlog.get_logger()


def build(args: Mapping[str, Any]) -> Application:
    """What `import_path: app.main:build` of a Serve config calls with the config's `args`.

    Makes the ledger if there is none: whatever is started later, maybe on another node, opens one that exists. Raises
    SettingsError and StoreUnavailable.
    """
    settings = Settings.load(args)
    _refuse_hidden_folders(settings)
    if (host := http_host()) is not None:
        refuse_public_host(host, "http_options.host", settings)
    keep_data_private(settings.data)
    Store.make(settings.database_url)
    warn_of_what_is_missing()
    _tell_replicas(settings)
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
    ).bind(settings.model_copy(update={"api_keys": ()}), engines, deploy)
    return Gateway.options(num_replicas=settings.gateways, max_ongoing_requests=ENDLESS, **common).bind(
        settings, engines, dispatcher, deploy
    )  # how many are too many, the gateway itself says (app/api/slots.py): where Serve does, probes wait as well


def _tell_replicas(settings: Settings) -> None:
    """Of each model how many were chosen, and what the cluster lacks for them."""
    resources = ray.cluster_resources()
    for model in settings.models:
        if model.replicas_reason is not None:
            log.info("replicas chosen", model=model.id, replicas=model.replicas, reason=model.replicas_reason)
        if lacking := shortage(model, resources):
            log.warning("replicas are missing", model=model.id, reason=lacking)


def _refuse_hidden_folders(settings: Settings) -> None:
    nodes = [node for node in ray.nodes() if node["Alive"]]
    if settings.one_node_only and len(nodes) > 1:
        raise SettingsError(
            f"The cluster has {len(nodes)} nodes, but the database is {settings.database_url} and the object store "
            f"{settings.objects_url}: other nodes do not see these. Set `database` and `objects` to URLs that all reach"
        )
