"""The data folder is its owner's alone, and what is in it that others could read no longer."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from app.file_modes import keep_data_private, keep_new_files_private


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def opened(data: Path) -> Path:
    """A data folder of a version that let others read it, beside a file that is not ours."""
    for name in ("batchyard.db", "batchyard.db-wal", "objects/files/file-1", "logs/serve.log", "uploads/u", "mine.sh"):
        path = data / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        path.chmod(0o755)
    (data / "objects/away").symlink_to("/etc/hostname")
    return data


def test_a_new_folder_and_new_files_are_private(tmp_path: Path, umask: None) -> None:
    with capture_logs() as logs:
        keep_data_private(tmp_path / "new/data")
    assert mode(tmp_path / "new/data") == 0o700
    assert not logs
    keep_new_files_private()
    (tmp_path / "file").touch()
    assert mode(tmp_path / "file") == 0o600


def test_a_folder_that_was_open_is_closed_and_that_is_said(tmp_path: Path, umask: None) -> None:
    data = opened(tmp_path / "data")
    with capture_logs() as logs:
        keep_data_private(data)
        keep_data_private(data)
    ours = [path for path in data.rglob("*") if not path.is_symlink() and path.name != "mine.sh"]
    assert len(ours) == 9
    assert {mode(path) for path in (data, *ours)} == {0o700}
    assert mode(data / "mine.sh") == 0o755
    assert mode(Path("/etc/hostname")) & 0o044
    assert [(log["log_level"], log["was"]) for log in logs] == [("warning", "0755")]


def test_a_folder_that_all_users_share_stays_theirs(tmp_path: Path, umask: None) -> None:
    data = opened(tmp_path / "tmp")
    data.chmod(0o1777)
    keep_data_private(data)
    assert mode(data) == 0o1777
    assert mode(data / "batchyard.db") == mode(data / "objects") == 0o700
