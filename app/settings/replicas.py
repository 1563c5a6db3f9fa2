"""How many replicas each model gets where the config leaves it open, and where its weights are."""

from collections.abc import Mapping
from typing import Any

from app.cpu_dtype import fast_dtype
from app.cpu_replicas import GIB, Choice, Engine, Machine, choose_replicas, weights_bytes
from app.model_source import folder_meant
from app.settings.model import ModelSettings


def with_replicas(models: Any, replicas: str) -> Any:
    """What is no list of mappings stays as it is, for the check to name it."""
    if not isinstance(models, list | tuple):
        return models
    return [{**model, "replicas": replicas} if isinstance(model, Mapping) else model for model in models]


def without_auto(models: Any) -> tuple[Any, set[int]]:
    """The models without `replicas: auto`, and the positions of those on CPUs that have it or do not say."""
    if not isinstance(models, list | tuple):
        return models, set()
    auto = {
        position
        for position, model in enumerate(models)
        if isinstance(model, Mapping) and model.get("replicas", "auto") == "auto"
    }
    plain = [
        {key: value for key, value in model.items() if key != "replicas"} if position in auto else model
        for position, model in enumerate(models)
    ]
    return plain, {position for position in auto if models[position].get("device") == "cpu"}


def chosen_replicas(
    models: list[ModelSettings], auto: set[int], environ: Mapping[str, str], machine: Machine | None
) -> dict[str, Choice]:
    """For the models at the positions `auto`."""
    if not auto:
        return {}
    engines = {model.id: _engine(model, environ) for position, model in enumerate(models) if position in auto}
    taken = sum(model.devices * model.replicas for model in models if model.device == "cpu" and model.id not in engines)
    return choose_replicas(engines, machine or Machine.here(), taken)


def _engine(model: ModelSettings, environ: Mapping[str, str]) -> Engine:
    cache = model.env.get("VLLM_CPU_KVCACHE_SPACE", environ.get("VLLM_CPU_KVCACHE_SPACE", ""))
    set_bytes = int(cache) * GIB if cache.isdigit() else model.engine.get("kv_cache_memory_bytes")
    return Engine(
        cores=model.devices,
        weights=weights_bytes(model.source, str(model.engine.get("dtype", fast_dtype()))),
        cache=set_bytes if isinstance(set_bytes, int) else None,
    )


def with_choice(model: ModelSettings, choice: Choice | None) -> ModelSettings:
    if choice is None:
        return model
    chosen = model.model_copy(update={"replicas": choice.replicas})
    chosen._replicas_reason = choice.reason
    return chosen


def in_full(source: str) -> str:
    """Workers of a Ray cluster need not share our working directory."""
    return str(folder_meant(source) or source)
