import hashlib
import pickle
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from app.api_keys import as_digest
from app.cpu_replicas import Machine
from app.errors import SettingsError
from app.settings import DispatchSettings, Limits, ModelSettings, Retention, Settings

MODEL = {"id": "tiny", "source": "some/model"}


def load(environ: dict[str, str] | None = None, **args: Any) -> Settings:
    return Settings.load({"models": [MODEL], **args}, environ or {})


def refusal(environ: dict[str, str] | None = None, **args: Any) -> str:
    with pytest.raises(SettingsError) as refused:
        load(environ, **args)
    return str(refused.value)


# What stands where


def test_one_model_is_all_that_must_be_said() -> None:
    settings = load()
    assert settings.database_url == f"sqlite:///{Path.cwd()}/.batchyard/batchyard.db"
    assert settings.objects_url == f"file://{Path.cwd()}/.batchyard/objects"
    assert settings.model("tiny") == settings.models[0]
    assert settings.model("other") is None


def test_a_database_and_an_object_store_may_be_named() -> None:
    settings = load(database="sqlite:////var/ledger.db", objects="s3://bucket/prefix")
    assert (settings.database_url, settings.objects_url) == ("sqlite:////var/ledger.db", "s3://bucket/prefix")


def test_paths_are_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models" / "tiny").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    settings = load(data="my data", models=[{"id": "tiny", "source": "models/tiny"}])
    assert (settings.data, settings.models[0].source) == (tmp_path / "my data", f"{tmp_path}/models/tiny")
    assert load(data="~/there").data == tmp_path / "there"


def test_a_hubs_name_stays_as_it_is() -> None:
    assert load(models=[{"id": "tiny", "source": "Qwen/Qwen3-0.6B"}]).models[0].source == "Qwen/Qwen3-0.6B"


@pytest.mark.parametrize("source", ["/gone/model", "./gone", "../gone", "~/gone", "models/gone", "weights/chat/gone"])
def test_a_folder_that_is_gone_is_no_hubs_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    (tmp_path / "here/models").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path))
    model = load(models=[{"id": "tiny", "source": source, "adapters": {"polite": source, "hub": "some/one"}}]).models[0]
    assert Path(model.source).is_absolute() and model.source.endswith(source.lstrip("./~"))
    assert model.folders == {"the folder of model tiny": model.source, "the folder of adapter polite": model.source}


def test_a_folder_with_a_space_is_a_url_that_can_be_opened(tmp_path: Path) -> None:
    assert load(data=str(tmp_path / "a b")).objects_url == f"file://{tmp_path}/a%20b/objects"


@pytest.mark.parametrize("objects", [None, "file:///mnt/objects", "s3://bucket"])
def test_sqlite_binds_the_service_to_one_node_wherever_the_objects_are(objects: str | None) -> None:
    assert load(objects=objects).one_node_only


# Unknown keys


def known(section: type) -> str:
    return f"known here: {', '.join(sorted(section.model_fields))}"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "args, field, section",
    [
        ({"modles": []}, "modles", Settings),
        ({"models": [{**MODEL, "replica": 2}]}, "models.0.replica", ModelSettings),
        ({"models": [MODEL, {**MODEL, "id": "b", "": 2}]}, "models.1.", ModelSettings),
        ({"limits": {"line": 1}}, "limits.line", Limits),
        ({"dispatch": {"lease": 1}}, "dispatch.lease", DispatchSettings),
        ({"retention": {"days": 1}}, "retention.days", Retention),
    ],
)
def test_an_unknown_key_is_named_with_those_that_are_known_there(
    args: dict[str, Any], field: str, section: type
) -> None:
    assert f"{field}: unknown key; {known(section)}" in refusal(**args)


def test_engine_arguments_are_passed_on_unchecked() -> None:
    assert load(models=[{**MODEL, "engine": {"any": [1]}}]).models[0].engine == {"any": [1]}


# Wrong values


@pytest.mark.parametrize(
    "args, field",
    [
        ({"models": []}, "models"),
        ({"models": None}, "models"),
        ({"models": [{"id": "tiny"}]}, "models.0.source"),
        ({"models": [{**MODEL, "id": ""}]}, "models.0.id"),
        ({"models": [{**MODEL, "replicas": 0}]}, "models.0.replicas"),
        ({"models": [{**MODEL, "replicas": "many"}]}, "models.0.replicas"),
        ({"models": [{**MODEL, "engine": {"tensor_parallel_size": "two"}}]}, "models.0"),
        ({"models": [{**MODEL, "device": "tpu"}]}, "models.0.device"),
        ({"models": [{**MODEL, "adapters": {"": "x"}}]}, "models.0.adapters..[key]"),
        ({"models": ["tiny"]}, "models.0"),
        ({"gateways": 0}, "gateways"),
        ({"limits": {"lines": 0}}, "limits.lines"),
        ({"limits": {"line_bytes": 100}}, "limits.line_bytes"),
        ({"limits": 7}, "limits"),
        ({"dispatch": {"flush_seconds": 0}}, "dispatch.flush_seconds"),
        ({"dispatch": {"lease_seconds": 0.5}}, "dispatch.lease_seconds"),
        ({"retention": {"batch_file_days": 0}}, "retention.batch_file_days"),
    ],
)
def test_a_wrong_value_is_named(args: dict[str, Any], field: str) -> None:
    message = refusal(**args)
    assert message.startswith("The Batchyard config is wrong. ")
    assert f" {field}: " in message


