"""A Serve config as a file that a person wrote: what is wrong with it is said with file, line and field."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from yaml.constructor import ConstructorError

from app.errors import ConfigFault, SettingsError
from app.settings import did_you_mean, dotted

Place = tuple[str | int, ...]

# Ray Serve's own keys; tests/unit/test_upgrade.py compares them with its schema.
CONFIG_KEYS = (
    "proxy_location",
    "http_options",
    "grpc_options",
    "controller_options",
    "logging_config",
    "tracing_config",
    "applications",
    "target_capacity",
)
HTTP_KEYS = (
    "host",
    "port",
    "root_path",
    "request_timeout_s",
    "keep_alive_timeout_s",
    "ssl_keyfile",
    "ssl_certfile",
    "ssl_keyfile_password",
    "ssl_ca_certs",
)
SERVED_HTTP_KEYS = {"host", "port", "request_timeout_s"}
APPLICATION_KEYS = (
    "name",
    "route_prefix",
    "import_path",
    "runtime_env",
    "host",
    "port",
    "deployments",
    "autoscaling_policy",
    "args",
    "logging_config",
    "external_scaler_enabled",
)


@dataclass(frozen=True)
class ConfigFile:
    """`content` has one application; what stands in its `args` is for `Settings` to judge."""

    path: Path
    content: dict[str, Any] = field(repr=False)  # it may hold keys
    lines: dict[Place, int] = field(repr=False)
    """Where each value stands, from 1."""

    @classmethod
    def read(cls, path: Path) -> "ConfigFile":
        """Raises SettingsError."""
        root, content = _parsed(path)
        if content is None or root is None:
            raise SettingsError(f"{path} is empty; it must be a Serve config, such as local.yaml")
        if not isinstance(content, dict):
            raise SettingsError(f"{path} is not a Serve config: it must have `applications`, as local.yaml has")
        file = cls(path, content, dict(_lines(root, ())))
        if faults := list(_shape_faults(content)):
            raise file.error(faults)
        return file

    def error(self, faults: Sequence[ConfigFault]) -> SettingsError:
        """One line for each fault; those without a place speak for themselves."""
        return SettingsError("\n".join(f"{self._where(place)}{message}" for place, message in faults))

    def args_error(self, error: SettingsError) -> SettingsError:
        """What `Settings` found wrong with the application's args."""
        if not error.faults:
            return error
        return self.error(
            [(("applications", 0, "args", *place) if place else (), what) for place, what in error.faults]
        )

    def _where(self, place: Place) -> str:
        if not place:
            return ""
        known = next((place[:end] for end in range(len(place), 0, -1) if place[:end] in self.lines), ())
        line = f":{self.lines[known]}" if known else ""
        return f"{self.path}{line}: {dotted(place)}: "


class _Loader(yaml.SafeLoader):
    """Names the line as well of what only looks like a date or a number, and of what is a part of itself."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        node = super().compose_node(parent, index)
        if node is not None and node.end_mark is None:  # of an alias, and what it stands for has not ended yet
            raise ConstructorError(None, None, "this value is a part of itself", node.start_mark)
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except ValueError as error:
            problem = f"{node.value!r} cannot be read ({error}); in quotes it is text"
            raise ConstructorError(None, None, problem, node.start_mark) from error


def _parsed(path: Path) -> tuple[yaml.Node | None, Any]:
    """The file's nodes, and what they stand for. Raises SettingsError."""
    try:
        loader = _Loader(path.read_text())
        root = loader.get_single_node()
        return root, None if root is None else loader.construct_document(root)
    except OSError as error:
        raise SettingsError(f"BATCHYARD_CONFIG: {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path} is no text in UTF-8") from error
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise SettingsError(f"{path}{line}: this is not YAML: {error.problem}") from error
    except yaml.YAMLError as error:
        raise SettingsError(f"{path}: this is not YAML: {error}") from error
    except RecursionError as error:
        raise SettingsError(f"{path} is nested too deeply") from error


def _lines(node: yaml.Node, place: Place) -> Iterator[tuple[Place, int]]:
    """A value's line is its key's, where it has one."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield (*place, str(key.value)), key.start_mark.line + 1
            yield from _lines(value, (*place, str(key.value)))
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield (*place, index), value.start_mark.line + 1
            yield from _lines(value, (*place, index))


def _shape_faults(content: dict[str, Any]) -> Iterator[ConfigFault]:
    unknown = list(_unknown(content, (), CONFIG_KEYS))
    yield from unknown
    http = content.get("http_options")
    if isinstance(http, dict):
        yield from _unknown(http, ("http_options",), HTTP_KEYS)
        yield from _http_faults(http)
    elif http is not None:
        yield ("http_options",), "must be a mapping, such as `port: 8000`"
    applications = content.get("applications")
    if "applications" not in content:
        if not any("did you mean applications" in what for _, what in unknown):
            yield ("applications",), "missing; it lists the application to serve, as in local.yaml"
    elif not isinstance(applications, list) or len(applications) != 1 or not isinstance(applications[0], dict):
        yield ("applications",), "must be a list of one application, as in local.yaml"
    else:
        yield from _application_faults(applications[0])


def _application_faults(application: dict[str, Any]) -> Iterator[ConfigFault]:
    place = ("applications", 0)
    yield from _unknown(application, place, APPLICATION_KEYS)
    path = application.get("import_path")
    if not isinstance(path, str) or not all(path.partition(":")):
        yield (*place, "import_path"), "must be app.main:build"
    if not isinstance(application.get("args") or {}, dict):
        yield (*place, "args"), "must be a mapping with `models`, as in local.yaml"


def _http_faults(http: dict[str, Any]) -> Iterator[ConfigFault]:
    if "port" in http and not is_port(http["port"]):
        yield ("http_options", "port"), f"must be a port number up to 65535, not {http['port']!r}"
    if not isinstance(http.get("host", ""), str):
        yield ("http_options", "host"), f"must be an address such as 127.0.0.1, not {http['host']!r}"
    for key in sorted(http.keys() & set(HTTP_KEYS) - SERVED_HTTP_KEYS):
        yield ("http_options", key), "batchyard serve cannot do that; use `serve run`, or a reverse proxy in front"
    seconds = http.get("request_timeout_s")
    if seconds is not None and (isinstance(seconds, bool) or not isinstance(seconds, int | float) or seconds <= 0):
        yield ("http_options", "request_timeout_s"), f"must be a number of seconds, not {seconds!r}"


def is_port(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 65535


def _unknown(mapping: dict[str, Any], place: Place, known: Sequence[str]) -> Iterator[ConfigFault]:
    for key in mapping:
        if key not in known:
            yield (*place, key), f"unknown key; {did_you_mean(str(key), known)}"
