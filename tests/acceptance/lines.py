"""Batch input lines for the model `tiny`, and what must be true of every finished batch."""

import json
from collections.abc import Sequence
from typing import Any

from openai.types import Batch

from tests.acceptance.server import Server


def chat(custom_id: str, content: str = "Say something.", **body: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": content}]
    return {
        "custom_id": custom_id,
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {"model": "tiny", "messages": messages, "max_tokens": 8, **body},
    }


def jsonl(lines: Sequence[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


def chats(count: int, **body: Any) -> bytes:
    return jsonl([chat(f"line-{number}", f"Line {number} says: go.", **body) for number in range(count)])


def results(server: Server, file_id: str | None) -> list[dict[str, Any]]:
    return [json.loads(line) for line in server.content(file_id).split(b"\n") if line]


def assert_each_line_once(server: Server, batch: Batch, custom_ids: Sequence[str]) -> None:
    """Lost, doubled and out of order: none, in output and error file together."""
    output = [line["custom_id"] for line in results(server, batch.output_file_id)]
    errors = [line["custom_id"] for line in results(server, batch.error_file_id)]
    order = {custom_id: position for position, custom_id in enumerate(custom_ids)}
    assert sorted(output + errors, key=order.__getitem__) == list(custom_ids)
    for ids in (output, errors):
        assert ids == sorted(ids, key=order.__getitem__)
    assert batch.request_counts is not None
    assert (batch.request_counts.completed, batch.request_counts.failed) == (len(output), len(errors))
