"""`replicas: auto`: an engine a core, fewer where memory or a large model says so."""

import json
from pathlib import Path

import pytest

from app.cpu_replicas import GIB, Choice, Engine, Machine, choose_replicas, weights_bytes

SMALL = Engine(cores=1, weights=GIB // 2, cache=GIB)  # 2.7 GiB with its processes


def choice(engine: Engine, cores: int = 8, gib: float = 64) -> Choice:
    return choose_replicas({"m": engine}, Machine(cores, int(gib * GIB)))["m"]


def test_a_small_model_gets_an_engine_a_core() -> None:
    assert choice(SMALL) == Choice(8, "an engine a core: there are 8 cores, and this one has 8 engines")


def test_memory_may_allow_fewer() -> None:
    chosen = choice(SMALL, gib=12)
    assert chosen == Choice(3, "as memory allows: 3 engines of about 2.7 GiB, of 12.0 GiB and 8 cores")
    assert choice(SMALL, gib=1).replicas == 1, "one is tried however little there is"


def test_several_models_grow_in_turn() -> None:
    chosen = choose_replicas({"a": SMALL, "b": SMALL, "c": SMALL}, Machine(8, 64 * GIB))
    assert [each.replicas for each in chosen.values()] == [3, 3, 2]
    assert "the models share 8 cores" in chosen["c"].reason


@pytest.mark.parametrize(
    ("engine", "word"),
    [
        (Engine(1, 15 * GIB, GIB), "its weights are large, 15.0 GiB"),
        (Engine(1, None, GIB), "not known before they are downloaded"),
        (Engine(1, GIB // 2, None), "VLLM_CPU_KVCACHE_SPACE"),
    ],
    ids=["large", "on a hub", "a cache without a bound"],
)
def test_some_models_stay_alone(engine: Engine, word: str) -> None:
    chosen = choice(engine, gib=1024)
    assert chosen.replicas == 1 and word in chosen.reason


@pytest.mark.parametrize(
    ("config", "dtype", "loaded"),
    [
        ({"torch_dtype": "bfloat16"}, "float32", 200),
        ({"dtype": "bfloat16"}, "bfloat16", 100),
        ({"dtype": "float32"}, "bfloat16", 50),
        ({"dtype": "float32"}, "auto", 100),
        ({}, "float32", 200),
        (None, "float32", 200),
    ],
)
def test_weights_grow_with_the_type_that_they_are_loaded_in(
    tmp_path: Path, config: dict[str, str] | None, dtype: str, loaded: int
) -> None:
    for part in ("1", "2"):
        (tmp_path / f"model-{part}.safetensors").write_bytes(b"x" * 50)
    (tmp_path / "pytorch_model.bin").write_bytes(b"the same again")
    if config is not None:
        (tmp_path / "config.json").write_text(json.dumps(config))
    assert weights_bytes(str(tmp_path), dtype) == loaded


def test_what_is_no_folder_with_weights_has_none_to_measure(tmp_path: Path) -> None:
    assert weights_bytes(str(tmp_path), "float32") is None
    assert weights_bytes("Qwen/Qwen3-8B", "float32") is None


def test_a_container_counts_by_its_limits(tmp_path: Path) -> None:
    whole = Machine.here(tmp_path)
    assert whole.cores >= 1 and whole.memory > GIB
    (tmp_path / "memory.max").write_text("2147483648\n")
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    assert Machine.here(tmp_path) == Machine(1, 2 * GIB)
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert Machine.here(tmp_path) == whole
