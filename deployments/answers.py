"""vLLM's answers over HTTP before they leave its replica: checked, and explained where they name a vLLM option."""

import contextlib
import json
from collections.abc import AsyncGenerator
from typing import Any

from app.api.envelope import envelope as envelope_of
from app.store import Usage
from deployments.messages import HttpStart

KINDS = {
    "/v1/chat/completions": "chat.completion",
    "/v1/completions": "text_completion",
    "/v1/embeddings": "list",
    "/v1/responses": "response",
}
"""The `object` of a good answer of each endpoint."""

ERROR_BYTES = 16 * 1024
"""The longest body of an error. A batch keeps one for each failed line."""

CUT_CHARACTERS = 2_000
"""What is left of a longer one. As JSON a character takes up to six bytes."""

TOLD = {
    "--tool-call-parser": "In Batchyard these are `enable_auto_tool_choice: true` and `tool_call_parser: NAME`, under "
    "`engine` of the model in the config."
}
"""What a client of ours needs to know behind vLLM's message that names one of its command line's options."""


def checked(endpoint: str, status: int, content: bytes) -> tuple[int, bytes, dict[str, Any] | None]:
    """Status and JSON object that stand for vLLM's answer to a line, and its usage.

    An error keeps its status and has an envelope; a good answer is a JSON object of the endpoint's kind, or else a 502.
    """
    try:
        answer = json.loads(content)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        answer = {}
    if status >= 400 and "error" in answer:
        return status, short_error(status, content), None
    if status == 200 and answer.get("object") == KINDS[endpoint]:
        return status, content, answer.get("usage")
    said = content[:200].decode(errors="replace")
    if status >= 400:
        return status, envelope(status, f"{endpoint}: {said}"), None
    message = f"The engine's answer to {endpoint} has status {status} and is no {KINDS[endpoint]!r} in JSON: {said}"
    return 502, envelope(502, message), None


async def explained(messages: AsyncGenerator[HttpStart | bytes, None]) -> AsyncGenerator[HttpStart | bytes, None]:
    """The same answer; an error at most ERROR_BYTES long; a 400 about the engine's settings says where they are set."""
    async with contextlib.aclosing(messages):
        async for message in messages:
            if not isinstance(message, HttpStart) or message.status < 400:
                yield message
                continue
            content = short_error(message.status, await _collected(messages))
            if message.status == 400:
                content = _with_our_words(content)
            kept = [(name, value) for name, value in message.headers if name.lower() != "content-length"]
            yield HttpStart(message.status, [*kept, ("content-length", str(len(content)))])
            yield content


async def _collected(messages: AsyncGenerator[HttpStart | bytes, None]) -> bytes:
    """The body, or of one that is too long anyhow its beginning; the rest is read and dropped."""
    content = bytearray()
    async for part in messages:
        if isinstance(part, bytes) and len(content) <= ERROR_BYTES:
            content += part
    return bytes(content)


def short_error(status: int, content: bytes) -> bytes:
    """The body of an error, cut where it is longer than ERROR_BYTES: it may repeat what was sent, many times over."""
    if len(content) <= ERROR_BYTES:
        return content
    message = content[:CUT_CHARACTERS].decode(errors="replace")
    return envelope(status, f"{message}… (cut: the engine's error is longer than {ERROR_BYTES} bytes)")


def _with_our_words(content: bytes) -> bytes:
    told = [ours for theirs, ours in TOLD.items() if theirs.encode() in content]
    if not told:
        return content
    answer = json.loads(content)
    try:
        answer["error"]["message"] = " ".join([answer["error"]["message"].rstrip(".") + ".", *told])
    except (KeyError, TypeError, AttributeError):  # no envelope: it goes out as it is
        return content
    return json.dumps(answer).encode()


def usage_of(usage: dict[str, Any] | None) -> Usage:
    """vLLM's usage of one answer (chat, completion, embedding or responses) in the terms of the batch object."""
    if not usage:
        return Usage()
    prompt_details = usage.get("prompt_tokens_details") or usage.get("input_tokens_details") or {}
    output_details = usage.get("completion_tokens_details") or usage.get("output_tokens_details") or {}
    return Usage(
        input_tokens=usage.get("prompt_tokens") or usage.get("input_tokens") or 0,
        cached_tokens=prompt_details.get("cached_tokens") or 0,
        output_tokens=usage.get("completion_tokens") or usage.get("output_tokens") or 0,
        reasoning_tokens=output_details.get("reasoning_tokens") or 0,
    )


def envelope(status: int, message: str) -> bytes:
    return json.dumps(envelope_of(status, message)).encode()
