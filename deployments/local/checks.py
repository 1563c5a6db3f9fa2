"""What can be known to be wrong with a config before anything of Ray or vLLM starts."""

from collections.abc import Iterator
from pathlib import Path

from app.errors import ConfigFault
from app.settings import ModelSettings, Settings, wrong_settings
from deployments.local.engine_arguments import argument_faults, argument_kinds
from deployments.local.local_config import LocalConfig, refuse_open_door


def checked_settings(config: LocalConfig) -> Settings:
    """The config's settings. Raises SettingsError, with file, line and field, for what would not start."""
    settings = config.settings()
    refuse_open_door(config, settings)
    if faults := [*_folder_faults(settings), *_engine_faults(settings)]:
        raise config.file.args_error(wrong_settings(faults))
    return settings


def _folder_faults(settings: Settings) -> Iterator[ConfigFault]:
    for index, model in enumerate(settings.models):
        for place, folder in _named_folders(model).items():
            if _means_a_folder(folder) and not Path(folder).expanduser().exists():
                full = Path(folder).expanduser().absolute()
                yield ("models", index, *place), f"there is no folder {full}"


def _named_folders(model: ModelSettings) -> dict[tuple[str, ...], str]:
    return {("source",): model.source} | {("adapters", name): folder for name, folder in model.adapters.items()}


def _means_a_folder(source: str) -> bool:
    """And no name on a hub, which has at most one slash, behind an owner who is never called `models`."""
    first, slash, rest = source.partition("/")
    if "://" in source:
        return False
    written_as_path = source.startswith(("/", "./", "../", "~")) or "/" in rest
    return written_as_path or (bool(slash) and (first == "models" or Path(first).is_dir()))


def _engine_faults(settings: Settings) -> Iterator[ConfigFault]:
    wanted = [(index, model.engine) for index, model in enumerate(settings.models) if model.engine]
    kinds = argument_kinds() if wanted else None
    for index, arguments in wanted if kinds is not None else []:
        for name, what in argument_faults(arguments, kinds or {}):
            yield ("models", index, "engine", name), what
