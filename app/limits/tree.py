"""How deep a body is nested, and how many members its objects have."""

from collections.abc import Iterable
from typing import Any

from app.limits.refusal import check_limit
from app.settings import RequestLimits

_CONTAINERS = frozenset({dict, list})


def check_tree(body: dict[str, Any], limits: RequestLimits) -> None:
    """Raises RequestRefused."""
    level: list[Any] = [body]
    depth = 0
    while level:
        depth += 1
        check_limit(depth, limits.depth, "depth", "levels of objects and arrays in the body")
        widest = max((len(each) for each in level if type(each) is dict), default=0)
        check_limit(widest, limits.members, "members", "members in one object of the body")
        level = containers_in(level)


def containers_in(level: Iterable[Any]) -> list[Any]:
    """The objects and arrays that are directly in these."""
    inside = (each.values() if type(each) is dict else each for each in level)
    # Most lists hold none, and a prompt may be a million tokens: this asks without a step of Python for each.
    held = (values for values in inside if not _CONTAINERS.isdisjoint(map(type, values)))
    return [value for values in held for value in values if type(value) in _CONTAINERS]


def depth_of(value: Any) -> int:
    """Levels of objects and arrays: 0 of a number or text."""
    level, depth = containers_in([[value]]), 0
    while level:
        level, depth = containers_in(level), depth + 1
    return depth
