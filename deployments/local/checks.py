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
        for place, source in _sources(model).items():
            if Path(source).is_absolute() and not Path(source).exists():  # the settings name folders in full
                yield ("models", index, *place), f"there is no folder {source}"


def _sources(model: ModelSettings) -> dict[tuple[str, ...], str]:
    return {("source",): model.source} | {("adapters", name): source for name, source in model.adapters.items()}


def _engine_faults(settings: Settings) -> Iterator[ConfigFault]:
    wanted = [(index, model.engine) for index, model in enumerate(settings.models) if model.engine]
    kinds = argument_kinds() if wanted else None
    for index, arguments in wanted if kinds is not None else []:
        for name, what in argument_faults(arguments, kinds or {}):
            yield ("models", index, "engine", name), what
