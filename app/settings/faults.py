"""What is wrong with a config, in a sentence a field."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from app.errors import ConfigFault, SettingsError


def wrong_settings(faults: Sequence[ConfigFault]) -> SettingsError:
    sentences = [f"{dotted(place)}: {message}" if place else message for place, message in faults]
    return SettingsError("The Batchyard config is wrong. " + "; ".join(sentences), faults)


def dotted(place: Sequence[str | int]) -> str:
    return ".".join(str(part) for part in place)


VARIABLES = {
    "data": "BATCHYARD_DATA",
    "restarts_per_hour": "BATCHYARD_RESTARTS_PER_HOUR",
    "replicas": "BATCHYARD_REPLICAS",
}
"""The last words on a field. One that is wrong is named, once, instead of the field or fields."""


def faults_of(error: ValidationError, environ: Mapping[str, str], tree: type[BaseModel]) -> list[ConfigFault]:
    """One for each mistake: a variable that many models have is one, and so is a misspelt key that is missed.

    pydantic leaves out of a list what is wrong in itself, and may then call the list too short.
    """
    faults: dict[ConfigFault, None] = {}
    unknown = [fault["loc"] for fault in error.errors() if fault["type"] == "extra_forbidden"]
    places = [fault["loc"] for fault in error.errors()]
    for fault in error.errors():
        if any(len(place) > len(fault["loc"]) and place[: len(fault["loc"])] == fault["loc"] for place in places):
            continue
        place, message = fault["loc"], fault["msg"].removeprefix("Value error, ")
        if fault["type"] == "extra_forbidden":
            message = "unknown key; " + did_you_mean(str(place[-1]), _known_keys(place[:-1], tree))
        elif fault["type"] == "missing" and any(_may_be_meant(key, place) for key in unknown):
            continue
        variable = next((name for field, name in VARIABLES.items() if field in place), "")
        if environ.get(variable):
            faults[((), f"{variable} is {environ[variable]!r}: {message}")] = None
        else:
            faults[(place, message or "wrong")] = None
    return list(faults)


def did_you_mean(key: str, known: Sequence[str]) -> str:
    near = get_close_matches(key, known, n=1)
    return f"known here: {', '.join(sorted(known))}" + (f"; did you mean {near[0]}?" if near else "")


def _may_be_meant(key: tuple[int | str, ...], missing: tuple[int | str, ...]) -> bool:
    return key[:-1] == missing[:-1] and bool(get_close_matches(str(key[-1]), [str(missing[-1])]))


def _known_keys(path: tuple[int | str, ...], tree: type[BaseModel]) -> list[str]:
    """Of the section of `tree` at `path`, which is a model itself or a tuple of models."""
    if not path:
        return list(tree.model_fields)
    annotation: Any = tree.model_fields[str(path[0])].annotation
    section = next(iter(get_args(annotation)), annotation)
    return list(section.model_fields)
