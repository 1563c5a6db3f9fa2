"""Structured logs and Sentry, the same in every process."""

import logging
import os

import sentry_sdk
import structlog
from structlog.typing import EventDict


def start_telemetry(process: str) -> None:
    """Called once in each process. Sentry is on when SENTRY_DSN is set; it never gets prompts or keys."""

    # Context variables and Sentry's other scopes hold in the calling task alone, and a replica has many.
    def add_process(logger: object, method: str, event: EventDict) -> EventDict:
        return {**event, "process": process}

    structlog.configure(
        processors=[
            add_process,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        cache_logger_on_first_use=True,
    )
    if os.environ.get("SENTRY_DSN"):
        # Local variables hold prompts, and request bodies are prompts.
        sentry_sdk.init(send_default_pii=False, max_request_body_size="never", include_local_variables=False)
        sentry_sdk.get_global_scope().set_tag("process", process)
