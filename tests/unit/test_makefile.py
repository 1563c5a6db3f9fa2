"""`make install` and `make install-gpu`, with a pip that does nothing."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.commands import ROOT


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy2(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "requirements", tmp_path / "requirements")
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/python").touch()
    return tmp_path


def make(clone: Path, target: str, pip: str = "true") -> subprocess.CompletedProcess[str]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    command = ["make", target, f"PIP_INSTALL={pip}"]
    return subprocess.run(command, cwd=clone, env=environ, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("begun, other, name", [("install", "install-gpu", "CPU"), ("install-gpu", "install", "GPU")])
def test_an_install_that_was_interrupted_is_not_mixed_with_the_other_build(
    clone: Path, begun: str, other: str, name: str
) -> None:
    assert make(clone, begun, pip="false").returncode != 0
    refused = make(clone, other)
    assert refused.returncode != 0
    assert f".venv holds the {name} build or a part of it." in refused.stderr and "make clean" in refused.stderr
    again = make(clone, begun)
    assert again.returncode == 0, again.stderr
    assert make(clone, other).returncode != 0
