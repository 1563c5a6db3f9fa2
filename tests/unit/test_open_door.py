"""A public address needs keys, whichever command serves."""

import warnings
from pathlib import Path
from types import ModuleType

import pytest

from app.errors import SettingsError
from app.settings import Settings
from deployments.open_door import refuse_public_host

ARGS = {"models": [{"id": "m", "source": "x"}]}


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_this_machine_may_come_in_without_a_key(host: str) -> None:
    refuse_public_host(host, "HOST", Settings.load(ARGS, {}))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.7", "batch.example"])
def test_where_others_come_in_there_must_be_keys(host: str) -> None:
    with pytest.raises(SettingsError, match=f"HOST is {host}, which others can reach, and there are no API keys"):
        refuse_public_host(host, "HOST", Settings.load(ARGS, {}))
    refuse_public_host(host, "HOST", Settings.load({**ARGS, "api_keys": ["k"]}, {}))


@pytest.fixture
def main(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """app.main in a cluster of one node."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import app.main

    monkeypatch.setattr(app.main.ray, "nodes", list)
    return app.main


def test_the_builder_refuses_what_serve_would_open_to_everybody(
    main: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(main, "http_host", lambda: "0.0.0.0")
    with pytest.raises(SettingsError, match=r"http_options.host is 0.0.0.0, which others can reach"):
        main.build({**ARGS, "data": str(tmp_path)})
