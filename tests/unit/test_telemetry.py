"""Logs and Sentry events name their process, from whichever task or thread they come."""

import json
import subprocess
import sys

SCRIPT = """
import contextvars, json, os
import sentry_sdk, structlog
from sentry_sdk.transport import Transport

class Printed(Transport):
    def capture_envelope(self, envelope):
        if (event := envelope.get_event()) is not None:
            print(json.dumps({"message": event["message"], "tags": event.get("tags")}))

os.environ["SENTRY_DSN"] = "http://key@127.0.0.1:9/1"
init = sentry_sdk.init
sentry_sdk.init = lambda **options: init(transport=Printed, auto_enabling_integrations=False, **options)

from app.telemetry import start_telemetry

def elsewhere():
    structlog.get_logger().info("logged")
    sentry_sdk.capture_message("captured")

contextvars.Context().run(start_telemetry, "engine")  # as in the task of a replica's constructor
contextvars.Context().run(elsewhere)
"""


def test_what_another_context_reports_names_the_process() -> None:
    ended = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60, check=True)
    logged, captured = map(json.loads, ended.stdout.splitlines())
    assert (logged["event"], logged["process"]) == ("logged", "engine")
    assert (captured["message"], captured["tags"]) == ("captured", {"process": "engine"})
