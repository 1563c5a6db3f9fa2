"""Fewer processes round vLLM on a CPU."""

from typing import Any


def with_lean_executor(engine_class: Any) -> Any:
    """Ray Serve LLM's engine, with vLLM's worker inside the core's process on a CPU.

    Otherwise there is a process more between core and model, which spins on shared memory (docs/performance.md) and
    takes 8 s to start. Ray Serve LLM overwrites `distributed_executor_backend` of the config, so it is set behind it.
    """

    class LeanEngine(engine_class):
        def _start_async_llm_engine(self, arguments: Any, config: Any, placement_group: Any) -> Any:
            parallel = config.parallel_config
            if config.device_config.device_type == "cpu" and parallel.world_size == 1:
                from vllm.v1.executor.uniproc_executor import UniProcExecutor

                parallel.distributed_executor_backend = UniProcExecutor
            return super()._start_async_llm_engine(arguments, config, placement_group)

    return LeanEngine
