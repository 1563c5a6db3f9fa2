"""A wrong config is named before anything starts: with file, line and field, and once."""

from pathlib import Path

import pytest

from app.errors import SettingsError
from deployments.local.checks import checked_settings
from deployments.local.engine_arguments import argument_faults, argument_kinds
from deployments.local.local_config import LocalConfig
from tests.commands import ROOT

TINY = (ROOT / "tests/tiny.yaml").read_text()


def refusal(tmp_path: Path, text: str, **environ: str) -> str:
    """What is said of a config, without the file's name."""
    path = tmp_path / "local.yaml"
    path.write_text(text)
    with pytest.raises(SettingsError) as refused:
        checked_settings(LocalConfig.load({"BATCHYARD_CONFIG": str(path), **environ}))
    return str(refused.value).replace(f"{path}", "local.yaml")


def line_of(text: str, word: str) -> int:
    return next(number for number, line in enumerate(text.splitlines(), start=1) if word in line)


FIELD_MISTAKES = {
    "an argument that vLLM has not": ("max_model_len:", "max_modle_len:", "engine.max_modle_len: vLLM has no such"),
    "a value of another kind": (
        "max_model_len: 1024",
        'max_model_len: "lots"',
        "max_model_len: vLLM does not take 'lots'; it wants int",
    ),
    "a value that is not among those": (
        "max_model_len: 1024",
        "dtype: bflot16",
        "known here: auto, bfloat16, float, float16, float32, half; did you mean bfloat16?",
    ),
    "another that is not among those": (
        "max_model_len: 1024",
        "kv_cache_dtype: fp88",
        "kv_cache_dtype: vLLM does not take 'fp88'; known here: ",
    ),
    "a date that is none": ("max_model_len: 1024", "max_model_len: 2026-13-45", "'2026-13-45' cannot be read (month"),
    "an alias inside of itself": ("max_model_len: 1024", "max_model_len: &all [*all]", "value is a part of itself"),
    "a model that is not there": ("models/tiny", "models/Nope", "models.0.source: there is no folder /"),
    "an adapter that is not there": ("device: cpu", "adapters: {a: ./no}", "adapters.a: there is no folder /"),
    "a misspelt key of HTTP": ("  port:", "  prot:", "http_options.prot: unknown key; known here"),
    "a misspelt key of a model": ("source:", "sorce:", "models.0.sorce: unknown key; known here"),
    "a port that is none": ("port: 8000", "port: many", "http_options.port: must be a port number up to 65535"),
    "a misspelt key of the file": ("applications:", "applicatoins:", "applicatoins: unknown key; known here"),
    "TLS": ("  port: 8000", "  ssl_certfile: /c.pem", "http_options.ssl_certfile: batchyard serve cannot do that"),
    "no YAML": ("applications:", "applications: [}", "this is not YAML: "),
}


@pytest.mark.parametrize("mistake", FIELD_MISTAKES)
def test_a_mistake_is_told_with_its_line_and_field_and_nothing_else_is(
    tmp_path: Path, mistake: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    right, wrong, words = FIELD_MISTAKES[mistake]
    text = TINY.replace(right, wrong, 1)
    told = refusal(tmp_path, text)
    assert told.startswith(f"local.yaml:{line_of(text, wrong)}: "), told
    assert words in told
    assert len(told.splitlines()) == 1, "no second complaint that follows from the first"


@pytest.mark.parametrize(
    "text, words",
    [
        ("", "local.yaml is empty"),
        ("# nothing", "local.yaml is empty"),
        ("just words", "local.yaml is not a Serve config: it must have `applications`"),
        ("proxy_location: HeadOnly", "applications: missing"),
        ("applications: []", "applications: must be a list of one application"),
    ],
)
def test_a_file_that_is_no_config_is_called_what_it_is(tmp_path: Path, text: str, words: str) -> None:
    assert words in refusal(tmp_path, text)


@pytest.mark.parametrize(
    "variable, value, words",
    [
        ("BATCHYARD_PORT", "abc", "BATCHYARD_PORT is 'abc'; it must be a port number"),
        ("BATCHYARD_REPLICAS", "zwei", "BATCHYARD_REPLICAS is 'zwei': "),
        ("BATCHYARD_HOST", "0.0.0.0", "there are no API keys"),
    ],
)
def test_a_wrong_variable_is_named_and_no_line_of_the_file(
    tmp_path: Path, variable: str, value: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    path = tmp_path / "local.yaml"
    path.write_text(TINY.replace("      models:\n", "      models:\n        - {id: b, source: hub/b}\n"))
    environ = {"BATCHYARD_CONFIG": str(path), variable: value}
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError) as refused:
        checked_settings(LocalConfig.load(environ))
    assert words in str(refused.value)
    assert str(path) not in str(refused.value) and len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize("neighbour", ["Owner", "Qwen"])
def test_a_name_on_a_hub_is_no_folder_even_beside_one_called_as_its_owner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, neighbour: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / neighbour / "another-model").mkdir(parents=True)
    path = tmp_path / "local.yaml"
    path.write_text(TINY.replace("models/tiny", "Qwen/Qwen3-8B"))
    assert checked_settings(LocalConfig.load({"BATCHYARD_CONFIG": str(path)})).models[0].source == "Qwen/Qwen3-8B"


def test_a_file_that_is_nested_beyond_reason_is_refused_in_words(tmp_path: Path) -> None:
    assert "nested too deeply" in refusal(tmp_path, "a: " + "[" * 5000)


@pytest.mark.parametrize("value", ["x", 1, {"a": 1}, [], None], ids=str)
def test_every_argument_of_vllm_can_be_checked(value: object) -> None:
    kinds = argument_kinds()
    assert kinds
    for fault in argument_faults(dict.fromkeys(kinds, value), kinds):
        assert "vLLM does not take" in fault[1]
