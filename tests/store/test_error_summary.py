"""Failed lines by code, on the batch: counted as they become true, and counted once."""

from dataclasses import replace
from typing import Any

from app.store import Failure, SegmentDraft, ShardClaim, Store
from tests.store.scene import LAPSED, a_claim, batch_in, draft, ended_claim, running_batch, the_batch


def failure(line: int, code: str = "BadRequestError", param: str | None = None) -> Failure:
    return Failure(code, param, line, f"line-{line}", f"message of {line}")


def failing(claim: ShardClaim, *failures: Failure) -> SegmentDraft:
    lines = [each.line - claim.first_line for each in failures]
    return replace(draft(claim, lines, failed=lines), failures=failures)


def kinds(summary: list[dict[str, Any]] | None) -> list[tuple[str, str | None, int, int]]:
    return [(each["code"], each["param"], each["count"], each["line"]) for each in summary or ()]


async def test_a_batch_that_runs_tells_its_failed_lines_by_code_with_the_first_line_of_each(store: Store) -> None:
    await running_batch(store)
    claim = await a_claim(store)
    assert (await the_batch(store)).error_summary is None
    await store.record([failing(claim, failure(3), failure(2, "engine_lost"))])
    await store.record([failing(claim, failure(1)), failing(claim, failure(4, param="n"))])
    summary = (await the_batch(store)).error_summary
    assert kinds(summary) == [
        ("BadRequestError", None, 2, 1),
        ("engine_lost", None, 1, 2),
        ("BadRequestError", "n", 1, 4),
    ]
    assert summary is not None
    assert (summary[0]["custom_id"], summary[0]["message"]) == ("line-1", "message of 1")


async def test_a_commit_that_is_tried_again_counts_no_failure_twice(store: Store) -> None:
    await running_batch(store)
    results = failing(await a_claim(store), failure(1), failure(2))
    await store.record([results])
    await store.record([results])
    assert kinds((await the_batch(store)).error_summary) == [("BadRequestError", None, 2, 1)]


async def test_failures_of_a_lost_claim_do_not_count(store: Store) -> None:
    await running_batch(store)
    late = await a_claim(store, "late", LAPSED)
    await a_claim(store, "holder")
    await store.record([failing(late, failure(1))])
    assert (await the_batch(store)).error_summary is None


async def test_a_finished_batch_has_the_summary_of_its_error_file(store: Store) -> None:
    await batch_in(store, "finalizing")
    entries = [{"code": "batch_expired", "param": None, "count": 2, "line": 1, "custom_id": "a", "message": "m"}]
    await store.finish_batch(await ended_claim(store), None, None, error_summary=entries)
    assert (await the_batch(store)).error_summary == entries
