"""How replicas that compute on CPUs share the cores."""

import warnings
from types import ModuleType
from typing import Any

import pytest

from app.cpu_replicas import Machine
from app.settings import Settings


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """deployments.engines on a machine of 8 cores."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import deployments.engines

    monkeypatch.setattr(deployments.engines.Machine, "here", lambda: Machine(8, 2**40))
    return deployments.engines


def settings(*models: dict[str, Any]) -> Settings:
    model = {"source": "x", "device": "cpu", "replicas": 1}
    named = [{"id": f"m{number}", **model, **each} for number, each in enumerate(models)]
    return Settings.load({"models": named}, environ={})


def environment(engines: ModuleType, configured: Settings) -> dict[str, str]:
    found: dict[str, str] = engines._runtime_env(configured.models[0], configured)["env_vars"]
    return {name: value for name, value in found.items() if "OMP" in name}


def test_a_replica_alone_has_all_cores_bound(engines: ModuleType) -> None:
    assert environment(engines, settings({})) == {"VLLM_CPU_OMP_THREADS_BIND": "0-7", "OMP_NUM_THREADS": "8"}


@pytest.mark.parametrize(
    ("models", "threads"),
    [
        ([{"replicas": 2}], "4"),
        ([{"replicas": 8}], "1"),
        ([{"replicas": 20}], "1"),
        ([{}, {"replicas": 2}], "2"),
        ([{"engine": {"tensor_parallel_size": 2}}], "4"),
        ([{"replicas": 2}, {"device": "gpu", "replicas": 6}], "4"),
    ],
)
def test_several_share_the_cores_and_leave_the_placing_to_the_kernel(
    engines: ModuleType, models: list[dict[str, Any]], threads: str
) -> None:
    assert environment(engines, settings(*models)) == {
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": threads,
    }


def test_the_config_has_the_last_word(engines: ModuleType) -> None:
    configured = settings({"replicas": 2, "env": {"OMP_NUM_THREADS": "3"}})
    assert environment(engines, configured)["OMP_NUM_THREADS"] == "3"


def test_a_gpu_replica_gets_the_configs_environment_and_no_threads(engines: ModuleType) -> None:
    configured = settings({"device": "gpu", "env": {"A": "1"}})
    assert engines._runtime_env(configured.models[0], configured) == {
        "env_vars": {"A": "1", "VLLM_MEDIA_CONNECTOR": "batchyard"}
    }


def test_the_hosts_of_media_reach_vllm(engines: ModuleType) -> None:
    configured = settings({"allowed_media_domains": ["a.example"]}, {})
    arguments = [engines._engine_arguments(model)["allowed_media_domains"] for model in configured.models]
    assert arguments == [["a.example"], []]


def test_adapters_are_given_to_vllm_by_name(engines: ModuleType) -> None:
    adapters = {"polite": "/adapters/polite"}
    arguments = engines._engine_arguments(settings({"adapters": adapters}).models[0])
    (adapter,) = arguments["lora_modules"]
    assert arguments["enable_lora"] and (adapter.name, adapter.path) == ("polite", "/adapters/polite")
    assert arguments["max_loras"] == 2, "on a CPU one must stay empty"
    assert "max_loras" not in engines._engine_arguments(settings({"adapters": adapters, "device": "gpu"}).models[0])
    assert "enable_lora" not in engines._engine_arguments(settings({}).models[0])


def test_the_config_of_structured_outputs_reaches_vllm_from_a_mapping(engines: ModuleType) -> None:
    wanted = {"structured_outputs_config": {"enable_in_reasoning": True}}
    arguments = engines._engine_arguments(settings({"engine": wanted}).models[0])
    assert arguments["structured_outputs_config"].enable_in_reasoning
    assert arguments["structured_outputs_config"].reasoning_parser == ""
