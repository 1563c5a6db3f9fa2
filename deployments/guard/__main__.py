"""The guard's process: `python -m deployments.guard SHEET`, its orders as JSON on stdin. It ends with the replica."""

import asyncio
import json
import os
import select
import signal
import sys
import time

import psutil

from deployments.guard.guard import LOOK_SECONDS, Guard, Orders
from deployments.guard.sheet import Sheet


def main() -> None:
    orders = Orders(**json.load(sys.stdin))
    end = os.pidfd_open(orders.pid)
    guard, verdict = Guard(orders, Sheet(int(sys.argv[1]))), None
    try:
        while verdict is None and not select.select([end], [], [], LOOK_SECONDS)[0]:
            verdict = guard.look()
    except psutil.NoSuchProcess:  # between two looks
        pass
    if verdict is not None:
        signal.pidfd_send_signal(end, signal.SIGKILL)
        report(orders, verdict.reason, verdict.work)
    elif reason := guard.explanation():
        report(orders, reason, "not known")


def report(orders: Orders, reason: str, work: str) -> None:
    """By an alert, and in the ledger, from which `/health` has it. Imported here: a guard at rest needs none of it."""
    import structlog

    from app.errors import StoreUnavailable
    from app.store import Store
    from app.telemetry import alert, start_telemetry

    start_telemetry("guard")
    message = f"An engine of model {orders.model} was ended: {reason}."
    alert("engine_ended", message, model=orders.model, replica=orders.replica, work=work)
    try:
        store = Store.open_existing(orders.database_url, lambda: int(time.time()))
        asyncio.run(store.note_failure(orders.replica, reason))
        store.close()
    except StoreUnavailable as error:
        structlog.get_logger().warning("the end of an engine not noted", replica=orders.replica, reason=str(error))


if __name__ == "__main__":
    main()
