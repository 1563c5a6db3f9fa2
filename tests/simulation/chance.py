"""Every choice comes from one seed: what the simulation draws, and the ids that Batchyard makes."""

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock


def chance(seed: int, what: str) -> random.Random:
    """A source of its own for each purpose, so that one more draw for one of them changes no other."""
    return random.Random(f"{seed}/{what}")


@contextmanager
def seeded_ids(seed: int) -> Iterator[None]:
    """`uuid4` and `token_hex` draw from the seed, too: both ask the operating system."""
    source = chance(seed, "ids")
    with mock.patch.object(os, "urandom", source.randbytes), mock.patch.object(random, "_urandom", source.randbytes):
        yield
