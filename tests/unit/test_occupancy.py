import asyncio

import pytest

from deployments.occupancy import Occupancy


class Guest:
    """Enters at once, leaves when told."""

    def __init__(self, occupancy: Occupancy, *, alone: bool) -> None:
        self.inside = asyncio.Event()
        self._leave = asyncio.Event()
        self.task = asyncio.create_task(self._visit(occupancy, alone))

    async def _visit(self, occupancy: Occupancy, alone: bool) -> None:
        async with occupancy.enter(alone=alone):
            self.inside.set()
            await self._leave.wait()

    async def leave(self) -> None:
        self._leave.set()
        await self.task


async def settled() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_many_are_in_together() -> None:
    occupancy = Occupancy()
    guests = [Guest(occupancy, alone=False) for _ in range(3)]
    await settled()
    assert all(guest.inside.is_set() for guest in guests)
    for guest in guests:
        await guest.leave()


async def test_alone_waits_for_the_others_and_goes_before_those_who_come_later() -> None:
    occupancy = Occupancy()
    first, alone, later = (Guest(occupancy, alone=alone) for alone in (False, True, False))
    await settled()
    assert (alone.inside.is_set(), later.inside.is_set()) == (False, False)
    await first.leave()
    await settled()
    assert (alone.inside.is_set(), later.inside.is_set()) == (True, False)
    await alone.leave()
    await settled()
    assert later.inside.is_set()
    await later.leave()


async def test_only_one_is_alone() -> None:
    occupancy = Occupancy()
    first, second = Guest(occupancy, alone=True), Guest(occupancy, alone=True)
    await settled()
    assert (first.inside.is_set(), second.inside.is_set()) == (True, False)
    await first.leave()
    await settled()
    assert second.inside.is_set()
    await second.leave()


async def test_calls_that_want_to_be_alone_one_after_the_other_do_not_keep_the_others_out() -> None:
    """As those of two dispatchers, one of which always waits while the other's runs."""
    occupancy = Occupancy()
    first, second = Guest(occupancy, alone=True), Guest(occupancy, alone=True)
    await settled()
    shared = Guest(occupancy, alone=False)
    await settled()
    await first.leave()
    third = Guest(occupancy, alone=True)
    await settled()
    await second.leave()
    await settled()
    assert (shared.inside.is_set(), third.inside.is_set()) == (True, False)
    await shared.leave()
    await settled()
    assert third.inside.is_set()
    await third.leave()


@pytest.mark.parametrize("alone", [True, False])
async def test_who_gives_up_waiting_keeps_nobody_out(alone: bool) -> None:
    occupancy = Occupancy()
    first = Guest(occupancy, alone=True)
    await settled()
    impatient, later = Guest(occupancy, alone=alone), Guest(occupancy, alone=False)
    await settled()
    impatient.task.cancel()
    await settled()
    first.task.cancel()
    await settled()
    assert later.inside.is_set()
    await later.leave()
