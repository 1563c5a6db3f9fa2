"""vLLM's engine arguments by name and kind, read out of vLLM's own classes without importing them.

The import takes ten seconds and 500 MB, and a start has to do it elsewhere anyway; reading takes under half a second.
"""

import ast
import importlib.util
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError

from app.settings import did_you_mean

SOURCES = {
    "engine/arg_utils.py": ("EngineArgs", "AsyncEngineArgs"),
    "entrypoints/launchers/cli_args.py": ("BaseFrontendArgs", "FrontendArgs"),
}
"""Where in vLLM the classes are that Ray Serve LLM takes an engine's arguments for; a test compares the fields."""

PLAIN = {"int": int, "float": float, "bool": bool, "str": str, "list": list, "dict": dict, "Any": Any}


@dataclass(frozen=True)
class Kind:
    """What an argument may be."""

    annotation: ast.expr
    names: "_Names"

    @property
    def words(self) -> str:
        return ast.unparse(self.annotation)

    @cached_property
    def type(self) -> Any:
        """Any where it names classes of vLLM: these know best themselves."""
        try:
            return _evaluated(self.annotation, self.names)
        except (NameError, TypeError):
            return Any

    @property
    def choices(self) -> list[str]:
        """The values that it names; none where any of its type will do."""
        return [str(value) for value in _choices(self.type)]


def argument_kinds() -> dict[str, Kind] | None:
    """Each argument with its kind; None where vLLM is not installed, or not as we know it."""
    vllm = importlib.util.find_spec("vllm")
    if vllm is None or vllm.origin is None:
        return None
    root = Path(vllm.origin).parent
    kinds: dict[str, Kind] = {}
    for file, classes in SOURCES.items():
        if not (root / file).is_file():
            return None
        module = _module(root / file)
        defined = {node.name: node for node in module.body if isinstance(node, ast.ClassDef)}
        if not defined.keys() >= set(classes):
            return None
        names = _names_in(root / file, root)
        for each in classes:
            kinds |= {field: Kind(annotation, names) for field, annotation in _fields(defined[each])}
    return kinds


def argument_faults(arguments: Mapping[str, Any], kinds: Mapping[str, Kind]) -> Iterator[tuple[str, str]]:
    """Names that vLLM does not have, and values of another kind than it wants, where that is a plain one."""
    for name, value in arguments.items():
        if name not in kinds:
            yield name, f"vLLM has no such argument; {_near(name, kinds)}"
        elif not _fits(value, kinds[name].type):
            choices = kinds[name].choices
            wanted = did_you_mean(str(value), choices) if choices else f"it wants {kinds[name].words}"
            yield name, f"vLLM does not take {value!r}; {wanted}"


class _Names(dict[str, Any]):
    """The names in a module of vLLM that stand for plain types, such as `ModelDType`; each is read when asked for."""

    def __init__(self, module: ast.Module, root: Path) -> None:
        super().__init__(PLAIN, Literal=Literal)
        self._root = root
        self._assigned = dict(_assignments(module))
        self._imported = dict(_imports(module))

    def __missing__(self, name: str) -> Any:
        """Raises KeyError for what is no plain type."""
        if name in self._assigned:
            self[name] = _evaluated(self._assigned[name], self)
        elif name in self._imported:
            self[name] = _names_in(self._source_of(name), self._root)[name]
        else:
            raise KeyError(name)
        return self[name]

    def _source_of(self, name: str) -> Path:
        """Raises KeyError."""
        _, *packages = self._imported[name].split(".")
        path = self._root.joinpath(*packages)
        for source in (path.with_suffix(".py"), path / "__init__.py"):
            if source.is_file():
                return source
        raise KeyError(name)


@cache
def _module(source: Path) -> ast.Module:
    return ast.parse(source.read_text())


@cache
def _names_in(source: Path, root: Path) -> _Names:
    return _Names(_module(source), root)


def _evaluated(expression: ast.expr, names: Mapping[str, Any]) -> Any:
    """Raises NameError, and what comes of names that are no types."""
    return eval(ast.unparse(expression), {"__builtins__": {}}, names)


def _fields(definition: ast.ClassDef) -> Iterator[tuple[str, ast.expr]]:
    for node in definition.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id, node.annotation


def _assignments(module: ast.Module) -> Iterator[tuple[str, ast.expr]]:
    """Of what may be a type: `A = Literal[…]`, `A: TypeAlias = B | None`."""
    for node in module.body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        value = getattr(node, "value", None)
        if isinstance(target, ast.Name) and isinstance(value, ast.Subscript | ast.BinOp | ast.Name):
            yield target.id, value


def _imports(module: ast.Module) -> Iterator[tuple[str, str]]:
    """Names from vLLM's own modules, each with its module."""
    for node in module.body:
        if isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").startswith("vllm."):
            yield from ((each.name, node.module or "") for each in node.names if each.asname is None)


def _choices(kind: Any) -> Iterator[Any]:
    if get_origin(kind) is Literal:
        yield from get_args(kind)
    else:
        for part in get_args(kind):
            yield from _choices(part)


def _near(name: str, kinds: Mapping[str, Kind]) -> str:
    """There are over 200: a suggestion or nothing."""
    near = get_close_matches(name, kinds, n=1)
    return f"did you mean {near[0]}?" if near else "`vllm serve --help=all` lists them, with - for _"


def _fits(value: object, kind: Any) -> bool:
    try:
        TypeAdapter(kind, config=ConfigDict(strict=True)).validate_python(value)
    except ValidationError:
        return False
    except PydanticUserError:  # a class of vLLM by its name in quotes
        return True
    return True
