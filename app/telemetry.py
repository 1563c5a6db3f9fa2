"""Structured logs and Sentry, the same in every process."""

import logging
import os

import sentry_sdk
import structlog


def start_telemetry(process: str) -> None:
    """Called once in each process. Sentry is on when SENTRY_DSN is set; it never gets prompts or keys."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(process=process)
    if os.environ.get("SENTRY_DSN"):
        # Local variables hold prompts, and request bodies are prompts.
        sentry_sdk.init(send_default_pii=False, max_request_body_size="never", include_local_variables=False)
        sentry_sdk.set_tag("process", process)
