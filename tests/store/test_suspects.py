"""Lines that were in an engine when it died, and the batch's allowance of such deaths."""

from app.store import Store
from tests.store.scene import LAPSED, LEASE, MODEL, TENANT, a_claim, claims, draft, running_batch, the_batch

BUDGET = 10


async def test_a_shard_given_back_with_suspects_is_claimed_only_by_who_asks_for_them(store: Store) -> None:
    await running_batch(store, shards=2)
    first, _ = await claims(store, limit=2)
    assert await store.release(first, {1: 1, 3: 1})
    assert await store.claim_shards("dispatcher", LEASE, MODEL, 9) == []
    (again,) = await store.claim_shards("dispatcher", LEASE, MODEL, 9, suspect=True)
    assert (again.index, again.suspects) == (first.index, {1: 1, 3: 1})


async def test_suspects_stay_known_when_the_shard_is_given_back_for_another_reason_or_its_owner_dies(
    store: Store,
) -> None:
    await running_batch(store)
    await store.release(await a_claim(store), {2: 1})
    for lease in (LEASE, LAPSED, LEASE):
        (claim,) = await store.claim_shards("dispatcher", lease, MODEL, 1, suspect=True)
        assert claim.suspects == {2: 1}
        if lease == LEASE:
            assert await store.release(claim)
    (claim,) = await store.claim_shards("dispatcher", LEASE, MODEL, 1, suspect=True)
    assert await store.release(claim, {})
    assert (await a_claim(store)).suspects == {}


async def test_a_death_of_suspects_alone_draws_on_the_batch_and_not_on_the_model(store: Store) -> None:
    await running_batch(store)
    for starter in "ab":
        await store.ask_to_start(MODEL, starter, deploy="d", planned=1, budget=BUDGET)
    assert (await store.restarts(MODEL, BUDGET)).counted == 1
    await store.release(await a_claim(store), {0: 2, 1: 2})
    (claim,) = await store.claim_shards("dispatcher", LEASE, MODEL, 1, suspect=True)
    assert not await store.blame(claim, {0: 3, 1: 2}, excused=1, allowance=5)
    assert (await store.restarts(MODEL, BUDGET)).counted == 0
    assert (await the_batch(store)).engine_losses == 1
    (claim,) = await store.claim_shards("dispatcher", LEASE, MODEL, 1, suspect=True)
    assert claim.suspects == {0: 3, 1: 2}


async def test_a_batch_that_has_spent_its_allowance_is_paused_and_others_go_on(store: Store) -> None:
    await running_batch(store, "batch_1", shards=2)
    await running_batch(store, "batch_2")
    first, _ = await claims(store, limit=2)
    await store.record([draft(first, [0])])
    await store.release(first, {1: 3})
    (claim,) = await store.claim_shards("dispatcher", LEASE, MODEL, 1, suspect=True)
    assert not await store.blame(claim, {1: 4}, excused=1, allowance=2)
    (claim,) = await store.claim_shards("dispatcher", LEASE, MODEL, 1, suspect=True)
    assert await store.blame(claim, {1: 5}, excused=1, allowance=2)
    batch = await the_batch(store)
    assert (batch.status, batch.engine_losses, batch.completed) == ("in_progress", 2, 1)
    assert batch.paused_at is not None
    assert await store.claim_shards("dispatcher", LEASE, MODEL, 9, suspect=True) == []
    assert [each.batch_id for each in await store.claim_shards("dispatcher", LEASE, MODEL, 9)] == ["batch_2"]
    assert await store.claim_ended_batch("finaliser", LEASE) is None


async def test_a_paused_batch_is_resumed_with_a_full_allowance_or_cancelled(store: Store) -> None:
    await running_batch(store)
    await store.release(await a_claim(store), {1: 3})
    (claim,) = await store.claim_shards("dispatcher", LEASE, MODEL, 1, suspect=True)
    assert await store.blame(claim, {1: 4}, excused=1, allowance=1)
    assert await store.resume_batch("another", "batch_1") is None
    assert (await the_batch(store)).paused_at is not None
    resumed = await store.resume_batch(TENANT, "batch_1")
    assert resumed is not None and (resumed.paused_at, resumed.engine_losses) == (None, 0)
    (claim,) = await store.claim_shards("dispatcher", LEASE, MODEL, 1, suspect=True)
    assert await store.blame(claim, {1: 5}, excused=1, allowance=1)
    await store.cancel_batch(TENANT, "batch_1")
    ended = await store.claim_ended_batch("finaliser", LEASE)
    assert ended is not None and await store.finish_batch(ended, None, None)
    assert (await the_batch(store)).status == "cancelled"


async def test_an_owner_never_gets_its_own_running_shards_again_whatever_the_clock_says(store: Store) -> None:
    await running_batch(store)
    mine = await a_claim(store, "me", LAPSED)
    assert await store.claim_shards("me", LEASE, MODEL, 9, running={mine.key}) == []
    assert len(await store.claim_shards("another", LEASE, MODEL, 9)) == 1


async def test_slow_lines_stay_known_when_their_owner_dies_or_gives_the_shard_back(store: Store) -> None:
    await running_batch(store)
    claim = await a_claim(store, "me", LAPSED)
    assert await store.note_slow(claim, {3})
    assert await store.claim_shards("dispatcher", LEASE, MODEL, 9) == []
    (claim,) = await store.claim_shards("dispatcher", LEASE, MODEL, 1, suspect=True)
    assert (claim.suspects, claim.slow) == ({}, {3})
    assert await store.release(claim, {1: 1})
    (claim,) = await store.claim_shards("dispatcher", LEASE, MODEL, 1, suspect=True)
    assert (claim.suspects, claim.slow) == ({1: 1}, {3})
    assert await store.release(claim, {}, slow=())
    assert (await a_claim(store)).slow == frozenset()
