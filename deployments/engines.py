"""From a model's settings to its engine deployment."""

from collections.abc import Mapping
from typing import Any

from ray import serve
from ray.serve import Application
from ray.serve.config import RequestRouterConfig
from ray.serve.llm import LLMConfig
from vllm.config import StructuredOutputsConfig
from vllm.entrypoints.openai.models.protocol import LoRAModulePath

from app.cpu_dtype import fast_dtype
from app.cpu_replicas import Machine
from app.settings import ModelSettings, Settings
from deployments import media, priority
from deployments.engine import BatchEngine
from deployments.placement import bundle, cpu_replicas
from deployments.restarts import ENDLESS, Brakes

MAX_CALLS = 1000
"""Calls a replica takes at once: watches, calls with lines, online requests. vLLM queues; this is no limit to meet."""

HEALTH_CHECK_SECONDS = 30.0
"""Serve's default timeout of a health check. A front end that holds Python's lock may take longer: it has its own."""

SETTLE_SECONDS = 10.0
"""What a replica that has drained may still take to record the last answers and to end, before Serve kills it."""

CPU_SEQUENCES = 256

CPU_NICENESS = 10
"""Enough for the scheduler to prefer the gateway clearly, not so much that other programs starve the model."""


def graceful_seconds(settings: Settings) -> float:
    """How long an engine or a dispatcher that leaves service may take before Serve kills it."""
    return settings.dispatch.drain_seconds + SETTLE_SECONDS


def engine_application(model: ModelSettings, settings: Settings, deploy: str) -> Application:
    """One deployment, named `Engine:` and the model's id, as the Ray dashboard shows it. `deploy` is new each time."""
    config = LLMConfig(
        model_loading_config={"model_id": model.id, "model_source": model.source},
        engine_kwargs=_engine_arguments(model),
        accelerator_type=model.accelerator_type,
        placement_group_config={"bundle_per_worker": bundle(model)},
        deployment_config={
            "num_replicas": model.replicas,
            "max_ongoing_requests": MAX_CALLS,
            "ray_actor_options": {"num_cpus": 0},
        },
        runtime_env=_runtime_env(model, settings),
        log_engine_metrics=False,
    )
    options = BatchEngine.get_deployment_options(config)
    return (
        serve.deployment(BatchEngine)
        .options(
            **options,
            name=f"Engine:{model.id}",
            health_check_period_s=settings.health_check_seconds,
            health_check_timeout_s=max(HEALTH_CHECK_SECONDS, model.silence_seconds),
            max_constructor_retry_count=ENDLESS,
            graceful_shutdown_timeout_s=graceful_seconds(settings),
            request_router_config=RequestRouterConfig(request_router_class="deployments.replicas.board:TrackingRouter"),
        )
        .bind(
            config,
            model,
            Brakes(
                database_url=settings.database_url,
                model=model.id,
                deploy=deploy,
                replicas=model.replicas,
                restarts_per_hour=settings.restarts_per_hour,
                start_seconds=model.start_seconds,
                folders=model.folders,
            ),
        )
    )


def _runtime_env(model: ModelSettings, settings: Settings) -> dict[str, Any]:
    """The engine process's environment, with our choices where the config is silent."""
    chosen = {media.VARIABLE: media.NAME}
    if model.device == "cpu":
        chosen |= {**_threads(settings), priority.VARIABLE: str(CPU_NICENESS)}
    return {"env_vars": {**chosen, **model.env}}


def _threads(settings: Settings) -> dict[str, str]:
    """The replicas on CPUs share the cores: each runs as many threads as it has cores to itself, at least one.

    vLLM's own choice leaves a core to the rest of the machine; with our lower priority it need not. A replica alone has
    its threads bound to cores; of several the kernel places them, because Serve says to none which one it is.
    """
    cores = Machine.here().cores
    replicas = cpu_replicas(settings)
    threads = max(1, cores // replicas)
    return {
        "VLLM_CPU_OMP_THREADS_BIND": f"0-{cores - 1}" if replicas == 1 else "nobind",
        "OMP_NUM_THREADS": str(threads),
    }


def _engine_arguments(model: ModelSettings) -> dict[str, Any]:
    """vLLM's arguments, with our choices where the config is silent."""
    chosen: dict[str, Any] = {"disable_log_stats": True, "allowed_media_domains": list(model.allowed_media_domains)}
    if model.device == "cpu":
        chosen |= {"max_num_seqs": CPU_SEQUENCES, "dtype": fast_dtype()}
    if model.max_num_seqs is not None:
        chosen["max_num_seqs"] = model.max_num_seqs
    if model.adapters:
        adapters = [LoRAModulePath(name, path) for name, path in model.adapters.items()]
        chosen |= {"enable_lora": True, "lora_modules": adapters}
        if model.device == "cpu":
            # One that stays empty: vLLM on a CPU adds the last one to the model's own lines (vllm#48421).
            chosen["max_loras"] = len(adapters) + 1
    return _as_vllm_takes_them({**chosen, **model.engine})


def _as_vllm_takes_them(arguments: dict[str, Any]) -> dict[str, Any]:
    """vLLM makes its own class of most arguments that are mappings, but of this one only on its command line."""
    name = "structured_outputs_config"
    if isinstance(arguments.get(name), Mapping):
        arguments[name] = StructuredOutputsConfig(**arguments[name])
    return arguments
