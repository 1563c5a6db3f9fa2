"""What constrains an answer: JSON schemas, grammars, expressions and choices, wherever a body has them.

An engine compiles them, in a time that grows faster than they do; docs/performance.md has what was measured.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from app import strict_json
from app.limits.expressions import expanded_length
from app.limits.references import check_references
from app.limits.refusal import check_limit, wrong_shape
from app.limits.tree import depth_of
from app.settings import RequestLimits

_HOLDERS = ("response_format", "structured_outputs", "text", "tools")
"""Members of a body that hold constraints."""

_AS_TEXT = ("json", "structural_tag")
"""Members of `structured_outputs` that may be JSON in a string."""

_SCHEMAS = ("schema", "json_schema", "json", "parameters")
"""Members with a JSON schema, of `response_format`, `structured_outputs`, a structural tag, a function."""

_CHOICES = ("enum", "prefixItems", "items", "choice")
_BRANCHES = ("anyOf", "oneOf", "allOf")
_EXPRESSIONS = ("pattern", "regex", "whitespace_pattern")

FORMAT_CHARACTERS = 32
"""What the expression behind a `format` counts as."""


def check(endpoint: str, body: dict[str, Any], limits: RequestLimits) -> None:
    """Raises RequestRefused."""
    total = _Total()
    for name in _HOLDERS:
        held = body.get(name)
        if isinstance(held, dict | list):
            _check_constraints(name, _with_json_read(name, held), total, limits)


@dataclass
class _Total:
    """Of all constraints of a body so far."""

    size: int = 0
    properties: int = 0
    optional: int = 0
    """The most in one object."""
    choices: int = 0
    branches: int = 0
    characters: int = 0
    expressions: int = 0
    grammar: int = 0

    def check(self, name: str, limits: RequestLimits) -> None:
        """Raises RequestRefused."""
        check_limit(self.properties, limits.schema_properties, "schema_properties", "properties in JSON schemas", name)
        optional = "optional properties in one object of a JSON schema"
        check_limit(self.optional, limits.schema_optional, "schema_optional", optional, name)
        check_limit(self.choices, limits.schema_choices, "schema_choices", "choices", name)
        check_limit(self.branches, limits.schema_branches, "schema_branches", "branches in JSON schemas", name)
        characters = "characters in names of properties and in choices"
        check_limit(self.characters, limits.schema_characters, "schema_characters", characters, name)
        repeated = "characters in expressions, repeats written out,"
        check_limit(self.expressions, limits.regex_characters, "regex_characters", repeated, name)
        check_limit(self.grammar, limits.grammar_characters, "grammar_characters", "characters in a grammar", name)


def _with_json_read(name: str, held: dict[str, Any] | list[Any]) -> dict[str, Any] | list[Any]:
    """The same with the value of each JSON that is in a string. Raises RequestRefused."""
    if name != "structured_outputs" or not isinstance(held, dict):
        return held
    return {key: _read(f"{name}.{key}", value) if key in _AS_TEXT else value for key, value in held.items()}


def _read(place: str, value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return strict_json.loads(value)
    except (ValueError, RecursionError):
        wrong_shape(place, "JSON")


def _check_constraints(name: str, held: dict[str, Any] | list[Any], total: _Total, limits: RequestLimits) -> None:
    check_limit(depth_of(held), limits.schema_depth, "schema_depth", "levels in a JSON schema", name)
    for each in _objects(held):
        _add(each, total)
        total.check(name, limits)
    total.size += len(json.dumps(held, separators=(",", ":")))
    check_limit(total.size, limits.schema_bytes, "schema_bytes", "bytes of JSON schemas", name)
    for schema in _schemas(held):
        check_references(name, schema)


def _objects(held: Any) -> Iterator[dict[str, Any]]:
    """All objects in it, itself among them."""
    left = [held]
    while left:
        each = left.pop()
        if isinstance(each, dict):
            yield each
            left += each.values()
        elif isinstance(each, list):
            left += each


def _schemas(held: Any) -> Iterator[dict[str, Any]]:
    for each in _objects(held):
        yield from (each[name] for name in _SCHEMAS if isinstance(each.get(name), dict))


def _add(each: dict[str, Any], total: _Total) -> None:
    _add_properties(each, total)
    for key in _CHOICES:
        if isinstance(choices := each.get(key), list):
            total.choices += len(choices)
            total.characters += sum(len(choice) for choice in choices if isinstance(choice, str))
    if "const" in each:
        total.choices += 1
        total.characters += len(str(each["const"]))
    total.branches += sum(len(each[key]) for key in _BRANCHES if isinstance(each.get(key), list))
    texts = (each[key] for key in _EXPRESSIONS if isinstance(each.get(key), str))
    total.expressions += sum(expanded_length(text) for text in texts)
    total.expressions += FORMAT_CHARACTERS * isinstance(each.get("format"), str)
    if isinstance(grammar := each.get("grammar"), str):
        total.grammar += len(grammar)


def _add_properties(each: dict[str, Any], total: _Total) -> None:
    properties = each.get("properties")
    if not isinstance(properties, dict):
        return
    required = each.get("required")
    named = {name for name in required if isinstance(name, str)} if isinstance(required, list) else set()
    total.properties += len(properties)
    total.optional = max(total.optional, len(properties.keys() - named))
    total.characters += sum(map(len, properties))
