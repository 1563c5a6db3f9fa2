"""What POST /v1/batches asks for, checked by OpenAI's rules."""

from dataclasses import dataclass
from typing import Any

from app.api.errors import bad_request, invalid_type, invalid_value, missing_parameter, unknown_parameter
from app.api.expiry import checked_seconds
from app.settings import ENDPOINTS

COMPLETION_WINDOWS = {"24h": 86_400}
"""Seconds of each completion window; OpenAI has one."""

LONGEST_ID = 64
METADATA_PAIRS = 16
METADATA_KEY = 64
METADATA_VALUE = 512

_REQUIRED = ("input_file_id", "endpoint", "completion_window")
_OPTIONAL = ("metadata", "output_expires_after")


@dataclass(frozen=True)
class BatchRequest:
    input_file_id: str
    endpoint: str
    completion_window: str
    metadata: dict[str, str] | None
    output_expires_after: int | None

    @classmethod
    def of(cls, body: dict[str, Any]) -> "BatchRequest":
        """Raises ApiError, with the member that is wrong as `param`. An optional member that is null is absent."""
        for name in body:
            if name not in _REQUIRED + _OPTIONAL:
                raise unknown_parameter(name[:METADATA_KEY])
        return cls(
            input_file_id=_file_id(body),
            endpoint=_one_of(body, "endpoint", ENDPOINTS),
            completion_window=_one_of(body, "completion_window", COMPLETION_WINDOWS),
            metadata=_metadata(body.get("metadata")),
            output_expires_after=_output_expires_after(body.get("output_expires_after")),
        )


def _string(body: dict[str, Any], name: str) -> str:
    if name not in body:
        raise missing_parameter(name)
    value = body[name]
    if not isinstance(value, str):
        raise invalid_type(name, "a string", value)
    return value


def _file_id(body: dict[str, Any]) -> str:
    value = _string(body, "input_file_id")
    if not 1 <= len(value) <= LONGEST_ID:
        message = f"Invalid 'input_file_id': expected from 1 to {LONGEST_ID} characters, but got {len(value)}."
        raise bad_request(message, "input_file_id", "invalid_value")
    return value


def _one_of(body: dict[str, Any], name: str, supported: Any) -> str:
    value = _string(body, name)
    if value not in supported:
        raise invalid_value(name, value, supported)
    return value


def _metadata(value: object) -> dict[str, str] | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        raise invalid_type("metadata", "an object", value)
    if len(value) > METADATA_PAIRS:
        message = f"Invalid 'metadata': expected at most {METADATA_PAIRS} pairs, but got {len(value)}."
        raise bad_request(message, "metadata", "object_above_max_properties")
    for key, text in value.items():
        param = f"metadata.{key[:METADATA_KEY]}"
        if len(key) > METADATA_KEY:
            raise _too_long(param, "a key", METADATA_KEY, key)
        if not isinstance(text, str):
            raise invalid_type(param, "a string", text)
        if len(text) > METADATA_VALUE:
            raise _too_long(param, "a value", METADATA_VALUE, text)
    return value


def _too_long(param: str, what: str, longest: int, text: str) -> Exception:
    message = f"Invalid '{param}': expected {what} of at most {longest} characters, but got {len(text)}."
    return bad_request(message, param, "string_above_max_length")


def _output_expires_after(value: object) -> int | None:
    name = "output_expires_after"
    if value is None:
        return None
    if not isinstance(value, dict):
        raise invalid_type(name, "an object", value)
    for member in value:
        if member not in ("anchor", "seconds"):
            raise unknown_parameter(f"{name}.{member[:METADATA_KEY]}")
    return checked_seconds(value.get("anchor"), value.get("seconds"), (f"{name}.anchor", f"{name}.seconds"))
