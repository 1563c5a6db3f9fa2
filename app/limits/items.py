"""Messages, items of `input`, their contents, tools and prompts: how many, and of what shape.

What an item is vLLM finds out by trying: some ten kinds of message, sixty of item, each with kinds of content. An item
that is none of them costs it half a megabyte of errors, so one that cannot be any is refused here.
"""

from collections.abc import Callable
from typing import Any

from app.limits.refusal import check_limit, wrong_shape
from app.settings import RequestLimits


def check(endpoint: str, body: dict[str, Any], limits: RequestLimits) -> None:
    """Raises RequestRefused."""
    _CHECKS[endpoint](body, limits)
    tools = list_at(body, "tools", limits.tools, "tools", "tools")
    check_limit(len(tools) + _nested(tools), limits.tools, "tools", "tools", "tools")


def list_at(body: dict[str, Any], name: str, limit: int, setting: str, what: str) -> list[Any]:
    """The list of that name, empty where there is none or something else: that costs vLLM nothing to refuse."""
    value = body.get(name)
    if not isinstance(value, list):
        return []
    check_limit(len(value), limit, setting, what, name)
    return value


def _chat(body: dict[str, Any], limits: RequestLimits) -> None:
    _messages(body, "messages", limits)


def _completion(body: dict[str, Any], limits: RequestLimits) -> None:
    prompt = body.get("prompt")
    if isinstance(prompt, list) and not _is_tokens(prompt):
        check_limit(len(prompt), limits.prompts, "prompts", "prompts", "prompt")


def _embedding(body: dict[str, Any], limits: RequestLimits) -> None:
    value = body.get("input")
    if isinstance(value, list) and not _is_tokens(value):
        check_limit(len(value), limits.embedding_inputs, "embedding_inputs", "inputs", "input")
        first = value[0]
        for position, each in enumerate(value):
            if type(each) is not type(first):
                wrong_shape(f"input[{position}]", "of the same kind as the inputs before it")
        if isinstance(first, dict):
            _messages(body, "input", limits)
    _messages(body, "messages", limits)


def _response(body: dict[str, Any], limits: RequestLimits) -> None:
    _messages(body, "input", limits, typed=True)
    _messages(body, "previous_input_messages", limits)


_CHECKS: dict[str, Callable[[dict[str, Any], RequestLimits], None]] = {
    "/v1/chat/completions": _chat,
    "/v1/completions": _completion,
    "/v1/embeddings": _embedding,
    "/v1/responses": _response,
}


def _is_tokens(value: list[Any]) -> bool:
    """Whether it is one prompt, in tokens."""
    return not value or type(value[0]) is int


def _messages(body: dict[str, Any], name: str, limits: RequestLimits, typed: bool = False) -> None:
    """`typed`: an item may have a `type`, or as a reference an `id` alone, in place of a role."""
    parts = 0
    for position, item in enumerate(list_at(body, name, limits.messages, "messages", "messages")):
        place = f"{name}[{position}]"
        if isinstance(item, list) and not typed:  # one of several conversations of an embedding request
            continue
        if not isinstance(item, dict):
            wrong_shape(place, "an object")
        named = ("role", "type", "id") if typed else ("role",)
        if not any(isinstance(item.get(each), str) for each in named):
            wrong_shape(place, "an object with " + ("a `role` or a `type`" if typed else "a `role`"))
        for member in ("content", "output"):
            parts += _parts(item.get(member), f"{place}.{member}")
        check_limit(parts, limits.content_parts, "content_parts", "parts in the contents of all messages", name)
        _tool_calls(item.get("tool_calls"), f"{place}.tool_calls", limits)


def _parts(content: Any, place: str) -> int:
    if not isinstance(content, list):
        if content is None or isinstance(content, str | dict):
            return 0
        wrong_shape(place, "a text or an array of parts")
    for position, part in enumerate(content):
        if not isinstance(part, str | dict) or part == {}:
            wrong_shape(f"{place}[{position}]", "an object with a `type`")
    return len(content)


def _tool_calls(calls: Any, place: str, limits: RequestLimits) -> None:
    if calls is None:
        return
    if not isinstance(calls, list):
        wrong_shape(place, "an array")
    check_limit(len(calls), limits.tool_calls, "tool_calls", "tool calls in one message", place)
    for position, call in enumerate(calls):
        if not isinstance(call, dict) or not call:
            wrong_shape(f"{place}[{position}]", "an object with a `function`")


def _nested(tools: list[Any]) -> int:
    inner = (tool.get("tools") for tool in tools if isinstance(tool, dict))
    return sum(len(each) for each in inner if isinstance(each, list))
