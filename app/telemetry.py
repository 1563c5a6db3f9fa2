"""Structured logs, Sentry and alerts, the same in every process.

Sentry gets events that are made anew from a list of what may leave (`_clean`): no prompt and no key is in one, whoever
raised or logged it. Words leave in alerts alone, and those are ours: ids, numbers, units.
"""

import logging
import os
import time
from collections.abc import Callable, Hashable
from importlib.metadata import version
from typing import Any, Literal

import sentry_sdk
import structlog
from sentry_sdk.integrations.atexit import AtexitIntegration
from sentry_sdk.integrations.dedupe import DedupeIntegration
from sentry_sdk.integrations.excepthook import ExcepthookIntegration
from sentry_sdk.integrations.logging import LoggingIntegration
from sentry_sdk.integrations.threading import ThreadingIntegration
from sentry_sdk.types import Event, Hint
from sentry_sdk.utils import BadDsn
from structlog.typing import EventDict

from app.errors import SettingsError

AlertKind = Literal[
    "replica_lost",
    "hang",
    "engine_ended",
    "model_down",
    "restart_budget_spent",
    "batch_stuck",
    "batch_paused",
    "batch_fault",
    "results_damaged",
    "disk_nearly_full",
    "cluster_lost",
]
"""docs/runbook.md says for each what to do."""

WARNINGS: frozenset[AlertKind] = frozenset({"replica_lost", "batch_paused", "results_damaged", "disk_nearly_full"})
"""What nobody need get up for; the others are errors."""

REPEAT_SECONDS = 600.0
"""How often the same alert is told again while its cause lasts."""

log = structlog.get_logger()

EVENT_FIELDS = ("event_id", "timestamp", "level", "platform", "logger", "server_name", "release", "environment", "sdk")
EXCEPTION_FIELDS = ("type", "module")
MECHANISM_FIELDS = ("type", "handled", "exception_id", "parent_id")
FRAME_FIELDS = ("filename", "module", "function", "lineno", "in_app")
TAGS = ("process", "kind", "model", "batch")


class Limiter:
    """Lets each key pass once in REPEAT_SECONDS. `clock` is monotonic, in seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._passed: dict[Hashable, float] = {}

    def passes(self, key: Hashable) -> bool:
        now = self._clock()
        self._passed = {each: when for each, when in self._passed.items() if now - when < REPEAT_SECONDS}
        if key in self._passed:
            return False
        self._passed[key] = now
        return True


class Alerts:
    """Tells people: a line of the log and an event of Sentry. Each kind, model and batch once in REPEAT_SECONDS.

    Both at once, so that the log says what Sentry got, and a cause that lasts does not fill the log.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._limiter = Limiter(clock)

    def __call__(
        self, kind: AlertKind, message: str, *, model: str | None = None, batch: str | None = None, **known: object
    ) -> None:
        """`message` goes to Sentry and must be our words: no text of an exception. `known` is for the log alone."""
        if not self._limiter.passes((kind, model, batch)):
            return
        log.error("alert", kind=kind, message=message, model=model, batch=batch, **known)
        tags = {"kind": kind, "model": model, "batch": batch}
        sentry_sdk.capture_event(
            {
                "message": message,
                "level": "warning" if kind in WARNINGS else "error",
                "tags": {name: value for name, value in tags.items() if value is not None},
                "fingerprint": [kind, model or batch or ""],
            },
            hint={"alert": True},
        )


alert = Alerts()


def start_telemetry(process: str) -> None:
    """Called once in each process. Sentry is on when SENTRY_DSN is set. Raises SettingsError."""

    # Context variables and Sentry's other scopes hold in the calling task alone, and a replica has many.
    def add_process(logger: object, method: str, event: EventDict) -> EventDict:
        return {**event, "process": process}

    structlog.configure(
        processors=[
            add_process,
            _report_exception,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        cache_logger_on_first_use=True,
    )
    if os.environ.get("SENTRY_DSN"):
        _start_sentry()
        sentry_sdk.get_global_scope().set_tag("process", process)


def _start_sentry() -> None:
    try:
        sentry_sdk.init(
            release=f"batchyard@{version('batchyard')}",
            before_send=_Cleaner(),
            # Exceptions that end a thread or the process, or that are logged as errors. The integrations that Sentry
            # would add by itself look into requests, SQL and calls of models.
            default_integrations=False,
            integrations=[
                AtexitIntegration(callback=lambda pending, timeout: None),
                DedupeIntegration(),
                ExcepthookIntegration(),
                LoggingIntegration(level=None, sentry_logs_level=None),
                ThreadingIntegration(),
            ],
            # What `_clean` would take out again, and what goes other ways than through it.
            include_local_variables=False,
            include_source_context=False,
            max_breadcrumbs=0,
            auto_session_tracking=False,
            enable_metrics=False,
        )
    except BadDsn as error:
        raise SettingsError(
            f"SENTRY_DSN cannot be used: {error}. Copy the DSN from the project's settings in Sentry, or unset it"
        ) from error


def _report_exception(logger: object, method: str, event: EventDict) -> EventDict:
    """structlog writes past the module `logging`, where Sentry listens."""
    if event.get("exc_info"):
        sentry_sdk.capture_exception()
    return event


class _Cleaner:
    """Sentry's before_send: alerts as they are, exceptions without words and each once in REPEAT_SECONDS, else none."""

    def __init__(self) -> None:
        self._limiter = Limiter(time.monotonic)

    def __call__(self, event: Event, hint: Hint) -> Event | None:
        clean: Event = _clean(event, bool(hint.get("alert")))
        if "message" in clean:
            return clean
        if "exception" not in clean or not self._limiter.passes(_place(clean)):
            return None
        return clean


def _clean(event: Any, is_alert: bool) -> Any:
    """A new event with nothing but what is known to hold no prompt and no key.

    The messages of exceptions quote what they choke on (pydantic, JSON, vLLM, and ours as well): type and place stay.
    """
    clean = _only(EVENT_FIELDS, event) | {"tags": _only(TAGS, event.get("tags") or {})}
    if is_alert:
        return clean | _only(("message", "fingerprint"), event)
    if raised := (event.get("exception") or {}).get("values"):
        clean["exception"] = {"values": [_exception(each) for each in raised]}
    return clean


def _exception(raised: Any) -> dict[str, Any]:
    frames = (raised.get("stacktrace") or {}).get("frames") or []
    return {
        **_only(EXCEPTION_FIELDS, raised),
        "mechanism": _only(MECHANISM_FIELDS, raised.get("mechanism") or {}),
        "stacktrace": {"frames": [_only(FRAME_FIELDS, frame) for frame in frames]},
    }


def _only(names: tuple[str, ...], fields: Any) -> dict[str, Any]:
    return {name: fields[name] for name in names if name in fields}


def _place(event: Any) -> Hashable:
    """What was raised, and where: the last exception is the one that was not caught."""
    raised = event["exception"]["values"][-1]
    frames = raised["stacktrace"]["frames"]
    return (raised.get("type"), *(frames[-1].get(name) for name in ("filename", "lineno") if frames))
