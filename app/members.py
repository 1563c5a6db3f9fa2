"""Members of a request's body that vLLM would ignore in silence, though their meaning is known."""

from collections.abc import Iterator, Set
from typing import Any

_CONSTRAINTS = {
    "guided_json": "json",
    "guided_regex": "regex",
    "guided_choice": "choice",
    "guided_grammar": "grammar",
    "guided_whitespace_pattern": "whitespace_pattern",
    "structural_tag": "structural_tag",
}
_GENERATING = {name: f'`structured_outputs: {{"{key}": …}}`' for name, key in _CONSTRAINTS.items()}
_EVERYWHERE = {"extra_body": "its members at the top level of the body"}

INSTEAD = {
    "/v1/chat/completions": {
        **_EVERYWHERE,
        **_GENERATING,
        **dict.fromkeys(("max_new_tokens", "max_output_tokens"), "`max_completion_tokens`"),
        "functions": "`tools`",
        "function_call": "`tool_choice`",
        "enable_thinking": '`chat_template_kwargs: {"enable_thinking": …}`',
        "thinking_budget": "`thinking_token_budget`",
        "reasoning": "`reasoning_effort`",
    },
    "/v1/completions": {
        **_EVERYWHERE,
        **_GENERATING,
        **dict.fromkeys(("max_completion_tokens", "max_new_tokens", "max_output_tokens"), "`max_tokens`"),
    },
    "/v1/responses": {
        **_EVERYWHERE,
        **_GENERATING,
        **dict.fromkeys(("max_completion_tokens", "max_new_tokens", "max_tokens"), "`max_output_tokens`"),
        "response_format": '`text: {"format": …}`',
        "reasoning_effort": '`reasoning: {"effort": …}`',
        "enable_thinking": '`chat_template_kwargs: {"enable_thinking": …}`',
    },
    "/v1/embeddings": _EVERYWHERE,
}
"""What to write in their place, by endpoint: vLLM's own earlier names, and those of other APIs."""


def misnamed(endpoint: str, body: dict[str, Any], known: Set[str] | None) -> tuple[str, str] | None:
    """The first member to be refused, and the message for the client; `known`: to the engine, so not refused."""
    for name in sorted(body.keys() & INSTEAD[endpoint].keys()):
        if body[name] is not None and (known is None or name not in known):
            return name, f"The engine would ignore '{name}'. Write {INSTEAD[endpoint][name]} instead."
    return None


def unknown(body: dict[str, Any], known: Set[str] | None) -> Iterator[str]:
    """The members that the engine ignores. A member that is null counts as absent."""
    return (name for name, value in body.items() if value is not None and known is not None and name not in known)