def test_all_wrong_fields_are_named_at_once() -> None:
    message = refusal(gateways=0, limits={"lines": 0, "line": 1}, nonsense=1)
    for field in ("gateways", "limits.lines", "limits.line", "nonsense"):
        assert f" {field}: " in message


# Impossible pairs


def test_a_line_must_fit_into_a_file() -> None:
    message = refusal(limits={"line_bytes": 5000, "file_bytes": 4999})
    assert "limits: line_bytes (5000) must not exceed file_bytes (4999)" in message


@pytest.mark.parametrize(
    ("models", "names"),
    [
        ([MODEL, MODEL], ["tiny", "tiny"]),
        ([{**MODEL, "adapters": {"tiny": "x"}}], ["tiny", "tiny"]),
        ([{**MODEL, "adapters": {"a": "x"}}, {**MODEL, "id": "b", "adapters": {"a": "y"}}], ["tiny", "a", "b", "a"]),
    ],
)
def test_a_name_cannot_stand_for_two_models(models: list[dict[str, Any]], names: list[str]) -> None:
    words = f"models: each id, and each name of an adapter, may stand once, but they are {names}"
    assert words in refusal(models=models)


def test_the_slot_that_must_stay_empty_on_a_cpu_cannot_be_taken_away() -> None:
    model = {**MODEL, "adapters": {"a": "x"}, "engine": {"max_loras": 1}}
    assert "models.0: engine.max_loras must not be set on a CPU" in refusal(models=[{**model, "device": "cpu"}])
    assert load(models=[model]).models[0].engine == {"max_loras": 1}


def test_adapters_are_served_by_name_and_their_folders_found(tmp_path: Path) -> None:
    adapters = {"polite": f"{tmp_path}/../{tmp_path.name}", "terse": "someone/terse"}
    settings = load(models=[{**MODEL, "adapters": adapters}])
    assert settings.served == {"tiny": "tiny", "polite": "tiny", "terse": "tiny"}
    assert settings.models[0].adapters == {"polite": str(tmp_path), "terse": "someone/terse"}


@pytest.mark.parametrize(
    "key, field",
    [
        ("model", "source"),
        ("served_model_name", "id"),
        ("max_num_seqs", "max_num_seqs"),
        ("lora_modules", "adapters"),
    ],
)
def test_a_value_with_a_field_of_its_own_cannot_be_an_engine_argument(key: str, field: str) -> None:
    message = refusal(models=[{**MODEL, "engine": {key: "x"}}])
    assert f"models.0: engine.{key} must not be set; set {field} of the model instead" in message


@pytest.mark.parametrize("url", ["postgresql://user:secret@host/db", "postgresql+psycopg://host/db", "nonsense"])
def test_another_database_than_sqlite_is_refused_in_words(url: str) -> None:
    message = refusal(database=url)
    assert "is not supported yet; PostgreSQL comes in a later release" in message
    assert "Leave `database` out to use SQLite" in message
    assert "secret" not in message


@pytest.mark.parametrize("url", ["sqlite:", "sqlite://", "sqlite:///:memory:", "sqlite:///ledger.db"])
def test_a_database_that_each_process_would_find_elsewhere_is_refused(url: str) -> None:
    assert f"database: '{url}' names no file that all processes share; give its full path" in refusal(database=url)


# Replicas that nobody set


def replicas(*models: dict[str, Any], cores: int = 8, environ: dict[str, str] | None = None) -> list[int]:
    engine = {"source": "models/tiny", "device": "cpu", "env": {"VLLM_CPU_KVCACHE_SPACE": "1"}}
    named = [{"id": f"m{number}", **engine, **model} for number, model in enumerate(models)]
    settings = Settings.load({"models": named}, environ or {}, Machine(cores, 2**40))
    assert [model.replicas_reason is not None for model in settings.models] == [
        model.get("device") != "gpu" and model.get("replicas", "auto") == "auto" and not environ for model in models
    ]
    return [model.replicas for model in settings.models]


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models/tiny").mkdir(parents=True)
    (tmp_path / "models/tiny/model.safetensors").write_bytes(b"1234")
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("tiny")
def test_on_cpus_there_is_an_engine_a_core_unless_somebody_says_otherwise() -> None:
    assert replicas({}) == [8]
    assert replicas({"replicas": "auto"}) == [8]
    assert replicas({"replicas": 3}) == [3]
    assert replicas({}, environ={"BATCHYARD_REPLICAS": "1"}) == [1]


