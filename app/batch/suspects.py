"""Finds the line that kills engines, by running those that were in one when it died in ever smaller groups, alone.

A first death blames nobody: its lines become suspects. From then on they run in groups with nothing else in the engine:
first all of a shard (a quarter of what was in flight), so that a kill from outside, by far the commonest cause, costs
little; after another death in sixteenths of it, and so on to a line by itself. Only a line that was by itself at two
deaths is condemned. That takes five deaths for a shard of the default size and six for the largest, and no number of
kills from outside that do not all strike the same line.
"""

from collections.abc import Iterable, Mapping
from math import ceil

PARTS = 16
DEATHS_ALONE = 2


def in_flight_at_a_death(positions: Iterable[int]) -> dict[int, int]:
    """The suspects after an engine died with these lines and others in it: position → deaths."""
    return dict.fromkeys(positions, 1)


def groups(suspects: Mapping[int, int], shard_lines: int) -> list[list[int]]:
    """The suspects' positions in the groups in which they run now, those with the fewest deaths first."""
    found = []
    for deaths in sorted(set(suspects.values())):
        alike = sorted(position for position, number in suspects.items() if number == deaths)
        size = _group_size(deaths, shard_lines)
        found += [alike[start : start + size] for start in range(0, len(alike), size)]
    return found


def after_death(
    suspects: Mapping[int, int], group: Iterable[int], shard_lines: int
) -> tuple[dict[int, int], list[int]]:
    """The suspects that are left when an engine died with just `group` in it, and the lines condemned by that."""
    left = {**suspects, **{position: suspects[position] + 1 for position in group}}
    condemned = [position for position in group if left[position] >= _deaths_of_the_guilty(shard_lines)]
    return {position: deaths for position, deaths in left.items() if position not in condemned}, condemned


def _group_size(deaths: int, shard_lines: int) -> int:
    return ceil(shard_lines / int(PARTS ** (deaths - 1)))


def _deaths_of_the_guilty(shard_lines: int) -> int:
    deaths = 1
    while _group_size(deaths, shard_lines) > 1:
        deaths += 1
    return deaths + DEATHS_ALONE
