"""What Ray and Serve must find in the environment of a cluster's nodes, because no config of theirs takes it."""

import os
from collections.abc import Mapping

import structlog

from deployments.restarts import ENDLESS

log = structlog.get_logger()

NEEDED = {
    # An unhealthy replica is killed at once: it holds nothing that the ledger does not.
    "RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS": "1",
    # Processes that a worker started end with it.
    "RAY_process_group_cleanup_enabled": "1",
    # A dead proxy is replaced after three failed looks; at Ray's 10 s between them nobody answers for half a minute.
    "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1",
    # Serve gives up a deployment for ever after so many failed starts a replica. When to stop, our brakes say.
    "RAY_SERVE_MAX_PER_REPLICA_RETRY_COUNT": str(ENDLESS),
    # Out of memory, Ray's monitor ends Serve's controller first. It is the last resort: at its own 95 % the guard of an
    # engine that has grown ends that one.
    "RAY_memory_usage_threshold": "0.98",
    # For the kernel Ray gives all its workers 1000, the most there is; of these the engines keep it (priority.py).
    "RAY_worker_oom_score_adjustment": "500",
    # Our side of Serve's proxy: how it speaks HTTP, its limits, and its own answers in OpenAI's envelope.
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "deployments.proxy:middlewares",
}

AUTHENTICATION = "RAY_AUTH_MODE=token"
"""Ray itself sets it where it starts a cluster by itself, and not where one is started by `ray start`."""


def warn_of_what_is_missing(environ: Mapping[str, str] = os.environ) -> None:
    """To be called in a process of the cluster: it has its node's environment."""
    if missing := [f"{name}={value}" for name, value in NEEDED.items() if environ.get(name) != value]:
        log.warning("not in the environment of the cluster's nodes; recovery is worse without", missing=missing)
    name, _, value = AUTHENTICATION.partition("=")
    if environ.get(name) != value:
        log.warning("whoever reaches the ports of Ray may run code on every node", missing=[AUTHENTICATION])