@pytest.mark.usefixtures("tiny")
def test_models_on_cpus_share_the_cores() -> None:
    assert replicas({}, {}) == [4, 4]
    assert replicas({}, {"replicas": 3}, {"replicas": 1}) == [4, 3, 1]
    assert replicas({}, {"device": "gpu"}, cores=2) == [2, 1]
    assert replicas({}, {}, {}, cores=2) == [1, 1, 1]
    assert replicas({"engine": {"tensor_parallel_size": 2}}) == [4]


@pytest.mark.usefixtures("tiny")
def test_the_environment_can_ask_for_auto() -> None:
    model = {"id": "m", "source": "models/tiny", "device": "cpu", "replicas": 1}
    model["env"] = {"VLLM_CPU_KVCACHE_SPACE": "1"}
    settings = Settings.load({"models": [model]}, {"BATCHYARD_REPLICAS": "auto"}, Machine(8, 2**40))
    assert settings.models[0].replicas == 8


def test_on_a_gpu_auto_is_one() -> None:
    assert load(models=[{**MODEL, "replicas": "auto"}]).models[0].replicas == 1
    assert load().models[0].replicas_reason is None


# The environment


def test_the_environment_stands_above_the_config(tmp_path: Path) -> None:
    models = [{**MODEL, "replicas": 3}, {**MODEL, "id": "other"}]
    environ = {"BATCHYARD_DATA": str(tmp_path), "BATCHYARD_REPLICAS": "2", "BATCHYARD_API_KEYS": "a, b,,"}
    settings = load(environ, models=models, data="/elsewhere", api_keys=["c"])
    assert settings.data == tmp_path
    assert [model.replicas for model in settings.models] == [2, 2]
    assert settings.api_keys == (as_digest("a"), as_digest("b"))


def test_an_empty_variable_is_as_good_as_none() -> None:
    environ = {"BATCHYARD_DATA": "", "BATCHYARD_REPLICAS": "", "BATCHYARD_API_KEYS": ""}
    assert load(environ, data="/elsewhere", api_keys=["c"]) == load(data="/elsewhere", api_keys=["c"])


def test_the_process_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATCHYARD_API_KEYS", "from-the-process")
    assert Settings.load({"models": [MODEL]}).api_keys == (as_digest("from-the-process"),)


@pytest.mark.parametrize("models", [[MODEL], None, 7, ["tiny"]])
def test_a_wrong_variable_is_refused_whatever_the_config_says(models: Any) -> None:
    wrong = refusal({"BATCHYARD_REPLICAS": "two"}, models=models)
    assert ("BATCHYARD_REPLICAS is 'two'" in wrong) == (models == [MODEL]), (
        "the variable alone, where it is the mistake"
    )
    assert (" models" in wrong) == (models != [MODEL])


def test_a_config_may_hold_digests_in_place_of_keys() -> None:
    digest = "sha256:" + hashlib.sha256(b"key").hexdigest()
    assert load(api_keys=["key"]).api_keys == load(api_keys=[digest]).api_keys == (digest,)
    with pytest.raises(SettingsError, match="api_keys"):
        load(api_keys=[""])


def test_requests_read_no_files_and_the_hosts_of_media_stand_in_one_place() -> None:
    assert load().models[0].allowed_media_domains == ()
    for arguments, words in (
        ({"allowed_local_media_path": "/"}, "must not be set"),
        ({"allowed_media_domains": ["a.example"]}, "set allowed_media_domains of the model"),
    ):
        with pytest.raises(SettingsError, match=words):
            load(models=[{**MODEL, "engine": arguments}])
    for wrong in ("https://a.example", "A.example", "a.example/x", ""):
        with pytest.raises(SettingsError, match="allowed_media_domains"):
            load(models=[{**MODEL, "allowed_media_domains": [wrong]}])


# Frozen and discreet


def test_settings_do_not_change() -> None:
    settings = load()
    for section in (settings, settings.models[0], settings.limits, settings.dispatch, settings.retention):
        name = next(iter(type(section).model_fields))
        with pytest.raises(ValidationError, match="frozen"):
            setattr(section, name, None)


def test_keys_and_passwords_are_never_shown() -> None:
    kept = load(api_keys=["secret"])
    assert "secret" not in f"{kept!r} {kept.model_dump_json()} {pickle.dumps(kept)!r}"
    with pytest.raises(SettingsError) as refused:
        load(api_keys=["secret"], gateways=0, nonsense="secret", database="postgresql://user:secret@host/db")
    assert "secret" not in f"{refused.value} {refused.value.__cause__}"
