import asyncio

import pytest

from app.batch.suspects import Beside
from deployments.occupancy import Call, Occupancy


class Guest:
    """Enters at once, leaves when told."""

    def __init__(self, occupancy: Occupancy, beside: Beside = Beside.ANYTHING, call: Call = Call.LINES) -> None:
        self.inside = asyncio.Event()
        self._leave = asyncio.Event()
        self.task = asyncio.create_task(self._visit(occupancy, call, beside))

    async def _visit(self, occupancy: Occupancy, call: Call, beside: Beside) -> None:
        async with occupancy.enter(call, beside):
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
    guests = [Guest(occupancy) for _ in range(3)]
    await settled()
    assert all(guest.inside.is_set() for guest in guests)
    for guest in guests:
        await guest.leave()


async def test_alone_waits_for_the_others_and_goes_before_those_who_come_later() -> None:
    occupancy = Occupancy()
    first, alone, later = Guest(occupancy), Guest(occupancy, Beside.NOTHING), Guest(occupancy)
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
    first, second = Guest(occupancy, Beside.NOTHING), Guest(occupancy, Beside.NOTHING)
    await settled()
    assert (first.inside.is_set(), second.inside.is_set()) == (True, False)
    await first.leave()
    await settled()
    assert second.inside.is_set()
    await second.leave()


async def test_calls_that_want_to_be_alone_one_after_the_other_do_not_keep_the_others_out() -> None:
    """As those of two dispatchers, one of which always waits while the other's runs."""
    occupancy = Occupancy()
    first, second = Guest(occupancy, Beside.NOTHING), Guest(occupancy, Beside.NOTHING)
    await settled()
    shared = Guest(occupancy)
    await settled()
    await first.leave()
    third = Guest(occupancy, Beside.NOTHING)
    await settled()
    await second.leave()
    await settled()
    assert (shared.inside.is_set(), third.inside.is_set()) == (True, False)
    await shared.leave()
    await settled()
    assert third.inside.is_set()
    await third.leave()


@pytest.mark.parametrize("beside", Beside)
async def test_a_call_that_gives_up_waiting_keeps_nothing_out(beside: Beside) -> None:
    occupancy = Occupancy()
    first = Guest(occupancy, Beside.NOTHING)
    await settled()
    impatient, later = Guest(occupancy, beside), Guest(occupancy)
    await settled()
    impatient.task.cancel()
    await settled()
    first.task.cancel()
    await settled()
    assert later.inside.is_set()
    await later.leave()


async def test_lines_that_bear_online_requests_keep_out_other_lines_alone() -> None:
    occupancy = Occupancy()
    before = Guest(occupancy)
    await settled()
    slow = Guest(occupancy, Beside.ONLINE)
    await settled()
    online, lines = Guest(occupancy, call=Call.ONLINE), Guest(occupancy)
    await settled()
    assert (slow.inside.is_set(), online.inside.is_set(), lines.inside.is_set()) == (False, True, False)
    await before.leave()
    await settled()
    assert (slow.inside.is_set(), lines.inside.is_set()) == (True, False)
    await slow.leave()
    await settled()
    assert lines.inside.is_set()
    await online.leave()
    await lines.leave()
