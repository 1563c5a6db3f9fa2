import time

import psutil

from deployments.pulse import Pulse, cpu_seconds_of_children


class Core:
    """A core that works (uses CPU) or not; `pulse` looks each second."""

    def __init__(self, step_seconds: float = 300) -> None:
        self.now = self.used = 100.0
        self.pulse = Pulse(step_seconds, cpu_seconds=lambda: self.used, clock=lambda: self.now)

    def passes(self, seconds: int, *, share: float, receiving: bool = True) -> None:
        for _ in range(seconds):
            self.now += 1
            self.used += share
            self.pulse.look(receiving=receiving)


def test_a_core_that_works_is_slow_and_one_that_does_not_is_silent() -> None:
    core = Core()
    core.passes(120, share=0.9)
    assert core.pulse.silent == 0
    core.passes(40, share=0.01)
    assert core.pulse.silent == 40


def test_an_idle_core_that_answers_lives() -> None:
    core = Core()
    for _ in range(10):
        core.passes(20, share=0.0)
        core.pulse.answered()
    assert core.pulse.silent == 0


def test_a_core_that_spins_for_ever_is_silent_from_the_longest_step_on() -> None:
    core = Core(step_seconds=60)
    core.passes(100, share=1.0)
    assert core.pulse.silent == 41


def test_time_in_which_nothing_could_be_received_is_no_silence_of_the_core() -> None:
    core = Core(step_seconds=60)
    core.passes(10, share=0.0)
    core.passes(120, share=0.0, receiving=False)
    assert core.pulse.silent == 10
    core.passes(10, share=1.0)
    assert core.pulse.silent == 0, "nor does it count as a step without an answer"
    core.passes(30, share=0.0)
    assert core.pulse.silent == 30


def test_time_in_which_this_process_stood_still_is_no_silence_of_the_core() -> None:
    core = Core()
    core.passes(10, share=0.0)
    core.now += 120
    core.pulse.look()
    assert core.pulse.silent == 10


def test_a_stopped_child_uses_no_time() -> None:
    parent, other = (psutil.Popen(["sh", "-c", "while :; do :; done & wait"]) for _ in range(2))
    try:
        before, deadline = cpu_seconds_of_children(parent.pid), time.monotonic() + 20
        while cpu_seconds_of_children(parent.pid) - before < 0.05:
            assert time.monotonic() < deadline
        (child,) = parent.children()
        child.suspend()
        while child.status() != psutil.STATUS_STOPPED:
            assert time.monotonic() < deadline
        stopped, running = cpu_seconds_of_children(parent.pid), cpu_seconds_of_children(other.pid)
        while cpu_seconds_of_children(other.pid) - running < 0.2:
            assert time.monotonic() < deadline
        assert cpu_seconds_of_children(parent.pid) == stopped, "it ran beside the other"
    finally:
        for each in (parent, other):
            for process in [*each.children(), each]:
                process.kill()
            each.wait()
