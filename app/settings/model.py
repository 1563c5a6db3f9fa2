"""One model of the config."""

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, PrivateAttr, model_validator

from app.settings.fields import Frozen, MediaHost, NotEmpty


class ModelSettings(Frozen):
    """One model: one engine deployment."""

    id: str = Field(min_length=1, description="The name that clients put into `model`.")
    source: str = Field(
        min_length=1,
        description="A folder with weights (relative to the working directory of the process that starts the "
        "application) or a hub's name; app/model_source.py says which of them a name means.",
    )
    adapters: dict[NotEmpty, NotEmpty] = Field(
        default_factory=dict,
        description="LoRA adapters of this model: the names that clients put into `model`, each with its folder "
        "(relative as `source`) or a hub's name. The same replicas run them; engine.max_lora_rank is 16 unless set.",
    )
    engine: dict[str, Any] = Field(
        default_factory=dict,
        description="vLLM's engine arguments (AsyncEngineArgs), passed on as they are; vLLM checks them.",
    )
    replicas: int = Field(
        default=1,
        ge=1,
        le=1024,
        description="Engine replicas to keep running; auto: as many as suit this machine's CPUs (app/cpu_replicas.py), "
        "1 on GPUs. On CPUs auto is the default: one core works best for itself.",
    )
    device: Literal["gpu", "cpu"] = Field(
        default="gpu",
        description="gpu: a placement group of tensor × pipeline parallel bundles of one GPU each; cpu: none of them.",
    )
    accelerator_type: str | None = Field(default=None, description="Ray's name of the GPU type, e.g. H100; null: any.")
    env: dict[str, str] = Field(
        default_factory=dict, description="Environment of the engine process, e.g. VLLM_CPU_KVCACHE_SPACE (GiB)."
    )
    max_num_seqs: int | None = Field(
        default=None,
        ge=1,
        description="Sequences that vLLM runs at once; null: vLLM's own choice on a GPU, 256 on a CPU, where its own "
        "choice is slower (docs/performance.md). A dispatcher keeps twice as many lines at a replica, or a shard more "
        "than its slots where a shard is larger.",
    )

    allowed_media_domains: tuple[MediaHost, ...] = Field(
        default=(),
        description="Hosts, in small letters, from which images, sounds and videos are fetched that a request names by "
        "URL; '*': all. Empty: none, and requests carry media themselves, as data: URLs. Never a host whose address is "
        "not on the public internet, never a file.",
    )
    hang_seconds: float = Field(
        default=30.0,
        ge=5,
        description="A vLLM core that has neither answered nor used its CPU for this long hangs and is replaced.",
    )
    step_seconds: float = Field(
        default=300.0,
        ge=5,
        description="A core answers between two steps. One that works without an answer is slow for this long, then it "
        "hangs as well. Over 35 s were seen (100 prompts in bfloat16 on one core without instructions for it).",
    )
    front_end_seconds: float = Field(
        default=30.0,
        ge=1,
        description="One step of vLLM's front end (to validate a request, render its template, build its answer) that "
        "takes longer than this will not end soon: the replica is replaced, and the lines in it are suspects. "
        "Meanwhile nobody else is answered by it.",
    )
    front_end_gb: float = Field(
        default=8.0,
        gt=0,
        description="GiB by which the process of vLLM's front end may grow over what it has when the model is loaded; "
        "beyond it the replica is replaced. vLLM keeps up to 4 there of images (mm_processor_cache_gb). The core has a "
        "measure of its own, its cache; an engine that has grown by over 1 GiB is replaced before the machine is full.",
    )
    line_seconds: float = Field(
        default=7200.0,
        gt=0,
        description="Longest time that a line of a batch may take in the engine, from when it starts there. Then it is "
        "aborted, tried once more without other lines beside it, and fails with request_timeout if that takes as long. "
        "A full engine on a CPU may make one token a second for each line: two hours let it have 7,200, and two tries "
        "end well within a batch's 24 hours.",
    )
    start_seconds: float = Field(
        default=1800.0,
        ge=10,
        description="A start that is not through after this long hangs and is ended. Downloads of weights count.",
    )

    _replicas_reason: str | None = PrivateAttr(default=None)

    @property
    def replicas_reason(self) -> str | None:
        """Why `replicas` is what it is, where it was chosen and not set."""
        return self._replicas_reason

    @property
    def silence_seconds(self) -> float:
        """A replica that works may be silent for so long: its core, or its front end where that holds Python's lock."""
        return max(self.hang_seconds, self.front_end_seconds)

    @property
    def devices(self) -> int:
        """Devices of one replica."""
        return int(self.engine.get("tensor_parallel_size", 1)) * int(self.engine.get("pipeline_parallel_size", 1))

    @property
    def folders(self) -> dict[str, str]:
        """What must be there for a replica to start, each by what it is: the model's folder and its adapters'."""
        named = {f"the folder of model {self.id}": self.source} | {
            f"the folder of adapter {name}": path for name, path in self.adapters.items()
        }
        return {what: path for what, path in named.items() if Path(path).is_absolute()}

    @model_validator(mode="after")
    def _parallel_sizes_are_numbers(self) -> Self:
        for key in ("tensor_parallel_size", "pipeline_parallel_size"):
            if not isinstance(size := self.engine.get(key, 1), int) or size < 1:
                raise ValueError(f"engine.{key} must be a whole number from 1 on")
        return self

    @model_validator(mode="after")
    def _one_place_for_each_value(self) -> Self:
        elsewhere = {
            "model": "source",
            "served_model_name": "id",
            "max_num_seqs": "max_num_seqs",
            "lora_modules": "adapters",
            "allowed_media_domains": "allowed_media_domains",
        }
        for key, field in elsewhere.items():
            if key in self.engine:
                raise ValueError(f"engine.{key} must not be set; set {field} of the model instead")
        if self.engine.get("allowed_local_media_path"):
            raise ValueError("engine.allowed_local_media_path must not be set; requests could read files there")
        if self.device == "cpu" and self.adapters and "max_loras" in self.engine:
            raise ValueError("engine.max_loras must not be set on a CPU; it is one more than there are adapters")
        return self
