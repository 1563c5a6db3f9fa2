"""What logs and Sentry are told, and what Sentry never is: the real SDK, each time in a process of its own."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest
import sentry_sdk

from app.telemetry import REPEAT_SECONDS, Alerts
from tests.commands import ROOT
from tests.sentry_receiver import SentryReceiver

PROMPT, KEY = "How do I tell my sister", "sk-batchyard-4711"


@pytest.fixture
def sentry() -> Iterator[SentryReceiver]:
    with SentryReceiver().running() as receiver:
        yield receiver


def reported_by(script: str, dsn: str) -> subprocess.CompletedProcess[str]:
    """Runs it as an engine process with telemetry, to its end; Sentry's SDK then has sent what it had."""
    start = "import contextvars\nfrom app.telemetry import start_telemetry\n"
    start += "contextvars.Context().run(start_telemetry, 'engine')\n"  # as in the task of a replica's constructor
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", start + script],
        cwd=ROOT,
        env={**os.environ, "SENTRY_DSN": dsn, "PROMPT": PROMPT, "KEY": KEY},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


LEAKS = {
    "json": "json.loads('{' + PROMPT + KEY)",
    "pydantic": "pydantic.TypeAdapter(list[int]).validate_python({'messages': PROMPT, 'key': KEY})",
    "key error": "{}[PROMPT + KEY]",
    "our own error": "raise EngineLost(f'the engine choked on {PROMPT}, {KEY}')",
    "a cause and a context": (
        "try: raise ValueError(PROMPT)\n    except ValueError as error: raise EngineLost(KEY) from error"
    ),
    "a group": "raise ExceptionGroup(PROMPT, [ValueError(KEY)])",
    "a note": "error = ValueError(); error.add_note(PROMPT + KEY); raise error",
    "an attribute": "raise UnicodeDecodeError('utf-8', (PROMPT + KEY).encode(), 0, 1, KEY)",
}

WAYS = {
    "structlog": "structlog.get_logger().exception('request failed', body=PROMPT, key=KEY)",
    "logging": "logging.getLogger('vllm').exception('failed on %s', PROMPT, extra={'key': KEY, 'tags': {'key': KEY}})",
    "the SDK": "sentry_sdk.capture_exception()",
    "a thread that ends": "thread = threading.Thread(target=leak, name=PROMPT); thread.start(); thread.join()",
    "the process that ends": "raise",
}


@pytest.mark.parametrize("leak", LEAKS.values(), ids=LEAKS)
def test_no_exception_takes_a_prompt_or_a_key_along(sentry: SentryReceiver, leak: str) -> None:
    report(sentry, leak, WAYS["structlog"])


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_no_way_out_takes_a_prompt_or_a_key_along(sentry: SentryReceiver, way: str) -> None:
    report(sentry, LEAKS["json"], way)


def report(sentry: SentryReceiver, leak: str, way: str) -> None:
    """One event, which names type, place and process of the exception, and nothing of what was in it or around it."""
    script = f"""
import json, logging, os, threading
import pydantic, sentry_sdk, structlog
from app.errors import EngineLost

PROMPT, KEY = os.environ["PROMPT"], os.environ["KEY"]
logging.raiseExceptions = False
sentry_sdk.set_tag("prompt", PROMPT)
sentry_sdk.set_user({{"id": KEY}})
sentry_sdk.set_context("request", {{"prompt": PROMPT}})
sentry_sdk.set_extra("key", KEY)
sentry_sdk.add_breadcrumb(message=PROMPT)

def leak():
    messages = [{{"role": "user", "content": PROMPT}}]
    {leak}

try:
    leak()
except Exception:
    {way}
"""
    reported_by(script, sentry.dsn)
    assert sentry.events
    for event in sentry.events:
        assert event["tags"] == {"process": "engine"}
        raised = event["exception"]["values"][-1]
        assert re.fullmatch(r"\w+(Error|Lost|Group)", raised["type"])
        assert any(frame["function"] == "leak" for frame in raised["stacktrace"]["frames"])
    assert not quoted(sentry)


def quoted(sentry: SentryReceiver) -> list[bytes]:
    """The envelopes in which a word of the prompt, or the key, stands."""
    words = [PROMPT.encode(), b"sister", KEY.encode(), b"4711"]
    return [body for body in sentry.bodies if any(word in body for word in words)]


