"""A rolling redeploy with other settings, in the middle of a batch: every replica of everything is replaced.

`python -m tests.chaos.redeploy ADDRESS` is what an operator's `serve deploy` does to the cluster at this address.
"""

import copy
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.chaos.report import Row
from tests.chaos.yard import ChaosServer, Scenario, Yards, strike_in_batch
from tests.commands import ROOT

REPLICAS = ("engine", "dispatcher", "gateway")
LINES = 5000
"""The batch outlasts the redeploy."""

SECONDS = 300
READY = b"ready to deploy"


def redeployed(replicas: int) -> Callable[[Yards], Row]:
    """The row of a server with so many engine replicas and gateways."""

    def run(yards: Yards) -> Row:
        config = yards.config(gateways=replicas)
        server = yards.running(BATCHYARD_REPLICAS=str(replicas), BATCHYARD_CONFIG=str(config))
        before = {process.pid for name in REPLICAS for process in server.part(name)}
        with _ready_to_deploy(server) as deploy:
            row = strike_in_batch(server, lambda: deploy.communicate(b"go\n", timeout=SECONDS), lines=LINES)
        row.promise(deploy.returncode == 0, f"the redeploy ended with code {deploy.returncode}")
        left = before & {process.pid for name in REPLICAS for process in server.part(name)}
        row.promise(not left, f"{len(left)} replicas were not replaced")
        row.promise(row.twice == 0, "lines in flight did not finish")
        row.promise(replicas == 1 or row.ready is None, "with two of everything, the API was closed")
        yards.close()  # its settings are not what it was started with any more
        return row

    return run


@contextmanager
def _ready_to_deploy(server: ChaosServer) -> Iterator[subprocess.Popen[bytes]]:
    """Its imports are through, so that the redeploy comes when the batch runs and not when it is over."""
    [raylet] = server.part("raylet")
    [address] = [word.partition("=")[2] for word in raylet.cmdline() if word.startswith("--gcs-address=")]
    # The raylet's environment: it has the cluster's token and the server's settings.
    command = [sys.executable, "-m", "tests.chaos.redeploy", address]
    with server.log.open("ab") as log:
        deploy = subprocess.Popen(
            command, cwd=ROOT, env=raylet.environ(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log
        )
    try:
        assert deploy.stdout is not None
        while READY not in (line := deploy.stdout.readline()):
            if not line:
                raise RuntimeError("the redeploy did not come to its start")
        yield deploy
    finally:
        deploy.kill()
        deploy.wait()


def main(address: str) -> None:
    """Waits for a line on stdin; returns when everything new runs."""
    import ray
    from ray import serve

    from deployments.local.local_config import LocalConfig

    config = LocalConfig.load()
    args = copy.deepcopy(dict(config.args))
    args["dispatch"] = {"flush_seconds": 0.4}
    for model in args["models"]:
        model["env"]["REDEPLOYED"] = "1"
    ray.init(address=address, namespace="serve")
    application = config.application()(args)
    print(READY.decode(), flush=True)
    sys.stdin.readline()
    serve.run(application, name="batchyard", route_prefix="/", logging_config={"enable_access_log": False})


SCENARIOS = (
    Scenario("redeploy-1", "rolling redeploy, 1 engine replica and 1 gateway", redeployed(1)),
    Scenario("redeploy-2", "rolling redeploy, 2 engine replicas and 2 gateways", redeployed(2)),
)

if __name__ == "__main__":
    main(sys.argv[1])
