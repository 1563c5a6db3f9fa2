"""What the race tests run in processes of their own: `python children.py TASK URL`.

A child does a step for each line on stdin and answers with a line on stdout, so that a test can make all step at once,
however long they took to start.
"""

import asyncio
import itertools
import sys
import time

from app.store import SegmentDraft, Store, Usage

LEASE = 3600.0


def say(text: str) -> None:
    print(text, flush=True)


def told_to_go() -> bool:
    say("ready")
    return bool(sys.stdin.readline())


async def open_new(url: str) -> None:
    """Opens, and so migrates, the database."""
    told_to_go()
    store = Store.open(url, lambda: int(time.time()))
    say(str(await store.counts()))
    store.close()


async def claim(url: str) -> None:
    """A step claims two shards; the answer is their indices."""
    store = Store.open(url, lambda: int(time.time()))
    while told_to_go():
        claims = await store.claim_shards("same-owner", LEASE, "tiny", 2)
        say(" ".join(str(claim.index) for claim in claims))
    store.close()


async def record_until_killed(url: str) -> None:
    """Claims two shards and records a line of each at a time; each third line failed."""
    store = Store.open(url, lambda: int(time.time()))
    claims = await store.claim_shards("recorder", LEASE, "tiny", 2)
    told_to_go()
    for line in itertools.count():
        failed = frozenset({line}) if line % 3 == 0 else frozenset[int]()
        usage = Usage(input_tokens=2, output_tokens=1)
        drafts = [SegmentDraft(claim, f"segments/{line}", 0, 1, (line,), failed, usage) for claim in claims]
        await store.record(drafts)
        say("recorded")


if __name__ == "__main__":
    _, task, database = sys.argv
    tasks = {"open_new": open_new, "claim": claim, "record_until_killed": record_until_killed}
    asyncio.run(tasks[task](database))
