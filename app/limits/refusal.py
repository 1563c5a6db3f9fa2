"""The words of a refusal."""

from typing import NoReturn

from app.errors import RequestRefused


def check_limit(asked: int | float, limit: int, setting: str, what: str, param: str | None = None) -> None:
    """Raises RequestRefused when more is asked for than `limit`; `what` is counted, as in "1000 messages"."""
    if asked > limit:
        message = f"Too many {what}: {asked:,.0f}. At most {limit:,} are allowed (requests.{setting}). Ask for less."
        raise RequestRefused("limit_exceeded", message, param)


def wrong_shape(param: str, expected: str) -> NoReturn:
    """Raises RequestRefused for a value that no engine takes."""
    raise RequestRefused("invalid_type", f"Invalid '{param}': it must be {expected}.", param)
