"""The arguments of the Serve config as one frozen tree.

Each field names its unit, its default and why it is what it is. An unknown key or an impossible pair is an error that
names the field; `Settings.load` turns pydantic's report into one sentence a field.
"""

import os
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, model_validator

from app import api_keys
from app.cpu_dtype import fast_dtype
from app.cpu_replicas import GIB, Choice, Engine, Machine, choose_replicas, weights_bytes
from app.errors import ConfigFault, SettingsError
from app.model_source import folder_meant

ENDPOINTS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses")
"""What a batch may ask for, and what is served online: what vLLM serves of OpenAI's list."""


NotEmpty = Annotated[str, Field(min_length=1)]

KeyDigest = Annotated[NotEmpty, AfterValidator(api_keys.as_digest)]
"""Whoever has the settings has no key."""

Origin = Annotated[str, Field(pattern=r"^(\*|[a-z][a-z0-9+.-]*://[^/\s]+)$")]
"""As browsers send it: scheme, host and a port other than the scheme's own; no path, not even a slash."""


MediaHost = Annotated[str, Field(pattern=r"^(\*|[a-z0-9._-]+)$")]


class _Frozen(BaseModel):
    # Inputs may be secrets, and pydantic's report of an error would show them.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class ModelSettings(_Frozen):
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


class Limits(_Frozen):
    lines: int = Field(default=50_000, ge=1, description="Lines a batch file may hold. OpenAI's limit.")
    file_bytes: int = Field(
        default=200 * 1024 * 1024, ge=1, description="Bytes of a batch input file. OpenAI's limit (209,715,200)."
    )
    upload_bytes: int = Field(default=512 * 1024 * 1024, ge=1, description="Bytes of any other upload. OpenAI's limit.")
    line_bytes: int = Field(
        default=16 * 1024 * 1024,
        ge=1024,
        description="Bytes of one line. Above it a line would hold a chunk of its own in every process it passes.",
    )
    queued_lines: int = Field(
        default=2_000_000,
        ge=1,
        description="Lines of all unfinished batches together; above it POST /v1/batches answers 429.",
    )
    uploads_at_once: int = Field(
        default=32,
        ge=1,
        description="Uploads read at one time by a gateway; more get 503 before their body is read. Each takes about "
        "2 MB of memory, and its size on the disk of `data`.",
    )
    requests_at_once: int = Field(
        default=1000,
        ge=1,
        description="Requests that a gateway works on at one time; more get 503. Probes and /metrics do not count.",
    )

    @model_validator(mode="after")
    def _line_fits_in_file(self) -> Self:
        if self.line_bytes > self.file_bytes:
            raise ValueError(f"line_bytes ({self.line_bytes}) must not exceed file_bytes ({self.file_bytes})")
        return self


