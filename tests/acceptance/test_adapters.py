"""LoRA adapters: batches of theirs and of their model run side by side on the same replica."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file

from tests.acceptance.conftest import running
from tests.acceptance.lines import assert_each_line_once, chat, jsonl, results
from tests.acceptance.server import ROOT, Server

ADAPTER = "tiny-adapted"
LINES = 40
CHECKED = 5
RANK = 8


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("adapters")
    make_adapter(folder / "adapter")
    config = yaml.safe_load((ROOT / "tests/tiny.yaml").read_text())
    config["applications"][0]["args"]["models"][0]["adapters"] = {ADAPTER: str(folder / "adapter")}
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    yield from running(Server(folder / "data", config=str(path)))


def make_adapter(folder: Path) -> None:
    """In peft's format: random changes to what tiny's attention adds, strong enough that answers differ."""
    tiny = json.loads((ROOT / "models/tiny/config.json").read_text())
    random = torch.Generator().manual_seed(0)
    weights = {}
    for layer in range(tiny["num_hidden_layers"]):
        name = f"base_model.model.model.layers.{layer}.self_attn.o_proj"
        heads = tiny["num_attention_heads"] * tiny["head_dim"]
        weights[f"{name}.lora_A.weight"] = torch.randn(RANK, heads, generator=random)
        weights[f"{name}.lora_B.weight"] = torch.randn(tiny["hidden_size"], RANK, generator=random)
    folder.mkdir()
    save_file(weights, folder / "adapter_model.safetensors")
    description = {"peft_type": "LORA", "r": RANK, "lora_alpha": 16, "target_modules": ["o_proj"], "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(description))


def lines(model: str) -> list[dict[str, Any]]:
    return [chat(f"line-{number}", f"Question {number}?", temperature=0, model=model) for number in range(LINES)]


def test_a_batch_of_an_adapter_is_answered_by_it_beside_one_of_its_model(server: Server) -> None:
    assert [model.id for model in server.client.models.list()] == ["tiny", ADAPTER]
    batches = {model: server.create(jsonl(lines(model))) for model in ("tiny", ADAPTER)}
    texts = {}
    for model, created in batches.items():
        batch = server.finished(created.id)
        assert batch.status == "completed" and batch.request_counts is not None
        assert batch.request_counts.completed == LINES
        assert_each_line_once(server, batch, [f"line-{number}" for number in range(LINES)])
        bodies = [line["response"]["body"] for line in results(server, batch.output_file_id)]
        assert {body["model"] for body in bodies} == {model}
        texts[model] = [body["choices"][0]["message"]["content"] for body in bodies]
    for model, found in texts.items():
        alone = [server.client.chat.completions.create(**line["body"]) for line in lines(model)[:CHECKED]]
        assert {each.model for each in alone} == {model}
        same = sum(each.choices[0].message.content == text for each, text in zip(alone, found, strict=False))
        assert same > CHECKED / 2, f"{model} answers differently beside the other"  # rounding may turn one
    assert set(texts["tiny"]).isdisjoint(texts[ADAPTER])
