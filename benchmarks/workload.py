"""The benchmark's batch: chat lines for the model `tiny`, each about 126 prompt tokens in and exactly 32 tokens out.

    python -m benchmarks.workload PATH [LINES]

The lines start with different words, so no prefix cache helps any engine; the output length is forced, so that every
engine does the same work.
"""

import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path

MODEL = "tiny"
LINES = 4000
OUTPUT_TOKENS = 32
SEED = 0
# With the chat template's tokens around them this many words come to 126 tokens on average (tiny's own tokenizer).
WORDS_A_PROMPT = 99

# Common words of Python's sources, which tiny's tokenizer was trained on: one or two tokens each.
# fmt: off
WORDS = (
    "return", "value", "name", "self", "class", "method", "argument", "string", "list", "file", "path", "line",
    "error", "type", "default", "result", "object", "key", "index", "start", "end", "count", "size", "data", "module",
    "function", "import", "call", "check", "test", "read", "write", "open", "close", "buffer", "socket", "address",
    "message", "header", "content", "length", "encoding", "format", "pattern", "match", "group", "option", "parser",
    "command", "thread", "lock", "queue", "task", "event", "loop", "time", "date", "year", "month", "number",
    "integer", "float", "decimal", "context",
)
# fmt: on


def lines(count: int = LINES) -> Iterator[str]:
    """The first `count` lines of the batch, without line ends; the same on every call."""
    chooser = random.Random(SEED)
    for number in range(count):
        prompt = " ".join(chooser.choices(WORDS, k=WORDS_A_PROMPT))
        body = {
            "model": MODEL,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": 0,
            "max_tokens": OUTPUT_TOKENS,
            "ignore_eos": True,
        }
        line = {"custom_id": f"line-{number:07}", "method": "POST", "url": "/v1/chat/completions", "body": body}
        yield json.dumps(line)


def write(path: Path, count: int = LINES) -> Path:
    """Writes `count` lines to `path`, one at a time, and returns it."""
    with path.open("w", encoding="utf-8") as file:
        file.writelines(line + "\n" for line in lines(count))
    return path


if __name__ == "__main__":
    write(Path(sys.argv[1]), *map(int, sys.argv[2:3]))
