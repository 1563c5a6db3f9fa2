"""How much a request wants: sequences, log probabilities, stops and biases."""

from typing import Any

from app.limits.refusal import check_limit
from app.settings import RequestLimits

TOKENS_UNLESS_SAID = 4_096
"""Tokens of an answer whose request does not limit them: the model's context does then, which is not known here."""

CHARACTERS_A_TOKEN = 4
"""OpenAI's rule of thumb."""

WHOLE_VOCABULARY = 200_000
"""What -1 log probabilities count as. vLLM takes that only where its `max_logprobs` is -1."""

_MAX_TOKENS = ("max_completion_tokens", "max_tokens", "max_output_tokens")
_TOKEN_LISTS = ("stop_token_ids", "logit_bias", "logprob_token_ids", "bad_words")


def check(endpoint: str, body: dict[str, Any], limits: RequestLimits) -> None:
    """Raises RequestRefused."""
    _check_lists(body, limits)
    choices = max(_number(body, "n", 1), _number(body, "best_of", 1), 1)
    check_limit(choices, limits.choices, "choices", "choices", "n")
    prompts = _prompts(body.get("prompt")) if endpoint == "/v1/completions" else 1
    check_limit(choices * prompts, limits.sequences, "sequences", "sequences, prompts times n,", "n")
    _check_logprobs(endpoint, body, choices * prompts, limits)


def _check_lists(body: dict[str, Any], limits: RequestLimits) -> None:
    stop = body.get("stop")
    if isinstance(stop, list):
        check_limit(len(stop), limits.stops, "stops", "stop sequences", "stop")
    for name in _TOKEN_LISTS:
        value = body.get(name)
        if isinstance(value, list | dict):
            check_limit(len(value), limits.token_ids, "token_ids", f"entries of {name}", name)


def _check_logprobs(endpoint: str, body: dict[str, Any], sequences: float, limits: RequestLimits) -> None:
    top = _logprobs(body, "logprobs" if endpoint == "/v1/completions" else "top_logprobs")
    chosen = body.get("logprob_token_ids")
    top = max(top, len(chosen)) if isinstance(chosen, list) else top
    if top:
        wanted = sequences * _answer_tokens(body) * (top + 1)
        check_limit(wanted, limits.logprobs, "logprobs", "log probabilities, sequences times tokens times logprobs,")
    of_prompt = _logprobs(body, "prompt_logprobs") or (top if body.get("echo") else 0)
    if of_prompt:
        choices = max(_number(body, "n", 1), 1)
        wanted = choices * _prompt_tokens(body) * (of_prompt + 1)
        check_limit(wanted, limits.logprobs, "logprobs", "log probabilities of the prompt", "prompt_logprobs")


def _answer_tokens(body: dict[str, Any]) -> float:
    said = (_number(body, name, 0) for name in _MAX_TOKENS if body.get(name) is not None)
    return max(next(said, TOKENS_UNLESS_SAID), 0)


def _logprobs(body: dict[str, Any], name: str) -> float:
    wanted = _number(body, name, 0)
    return WHOLE_VOCABULARY if wanted == -1 else max(wanted, 0)


def _number(body: dict[str, Any], name: str, default: int) -> float:
    """As vLLM reads it: "7" and 7.0 are 7. What is no number it refuses."""
    value = body.get(name)
    if value is None or not isinstance(value, int | float | str) or len(str(value)) > 30:
        return default
    try:
        return float(value)
    except ValueError:
        return default


def _prompts(prompt: Any) -> int:
    several = isinstance(prompt, list) and bool(prompt) and not isinstance(prompt[0], int)
    return len(prompt) if several else 1


def _prompt_tokens(body: dict[str, Any]) -> float:
    return sum(_tokens(body.get(name)) for name in ("prompt", "messages", "input"))


def _tokens(value: Any) -> float:
    """About how many; an array of numbers is tokens."""
    tokens, left = 0.0, [value]
    while left:
        each = left.pop()
        if isinstance(each, str):
            tokens += len(each) / CHARACTERS_A_TOKEN
        elif isinstance(each, int | float):
            tokens += 1
        elif isinstance(each, list):
            left += each
        elif isinstance(each, dict):
            left += each.values()
    return tokens
