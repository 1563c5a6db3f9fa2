"""Finds the line that kills engines, by running those that were in one when it died in ever smaller groups.

A first death blames nobody: its lines become suspects. They run again one shard in a replica at a time, beside lines
that nobody suspects, so that a kill from outside, by far the commonest cause, costs no more than the work that it lost.
A shard that is in a second death runs in sixteenths of a shard from then on, each with nothing else in the engine, then
line by line. Only a line that was by itself at two deaths is condemned. That takes five deaths for a shard of the
default size and six for the largest, and no number of kills from outside that do not all strike the same line.

A slow line took longer than the model's `line_seconds` beside others. It runs once more without other lines in the
engine, and is condemned if that takes too long as well. Online requests go on meanwhile: it may take hours.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import ceil

PARTS = 16
DEATHS_AMONG_OTHERS = 2
"""As many tell nothing yet: other shards were in the engine as well."""
DEATHS_ALONE = 2


class Beside(StrEnum):
    """What else may be in the engine meanwhile."""

    ANYTHING = "anything"
    ONLINE = "online"
    """Online requests, but no other lines."""
    NOTHING = "nothing"


@dataclass(frozen=True)
class Group:
    """Positions of a shard that are sent together."""

    positions: Sequence[int]
    beside: Beside = Beside.ANYTHING

    @property
    def alone(self) -> bool:
        return self.beside is Beside.NOTHING

    @property
    def apart(self) -> bool:
        """From all other lines."""
        return self.beside is not Beside.ANYTHING


def groups(deaths: Mapping[int, int], slow: Collection[int], shard_lines: int) -> list[Group]:
    """The groups in which these positions run now: those with the fewest deaths first, slow lines last.

    `deaths`: position → deaths of engines that it was in; all that is to run. `slow`: those that were too slow once.
    """
    quick = {position: number for position, number in deaths.items() if position not in slow}
    found = []
    if among_others := sorted(position for position, number in quick.items() if number < DEATHS_AMONG_OTHERS):
        found.append(Group(among_others))
    for number in sorted(set(quick.values())):
        if number >= DEATHS_AMONG_OTHERS:
            alike = sorted(position for position in quick if quick[position] == number)
            size = _group_size(number, shard_lines)
            found += [Group(alike[start : start + size], Beside.NOTHING) for start in range(0, len(alike), size)]
    for position in sorted(deaths):
        if position in slow:
            found.append(Group([position], Beside.ONLINE if deaths[position] < DEATHS_AMONG_OTHERS else Beside.NOTHING))
    return found


def after_death(
    deaths: Mapping[int, int], in_engine: Iterable[int], shard_lines: int
) -> tuple[dict[int, int], list[int]]:
    """The suspects after an engine died with these positions in it, and the lines condemned by that."""
    left = {**deaths, **{position: deaths.get(position, 0) + 1 for position in in_engine}}
    condemned = sorted(position for position, number in left.items() if number >= deaths_of_the_guilty(shard_lines))
    return {position: number for position, number in left.items() if number and position not in condemned}, condemned


def deaths_of_the_guilty(shard_lines: int) -> int:
    """How many engines a line of such a shard kills before it is condemned."""
    deaths = DEATHS_AMONG_OTHERS
    while _group_size(deaths, shard_lines) > 1:
        deaths += 1
    return deaths + DEATHS_ALONE


def _group_size(deaths: int, shard_lines: int) -> int:
    return ceil(shard_lines / int(PARTS ** (deaths - 1)))