class RequestLimits(_Frozen):
    """What one request may ask for, online or as a line. Above OpenAI's limits, or at them where the engine is slow."""

    values: int = Field(
        default=2_000_000,
        ge=1000,
        description="JSON values of a body, numbers of token arrays among them. Each takes up to 60 bytes where the "
        "body is read.",
    )
    containers: int = Field(
        default=100_000, ge=100, description="Objects and arrays of a body. An empty one takes 64 bytes, of 2 sent."
    )
    depth: int = Field(default=256, ge=10, le=500, description="Levels of objects and arrays in a body.")
    members: int = Field(default=5_000, ge=100, description="Members of any one object of a body.")
    messages: int = Field(default=2_048, ge=1, description="Messages of a chat, or items of `input` of a response.")
    content_parts: int = Field(default=10_000, ge=1, description="Parts of the contents of all messages together.")
    tool_calls: int = Field(default=128, ge=1, description="Tool calls of one message. OpenAI's limit.")
    tools: int = Field(default=128, ge=1, description="Tools, those in namespaces among them. OpenAI's limit.")
    prompts: int = Field(default=1_024, ge=1, description="Prompts of one completion request. vLLM's own limit.")
    embedding_inputs: int = Field(default=2_048, ge=1, description="Inputs of an embedding request. OpenAI's limit.")
    sequences: int = Field(
        default=1_024, ge=1, description="Prompts times `n` (or `best_of`): what one request may run at once."
    )
    choices: int = Field(default=128, ge=1, description="`n`, `best_of` and the width of a beam search. OpenAI's.")
    logprobs: int = Field(
        default=1_000_000,
        ge=1000,
        description="Log probabilities of an answer: sequences times tokens times (`top_logprobs` + 1), and the same "
        "of the prompt's. A million are 60 to 100 MB.",
    )
    stops: int = Field(default=16, ge=4, description="Stop sequences. OpenAI takes 4, and so does vLLM unless told.")
    token_ids: int = Field(
        default=1_024, ge=1, description="Entries of stop_token_ids, logit_bias, logprob_token_ids and bad_words, each."
    )
    schema_bytes: int = Field(
        default=1024 * 1024, ge=1024, description="Bytes of all JSON schemas of a body together, as compact JSON."
    )
    schema_depth: int = Field(
        default=64, ge=10, description="Levels of objects and arrays in a JSON schema: OpenAI's 10 of objects are 30."
    )
    schema_properties: int = Field(
        default=5_000, ge=1, description="Properties of all JSON schemas of a body together. OpenAI's limit, of one."
    )
    schema_optional: int = Field(
        default=400,
        ge=1,
        description="Properties of one object that are not in its `required`. At OpenAI all must be, if strict.",
    )
    schema_choices: int = Field(
        default=5_000,
        ge=1,
        description="Values of `enum`, `const`, `prefixItems`, `choice`, together. OpenAI: 1,000.",
    )
    schema_branches: int = Field(
        default=500, ge=1, description="Branches of `anyOf`, `oneOf` and `allOf`, of all JSON schemas together."
    )
    schema_characters: int = Field(
        default=131_072,
        ge=1000,
        description="Characters of the names of properties and of the choices, together. OpenAI's limit is 120,000.",
    )
    regex_characters: int = Field(
        default=4_096,
        ge=100,
        description="Characters of all expressions (`regex`, `pattern`), repeats written out; a `format` is 32.",
    )
    grammar_characters: int = Field(default=65_536, ge=1000, description="Characters of a grammar.")


class DispatchSettings(_Frozen):
    shard_lines: int = Field(
        default=128,
        ge=1,
        le=4096,
        description="Lines a shard. Smaller keeps the engine's queue fuller, larger costs fewer rows and calls.",
    )
    shard_bytes: int = Field(
        default=4 * 1024 * 1024, ge=1024, description="Bytes a shard, unless one line alone is larger."
    )
    flush_seconds: float = Field(
        default=0.5, gt=0, le=10, description="Longest time that a result waits to be made durable. The promise is 1 s."
    )
    lease_seconds: float = Field(
        default=15.0,
        ge=1,
        description="How long a claim outlives its dispatcher's last sign of life; after it another takes the shard.",
    )
    poll_seconds: float = Field(
        default=1.0,
        gt=0,
        le=10,
        description="How often the ledger is asked for work when there was none. Gateways tell of new batches at once.",
    )
    engine_losses: int = Field(
        default=24,
        ge=1,
        description="A batch's allowance of engines that its suspect lines may kill before it is paused. It takes 3 or "
        "4 to find a line that kills, after two that count for nobody.",
    )
    dispatchers: int = Field(default=1, ge=1, description="Dispatcher replicas; leases keep them apart.")
    drain_seconds: float = Field(
        default=20.0,
        ge=0,
        description="How long a redeploy waits for the lines in flight; what has no answer by then runs again.",
    )


class Retention(_Frozen):
    batch_file_days: float = Field(
        default=30.0,
        gt=0,
        description="Days after which an uploaded batch file expires, unless expires_after says otherwise.",
    )
    output_file_days: float = Field(
        default=30.0,
        gt=0,
        description="Days after which output and error files expire, unless output_expires_after says otherwise.",
    )


