"""What an engine's process gives up for the others."""

import subprocess
import sys

from deployments.priority import OOM_SCORE


def test_a_process_and_what_it_starts_are_the_first_to_go_when_there_is_no_memory() -> None:
    words = (
        "import subprocess; from deployments.priority import prefer_for_oom_kill; "
        "prefer_for_oom_kill(); prefer_for_oom_kill(); subprocess.run(['cat', '/proc/self/oom_score_adj'])"
    )
    assert int(subprocess.check_output([sys.executable, "-c", words])) == OOM_SCORE
