"""What a model's `source`, or an adapter's, means: a folder, or a name that a hub or a loader knows."""

import re
from pathlib import Path

HUB_NAME = re.compile(r"(?!(models|datasets|spaces)/)[\w.-]+/[\w.:-]+", re.ASCII)
"""OWNER/NAME, maybe with a part of it behind a colon. No owner is called as one of the hub's own pages."""


def folder_meant(source: str) -> Path | None:
    """In full, whether it is there or not; None: the name of something else.

    A folder is what is written like a path, what is there, and whatever can be no name on a hub: `models/gone`, or a
    path of three parts. A name that can be one is one, even beside a folder called as its owner is; ./OWNER/NAME is the
    folder.
    """
    path = Path(source).expanduser()
    if "://" in source:
        return None
    written_as_path = source in (".", "..") or source.startswith(("/", "./", "../", "~"))
    if written_as_path or path.exists() or ("/" in source and not HUB_NAME.fullmatch(source)):
        return path.resolve()
    return None
