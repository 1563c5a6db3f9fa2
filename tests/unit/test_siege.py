"""The siege's own parts: what an attacker sees, what a row says, how rows are kept."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from tests.rows import Results, write_into
from tests.siege.attack import Target
from tests.siege.attacks import ATTACKS
from tests.siege.honest import SECONDS
from tests.siege.report import Row, table

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

REFUSAL = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n"


@asynccontextmanager
async def serving(handle: Handler) -> AsyncIterator[Target]:
    async def closing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(ConnectionError):  # the attacker does not wait for our end
                await handle(reader, writer)
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(closing, "127.0.0.1", 0)
    async with server:
        yield Target(server.sockets[0].getsockname()[1], "key")


async def refuse_unread(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    head = await reader.readuntil(b"\r\n\r\n")
    assert b"authorization: Bearer key\r\n" in head
    writer.write(REFUSAL)
    await writer.drain()
    writer.write_eof()
    while await reader.read(65536):
        pass


async def close_at_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    pass


async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def test_an_attacker_sees_a_refusal_that_comes_before_its_body_is_through() -> None:
    async with serving(refuse_unread) as target:
        answer = await target.exchange(target.head("POST", "/", 10**9), [b"x" * 1_000_000] * 1000)
    assert (answer.outcome, answer.size) == ("503", len(REFUSAL))


async def test_an_attacker_tells_a_closed_connection_from_silence() -> None:
    outcomes = []
    for handle in (close_at_once, say_nothing):
        async with serving(handle) as target:
            outcomes.append((await target.exchange(target.request("GET", "/"), patience=0.1)).outcome)
    assert outcomes == ["cut off", "no answer"]


async def test_a_volley_counts_all_its_answers() -> None:
    async with serving(refuse_unread) as target:
        loot = await target.volley([target.request("GET", "/")] * 20, at_once=3)
    assert loot.outcomes == Counter({"503": 20})
    assert loot.bytes == 20 * len(REFUSAL)


def test_each_attack_has_a_name_of_its_own() -> None:
    assert len({each.name for each in ATTACKS}) == len({each.fault for each in ATTACKS}) == len(ATTACKS)


def test_rows_are_kept_and_written_between_the_marks_of_their_section(tmp_path: Path) -> None:
    kinds = {kind: 0.5 if kind == "online" else 0.1 if kind == "upload" else 0.01 for kind in SECONDS}
    row = Row(slowest=kinds, quiet=kinds, memory={"gateway": 12, "core": 3}, got={"400": 2}, got_bytes=2500)
    row.promise(False, "the gateway died")
    results = Results(tmp_path / "results", Row)
    results.keep("one", row, 12)
    kept = results.kept("one")
    assert kept is not None and kept.row == row and row.red and results.done("one")
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- siege: begin -->\nold\n<!-- siege: end -->\nafter\n")
    write_into(page, "siege", table({"one attack": kept, "another": None}))
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    assert (
        "| one attack | 0.50 s (online) | 0.10 s (upload) | 0.50 s, 0.10 s | gateway 12 MB | 0 | 400 × 2; 2.5 kB"
        in text
    )
    assert "**the gateway died**" in text and "Not run yet: 1 of 2 rows." in text
