"""The units of infra/systemd are such that systemd takes them, and agree with what the code promises."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from deployments.local.family import GRACE_SECONDS
from deployments.local.server import ENVIRONMENT
from tests.commands import ROOT

UNITS = sorted((ROOT / "infra/systemd").glob("*.service"), key=lambda unit: unit.stem)
SERVICES = [unit for unit in UNITS if unit.stem != "batchyard-deploy"]

HIDE_GPUS_OR_BREAK_ENGINES = {
    "PrivateDevices",
    "ProtectClock",
    "DevicePolicy",
    "DeviceAllow",
    "MemoryDenyWriteExecute",
    "SystemCallFilter",
}


def values(unit: Path) -> dict[str, list[str]]:
    """All values of each key, in order."""
    found: dict[str, list[str]] = {}
    for line in unit.read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


def test_all_units_are_there() -> None:
    assert [unit.stem for unit in UNITS] == [
        "batchyard",
        "batchyard-deploy",
        "batchyard-ray-head",
        "batchyard-ray-worker",
    ]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here (Debian: systemd)")
def test_systemd_finds_no_fault(tmp_path: Path) -> None:
    for unit in UNITS:  # together, because they name each other
        there = re.sub(r"/opt/batchyard/\.venv/bin/\w+", "/bin/true", unit.read_text())
        (tmp_path / unit.name).write_text(there)
    ended = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *(str(tmp_path / unit.name) for unit in UNITS)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    about_ours = [line for line in ended.stderr.splitlines() if "batchyard" in line]
    assert (ended.returncode, about_ours) == (0, [])


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_a_unit_starts_on_boot_as_its_own_user_and_logs_to_the_journal(unit: Path) -> None:
    keys = values(unit)
    assert keys["WantedBy"] == ["multi-user.target"]
    assert keys["User"] == ["batchyard"]
    assert keys["StandardOutput"] == keys["StandardError"] == ["journal"]
    assert keys["NoNewPrivileges"] == ["yes"]
    assert not HIDE_GPUS_OR_BREAK_ENGINES & set(keys)


@pytest.mark.parametrize("unit", SERVICES, ids=lambda unit: unit.stem)
def test_a_service_is_started_again_and_has_the_time_to_end(unit: Path) -> None:
    keys = values(unit)
    assert keys["Restart"] == ["always"]
    assert keys["KillMode"] == ["mixed"]
    assert int(keys["TimeoutStopSec"][0].removesuffix("s")) >= max(30, GRACE_SECONDS)
    assert keys["OOMPolicy"] == ["continue"], "the end of one process must not be the end of all"


@pytest.mark.parametrize("name", ["batchyard-ray-head", "batchyard-ray-worker"])
def test_the_nodes_of_a_cluster_have_the_environment_of_the_local_one(name: str) -> None:
    keys = values(ROOT / f"infra/systemd/{name}.service")
    environment = dict(pair.split("=", 1) for line in keys["Environment"] for pair in line.split())
    assert ENVIRONMENT.items() <= environment.items()
    assert environment["RAY_AUTH_MODE"] == "token"
