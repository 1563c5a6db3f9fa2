"""vLLM's engine arguments by name and kind, read out of vLLM's own classes without importing them.

The import takes ten seconds and 500 MB, and a start has to do it elsewhere anyway; reading takes a tenth of a second.
"""

import ast
import importlib.util
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError

SOURCES = {
    "engine/arg_utils.py": ("EngineArgs", "AsyncEngineArgs"),
    "entrypoints/launchers/cli_args.py": ("BaseFrontendArgs", "FrontendArgs"),
}
"""Where in vLLM the classes are that Ray Serve LLM takes an engine's arguments for; a test compares the fields."""

PLAIN = {"int": int, "float": float, "bool": bool, "str": str, "list": list, "dict": dict, "Any": Any}


def argument_kinds() -> dict[str, str] | None:
    """Each argument with its annotation; None where vLLM is not installed, or not as we know it."""
    vllm = importlib.util.find_spec("vllm")
    if vllm is None or vllm.origin is None:
        return None
    kinds: dict[str, str] = {}
    for name, classes in SOURCES.items():
        source = Path(vllm.origin).parent / name
        if not source.is_file():
            return None
        defined = {node.name: node for node in ast.parse(source.read_text()).body if isinstance(node, ast.ClassDef)}
        if not defined.keys() >= set(classes):
            return None
        for each in classes:
            kinds |= _fields(defined[each])
    return kinds


def _fields(definition: ast.ClassDef) -> dict[str, str]:
    return {
        node.target.id: ast.unparse(node.annotation)
        for node in definition.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }


def argument_faults(arguments: Mapping[str, Any], kinds: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Names that vLLM does not have, and values of another kind than it wants, where that is a plain one."""
    for name, value in arguments.items():
        if name not in kinds:
            yield name, f"vLLM has no such argument; {_near(name, kinds)}"
        elif not _fits(value, kinds[name]):
            yield name, f"vLLM wants {kinds[name]}, not {value!r}"


def _near(name: str, kinds: Mapping[str, str]) -> str:
    """There are over 200: a suggestion or nothing."""
    near = get_close_matches(name, kinds, n=1)
    return f"did you mean {near[0]}?" if near else "`vllm serve --help=all` lists them, with - for _"


def _fits(value: object, annotation: str) -> bool:
    """True as well for an annotation that names classes of vLLM: these know best themselves."""
    try:
        kind = eval(annotation, {"__builtins__": {}}, PLAIN)
    except NameError:
        return True
    try:
        TypeAdapter(kind, config=ConfigDict(strict=True)).validate_python(value)
    except ValidationError:
        return False
    except PydanticUserError:  # a class of vLLM by its name in quotes
        return True
    return True
