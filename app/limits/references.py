"""`$ref` in a JSON schema: one that leads back to itself without any text between describes nothing that ends."""

from collections.abc import Iterator
from typing import Any

from app.errors import RequestRefused

_SAME_PLACE = ("anyOf", "oneOf", "allOf")
"""Their branches describe the same text as the schema that has them."""


def check_references(name: str, schema: dict[str, Any]) -> None:
    """Raises RequestRefused when a schema refers to itself in a circle. `name`: the body's member that holds it."""
    done: set[int] = set()
    for start in _with_reference(schema):
        circle = _circle_from(start, schema, done)
        if circle is not None:
            message = f"A JSON schema in '{name}' refers to itself without an end, at $ref {circle!r:.100}."
            raise RequestRefused("invalid_json_schema", message, name)


def _with_reference(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    left: list[Any] = [schema]
    while left:
        each = left.pop()
        if isinstance(each, dict):
            left += each.values()
            if isinstance(each.get("$ref"), str):
                yield each
        elif isinstance(each, list):
            left += each


def _circle_from(start: dict[str, Any], root: dict[str, Any], done: set[int]) -> str | None:
    """The reference that closes a circle, found depth first; `done`: nodes that are known to lead into none."""
    on_path: set[int] = set()
    left: list[tuple[dict[str, Any], bool]] = [(start, False)]
    while left:
        node, leaves = left.pop()
        if leaves:
            on_path.discard(id(node))
            done.add(id(node))
            continue
        if id(node) in done:
            continue
        if id(node) in on_path:
            return str(node.get("$ref", "#"))
        on_path.add(id(node))
        left.append((node, True))
        left += [(each, False) for each in _same_place(node, root)]
    return None


def _same_place(node: dict[str, Any], root: dict[str, Any]) -> Iterator[dict[str, Any]]:
    reference = node.get("$ref")
    if isinstance(reference, str) and isinstance(target := _resolved(reference, root), dict):
        yield target
    for name in _SAME_PLACE:
        branches = node.get(name)
        if isinstance(branches, list):
            yield from (each for each in branches if isinstance(each, dict))


def _resolved(reference: str, root: Any) -> Any:
    """What a local reference names; None where it names nothing here."""
    if not reference.startswith("#"):
        return None
    found = root
    for part in reference.split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        if isinstance(found, list) and key.isdecimal() and len(key) < 9 and int(key) < len(found):
            found = found[int(key)]
        elif isinstance(found, dict):
            found = found.get(key)
        else:
            return None
    return found
