"""The attacker as a process: `python -m tests.siege.attacker NAME PORT [KEY]`, which waits for a line, then attacks.

It says `ready`, and in the end one line of JSON: what it got.
"""

import asyncio
import json
import subprocess
import sys
import threading
from collections import Counter
from typing import Self

from tests.commands import ROOT
from tests.siege.attack import Attack, Loot, Target

PREPARE_SECONDS = 240.0
GRACE_SECONDS = 30.0
"""Beyond the attack's own time; then the process is killed."""


class Attacker:
    """Our side of it. Entered, it is prepared and waits."""

    def __init__(self, attack: Attack, target: Target) -> None:
        self._attack = attack
        words = [attack.name, str(target.port), *([target.key] if target.key else [])]
        self._command = [sys.executable, "-m", "tests.siege.attacker", *words]

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self._command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        if self._line(PREPARE_SECONDS) != "ready":
            raise AssertionError("the attacker could not prepare its attack")
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def attack(self) -> Loot:
        """Returns when it is over."""
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        if not (line := self._line(self._attack.seconds + GRACE_SECONDS)):
            raise AssertionError("the attacker ended without a word")
        found = json.loads(line)
        return Loot(**{**found, "outcomes": Counter(found["outcomes"])})

    def _line(self, seconds: float) -> str:
        assert self._process.stdout is not None
        ender = threading.Timer(seconds, self._process.kill)
        ender.start()
        try:
            return self._process.stdout.readline().strip()
        finally:
            ender.cancel()


async def _fire(attack: Attack, target: Target) -> Loot:
    fire = await attack.prepare(target)
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    try:
        async with asyncio.timeout(attack.seconds):
            return await fire()
    except TimeoutError:
        return Loot(Counter({"broken off": 1}), note=f"broken off after {attack.seconds:.0f} s")


def main(name: str, port: str, key: str | None = None) -> None:
    from tests.siege.attacks import ATTACKS

    [attack] = [each for each in ATTACKS if each.name == name]
    loot = asyncio.run(_fire(attack, Target(int(port), key)))
    print(json.dumps(vars(loot)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
