"""A secret that a process has forgotten is not in /proc either."""

import subprocess
import sys

SCRIPT = """
import os
from pathlib import Path
from deployments.local.own_environment import forget

before = Path("/proc/self/environ").read_bytes()
assert b"SECRET=geheim" in before
forget("SECRET")
forget("SECRET")
forget("NEVER_SET")
after = Path("/proc/self/environ").read_bytes()
assert b"geheim" not in after
assert len(after) == len(before)
assert b"SECRET_2=kept" in after and b"FIRST=1" in after
assert "SECRET" not in os.environ and os.environ["SECRET_2"] == "kept"
import subprocess
assert b"geheim" not in subprocess.check_output(["env"])
"""


def test_a_forgotten_variable_is_in_no_environment() -> None:
    environment = {"FIRST": "1", "SECRET": "geheim", "SECRET_2": "kept", "PYTHONPATH": ":".join(sys.path)}
    ended = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
