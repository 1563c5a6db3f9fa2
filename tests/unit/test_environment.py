"""The environment of a cluster's nodes."""

from typing import Any

import pytest

from deployments.environment import AUTHENTICATION, NEEDED, warn_of_what_is_missing
from tests.commands import ROOT


def test_cluster_yaml_says_what_is_needed() -> None:
    text = (ROOT / "cluster.yaml").read_text()
    for name, value in NEEDED.items():
        assert f"{name}={value}" in text
    assert AUTHENTICATION in text
    assert AUTHENTICATION in (ROOT / "README.md").read_text()


def test_what_is_missing_or_other_is_warned_of(capsys: pytest.CaptureFixture[Any]) -> None:
    all_there = {**NEEDED, "RAY_AUTH_MODE": "token"}
    warn_of_what_is_missing(all_there)
    assert capsys.readouterr().out == ""
    warn_of_what_is_missing({**all_there, "RAY_SERVE_MAX_PER_REPLICA_RETRY_COUNT": "3"})
    assert "RAY_SERVE_MAX_PER_REPLICA_RETRY_COUNT=1000000" in capsys.readouterr().out
    warn_of_what_is_missing({**NEEDED, "RAY_AUTH_MODE": "disabled"})
    assert "RAY_AUTH_MODE=token" in capsys.readouterr().out
