import json
import logging
import logging.config
import os
from collections.abc import Iterator
from typing import Any

import pytest

from deployments.core_errors import VARIABLE, CoreErrors

PARENT = "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "")  # so that it is as before afterwards
    monkeypatch.delenv(VARIABLE)


@pytest.fixture
def core() -> Iterator[logging.Logger]:
    """vLLM's logger as a core would have it: `become_core` configures it."""
    logger = logging.getLogger("vllm")
    handlers, level, propagate = logger.handlers[:], logger.level, logger.propagate
    yield logger
    for handler in set(logger.handlers) - set(handlers):
        handler.close()
    logger.handlers[:], logger.level, logger.propagate = handlers, level, propagate


@pytest.fixture
def config() -> dict[str, Any]:
    return {"version": 1, "formatters": {}, "handlers": {}, "loggers": {"vllm": {"handlers": []}}}


def become_core() -> None:
    with open(os.environ[VARIABLE], encoding="utf-8") as file:
        logging.config.dictConfig(json.load(file))


def fail_as_vllm_does(core: logging.Logger) -> None:
    try:
        try:
            raise KeyError("first")
        except KeyError as error:
            raise ValueError("Available memory on node 0 (20/23 GiB)\nis less than desired: what to do") from error
    except ValueError:
        core.exception("EngineCore failed to start.")


def test_the_cores_own_words_are_known_to_its_parent(core: logging.Logger, config: dict[str, Any]) -> None:
    errors = CoreErrors(config)
    become_core()
    core.warning("nothing: of interest")
    assert errors.explain(PARENT) == PARENT
    fail_as_vllm_does(core)
    assert errors.explain(PARENT) == "ValueError: Available memory on node 0 (20/23 GiB)"
    assert config["handlers"] == {}
    errors.forget()
    assert errors.explain(PARENT) == PARENT


def test_a_core_that_was_killed_cannot_speak(config: dict[str, Any]) -> None:
    assert "out of memory" in CoreErrors(config).explain(PARENT.format({"EngineCore": -9}))


def test_a_logging_configuration_of_the_users_own_stays(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "mine.json")
    assert CoreErrors(config).explain(PARENT) == PARENT
    assert os.environ[VARIABLE] == "mine.json"