class Settings(_Frozen):
    """Everything that `app.main:build` takes from the config's `args`."""

    models: tuple[ModelSettings, ...] = Field(min_length=1, description="The models to serve.")
    data: Path = Field(
        default=Path(".batchyard"),
        description="Folder of the SQLite database, the local objects, uploads under way, logs.",
    )
    database: str | None = Field(
        default=None, description="SQLAlchemy URL; null: SQLite in `data`. PostgreSQL is not supported yet."
    )
    objects: str | None = Field(
        default=None, description="URL of the object store (s3://, gs://, az://, file://); null: a folder in `data`."
    )
    gateways: int = Field(default=1, ge=1, description="Gateway (HTTP ingress) replicas.")
    limits: Limits = Limits()
    requests: RequestLimits = RequestLimits()
    dispatch: DispatchSettings = DispatchSettings()
    retention: Retention = Retention()
    unknown_parameters: Literal["warn", "fault"] = Field(
        default="warn",
        description="Members of a line's body that the engine ignores: warn counts them on the batch object, fault "
        "refuses the file.",
    )
    api_keys: tuple[KeyDigest, ...] = Field(
        default=(),
        repr=False,
        description="Bearer keys that are let in, or their digests (`sha256:` and 64 hexadecimal digits); the digests "
        "alone are kept. Empty: everybody (loopback only).",
    )
    cors_origins: tuple[Origin, ...] = Field(
        default=(),
        description="Origins (https://host, without a path) whose pages a browser lets use this server; '*': all.",
    )
    restarts_per_hour: int = Field(
        default=10,
        ge=0,
        description="Unplanned starts of a model, and of the local cluster, within an hour; then a person is needed.",
    )
    health_check_seconds: float = Field(
        default=1.0, gt=0, description="Period of Ray Serve's health checks; a killed replica is seen within it."
    )

    @model_validator(mode="after")
    def _cross_checks(self) -> Self:
        names = [name for model in self.models for name in (model.id, *model.adapters)]
        if len(set(names)) < len(names):
            raise ValueError(f"models: each id, and each name of an adapter, may stand once, but they are {names}")
        if self.database is not None and not self.database.startswith("sqlite:"):
            scheme = urlsplit(self.database).scheme or self.database
            raise ValueError(
                f"database: {scheme!r} is not supported yet; PostgreSQL comes in a later release. "
                "Leave `database` out to use SQLite in `data`, on one node"
            )
        if self.database is not None and not self.database.startswith("sqlite:////"):
            raise ValueError(
                f"database: {self.database!r} names no file that all processes share; "
                "give its full path, with four slashes: sqlite:////var/lib/batchyard.db"
            )
        return self

    @property
    def one_node_only(self) -> bool:
        """SQLite and local objects live in a folder that other nodes do not see."""
        return self.database_url.startswith("sqlite:") or self.objects_url.startswith("file:")

    @property
    def database_url(self) -> str:
        return self.database or f"sqlite:///{self.data / 'batchyard.db'}"

    @property
    def objects_url(self) -> str:
        return self.objects or (self.data / "objects").as_uri()

    def model(self, model_id: str) -> ModelSettings | None:
        return next((model for model in self.models if model.id == model_id), None)

    @property
    def served(self) -> Mapping[str, str]:
        """The names that clients may put into `model`, adapters among them, each with the id of the model it is of."""
        return {name: model.id for model in self.models for name in (model.id, *model.adapters)}

    @classmethod
    def load(
        cls, args: Mapping[str, Any], environ: Mapping[str, str] = os.environ, machine: Machine | None = None
    ) -> "Settings":
        """The settings of a config's `args`, with the environment on top; relative paths become absolute.

        Environment: BATCHYARD_DATA (folder), BATCHYARD_REPLICAS (of every model, or auto), BATCHYARD_API_KEYS
        (comma-separated), BATCHYARD_RESTARTS_PER_HOUR. `machine` is the one that `replicas: auto` is for: this one.
        Raises SettingsError, one line for each wrong field.
        """
        merged = dict(args)
        if data := environ.get("BATCHYARD_DATA"):
            merged["data"] = data
        if keys := environ.get(api_keys.VARIABLE):
            merged["api_keys"] = [key.strip() for key in keys.split(",") if key.strip()]
        if restarts := environ.get("BATCHYARD_RESTARTS_PER_HOUR"):
            merged["restarts_per_hour"] = restarts
        if replicas := environ.get("BATCHYARD_REPLICAS"):
            merged["models"] = _with_replicas(merged.get("models"), replicas)
        models, auto = _without_auto(merged.get("models"))
        if models is not None:
            merged["models"] = models
        try:
            settings = cls.model_validate(merged)
        except ValidationError as error:
            raise wrong_settings(_faults(error, environ)) from error
        named_in_full = [
            model.model_copy(
                update={
                    "source": _in_full(model.source),
                    "adapters": {name: _in_full(path) for name, path in model.adapters.items()},
                }
            )
            for model in settings.models
        ]
        chosen = _chosen_replicas(named_in_full, auto, environ, machine)
        return settings.model_copy(
            update={
                "data": settings.data.expanduser().resolve(),
                "models": tuple(_with_choice(model, chosen.get(model.id)) for model in named_in_full),
            }
        )