def test_what_is_neither_an_alert_nor_an_exception_stays_here(sentry: SentryReceiver) -> None:
    script = """
import logging, os
import sentry_sdk, structlog
from app.telemetry import alert

logging.getLogger("vllm").error("aborted %s", os.environ["PROMPT"])
structlog.get_logger().error("refused", body=os.environ["PROMPT"])
sentry_sdk.capture_message(os.environ["KEY"])
alert("disk_nearly_full", "1 GiB free", reason=os.environ["PROMPT"])
"""
    ended = reported_by(script, sentry.dsn)
    assert ended.returncode == 0, ended.stderr
    [event] = sentry.events
    assert event["message"] == "1 GiB free"
    assert not quoted(sentry)
    assert PROMPT in ended.stdout.splitlines()[-1], "the log has what Sentry may not"


def test_an_alert_is_one_line_and_one_grouped_event(sentry: SentryReceiver) -> None:
    script = """
import contextvars
from app.telemetry import alert
contextvars.Context().run(alert, "batch_stuck", "no step for 15 min", model="tiny", batch="batch_1", left=3)
alert("batch_stuck", "no step for 20 min", model="tiny", batch="batch_1")
alert("replica_lost", "gone", model="tiny")
"""
    ended = reported_by(script, sentry.dsn)
    lines = [json.loads(line) for line in ended.stdout.splitlines()]
    assert [(line["event"], line["level"], line["kind"], line["process"]) for line in lines] == [
        ("alert", "error", "batch_stuck", "engine"),
        ("alert", "error", "replica_lost", "engine"),
    ]
    assert (lines[0]["message"], lines[0]["batch"], lines[0]["left"]) == ("no step for 15 min", "batch_1", 3)
    stuck, lost = sentry.events
    assert (stuck["message"], stuck["level"]) == ("no step for 15 min", "error")
    assert stuck["tags"] == {"kind": "batch_stuck", "model": "tiny", "batch": "batch_1", "process": "engine"}
    assert stuck["fingerprint"] == ["batch_stuck", "tiny"]
    assert stuck["release"].startswith("batchyard@")
    assert (lost["level"], lost["tags"]) == ("warning", {"kind": "replica_lost", "model": "tiny", "process": "engine"})


def test_an_exception_that_comes_back_is_told_once(sentry: SentryReceiver) -> None:
    script = """
import structlog

def fail(kind):
    try:
        raise kind("x")
    except kind:
        structlog.get_logger().exception("failed")

for _ in range(20):
    fail(ValueError)
fail(TypeError)
"""
    reported_by(script, sentry.dsn)
    assert [event["exception"]["values"][0]["type"] for event in sentry.events] == ["ValueError", "TypeError"]


def test_without_a_dsn_telemetry_is_the_log_alone() -> None:
    ended = reported_by("from app.telemetry import alert\nalert('hang', 'silent', model='tiny')", dsn="")
    assert (ended.returncode, json.loads(ended.stdout)["kind"]) == (0, "hang")


def test_a_wrong_dsn_is_named_with_what_to_do() -> None:
    ended = reported_by("", dsn="sentry.example.org/1")
    assert "SettingsError: SENTRY_DSN cannot be used: Unsupported scheme" in ended.stderr
    assert "unset it" in ended.stderr


def test_the_same_alert_comes_again_after_ten_minutes_and_others_do_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[object, ...]] = []

    def note(event: dict[str, dict[str, str]], hint: object) -> None:
        tags = event["tags"]
        told.append((tags["kind"], tags.get("model"), tags.get("batch")))

    monkeypatch.setattr(sentry_sdk, "capture_event", note)
    now = 1000.0
    alert = Alerts(lambda: now)
    for _ in range(3):
        alert("model_down", "down", model="a")
        alert("model_down", "down", model="b")
        alert("hang", "silent", model="a")
        alert("batch_stuck", "stuck", model="a", batch="1")
        alert("batch_stuck", "stuck", model="a", batch="2")
    assert len(told) == 5 == len(set(told))
    now += REPEAT_SECONDS - 1
    alert("model_down", "down", model="a")
    assert len(told) == 5
    now += 1
    alert("model_down", "down", model="a")
    assert told[5:] == [("model_down", "a", None)]
