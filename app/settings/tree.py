"""The whole tree, and how it is read."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, ValidationError, model_validator

from app import api_keys
from app.cpu_replicas import Machine
from app.settings.faults import faults_of, wrong_settings
from app.settings.fields import Frozen, KeyDigest, Origin
from app.settings.limits import Limits, RequestLimits
from app.settings.model import ModelSettings
from app.settings.replicas import chosen_replicas, in_full, with_choice, with_replicas, without_auto


class DispatchSettings(Frozen):
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


class Retention(Frozen):
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


class Settings(Frozen):
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
            merged["models"] = with_replicas(merged.get("models"), replicas)
        models, auto = without_auto(merged.get("models"))
        if models is not None:
            merged["models"] = models
        try:
            settings = cls.model_validate(merged)
        except ValidationError as error:
            raise wrong_settings(faults_of(error, environ, cls)) from error
        named_in_full = [
            model.model_copy(
                update={
                    "source": in_full(model.source),
                    "adapters": {name: in_full(path) for name, path in model.adapters.items()},
                }
            )
            for model in settings.models
        ]
        chosen = chosen_replicas(named_in_full, auto, environ, machine)
        return settings.model_copy(
            update={
                "data": settings.data.expanduser().resolve(),
                "models": tuple(with_choice(model, chosen.get(model.id)) for model in named_in_full),
            }
        )