def _with_replicas(models: Any, replicas: str) -> Any:
    """What is no list of mappings stays as it is, for the check to name it."""
    if not isinstance(models, list | tuple):
        return models
    return [{**model, "replicas": replicas} if isinstance(model, Mapping) else model for model in models]


def _without_auto(models: Any) -> tuple[Any, set[int]]:
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


def _chosen_replicas(
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


def _with_choice(model: ModelSettings, choice: Choice | None) -> ModelSettings:
    if choice is None:
        return model
    chosen = model.model_copy(update={"replicas": choice.replicas})
    chosen._replicas_reason = choice.reason
    return chosen


def _in_full(source: str) -> str:
    """Workers of a Ray cluster need not share our working directory."""
    return str(folder_meant(source) or source)


def wrong_settings(faults: Sequence[ConfigFault]) -> SettingsError:
    sentences = [f"{dotted(place)}: {message}" if place else message for place, message in faults]
    return SettingsError("The Batchyard config is wrong. " + "; ".join(sentences), faults)


def dotted(place: Sequence[str | int]) -> str:
    return ".".join(str(part) for part in place)


VARIABLES = {
    "data": "BATCHYARD_DATA",
    "restarts_per_hour": "BATCHYARD_RESTARTS_PER_HOUR",
    "replicas": "BATCHYARD_REPLICAS",
}
"""The last words on a field. One that is wrong is named, once, instead of the field or fields."""


def _faults(error: ValidationError, environ: Mapping[str, str]) -> list[ConfigFault]:
    """One for each mistake: a variable that many models have is one, and so is a misspelt key that is missed.

    pydantic leaves out of a list what is wrong in itself, and may then call the list too short.
    """
    faults: dict[ConfigFault, None] = {}
    unknown = [fault["loc"] for fault in error.errors() if fault["type"] == "extra_forbidden"]
    places = [fault["loc"] for fault in error.errors()]
    for fault in error.errors():
        if any(len(place) > len(fault["loc"]) and place[: len(fault["loc"])] == fault["loc"] for place in places):
            continue
        place, message = fault["loc"], fault["msg"].removeprefix("Value error, ")
        if fault["type"] == "extra_forbidden":
            message = "unknown key; " + did_you_mean(str(place[-1]), _known_keys(place[:-1]))
        elif fault["type"] == "missing" and any(_may_be_meant(key, place) for key in unknown):
            continue
        variable = next((name for field, name in VARIABLES.items() if field in place), "")
        if environ.get(variable):
            faults[((), f"{variable} is {environ[variable]!r}: {message}")] = None
        else:
            faults[(place, message or "wrong")] = None
    return list(faults)


def did_you_mean(key: str, known: Sequence[str]) -> str:
    near = get_close_matches(key, known, n=1)
    return f"known here: {', '.join(sorted(known))}" + (f"; did you mean {near[0]}?" if near else "")


def _may_be_meant(key: tuple[int | str, ...], missing: tuple[int | str, ...]) -> bool:
    return key[:-1] == missing[:-1] and bool(get_close_matches(str(key[-1]), [str(missing[-1])]))


def _known_keys(path: tuple[int | str, ...]) -> list[str]:
    sections: dict[str, type[BaseModel]] = {
        "models": ModelSettings,
        "limits": Limits,
        "requests": RequestLimits,
        "dispatch": DispatchSettings,
        "retention": Retention,
    }
    section: type[BaseModel] = sections.get(str(path[0]), Settings) if path else Settings
    return list(section.model_fields)
