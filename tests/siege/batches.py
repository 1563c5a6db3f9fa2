"""Batches: poisonous lines, and many of everything."""

from collections.abc import Callable
from itertools import cycle, islice

from tests.siege.attack import (
    BATCHES,
    CHAT,
    FILES,
    MODEL,
    RESPONSES,
    Answer,
    Attack,
    Fire,
    Loot,
    Prepare,
    Target,
    chat_body,
    line,
    requests,
)
from tests.siege.engine import empty_input, empty_messages

METADATA = {f"{each:02}" + "k" * 62: "v" * 512 for each in range(16)}


def batch_of(make: Callable[[], bytes], endpoint: str = CHAT) -> Prepare:
    """One batch of these lines, to its end. What it got is the batch's state, and its error file's size."""

    async def prepare(target: Target) -> Fire:
        file_id = await target.uploaded(make())

        async def fire() -> Loot:
            batch = await target.finished((await target.ask(target.new_batch(file_id, endpoint)))["id"])
            faults = (batch.get("errors") or {}).get("data") or []
            loot = Loot()
            loot.outcomes[batch["status"]] += 1
            if batch["error_file_id"]:
                path = f"{FILES}/{batch['error_file_id']}/content"
                loot.bytes = (await target.exchange(target.request("GET", path))).size
            counts = batch["request_counts"]
            loot.note = f"{len(faults)} faults, {counts['completed']} lines completed, {counts['failed']} failed"
            return loot

        return fire

    return prepare


def raw_line(custom_id: str, body: bytes, url: str = CHAT) -> bytes:
    return b'{"custom_id": "%b", "method": "POST", "url": "%b", "body": %b}\n' % (
        custom_id.encode(),
        url.encode(),
        body,
    )


def poison_input() -> bytes:
    return raw_line("poison", empty_input(8000), RESPONSES)


def poison_messages() -> bytes:
    return b"".join(raw_line(f"line-{each}", empty_messages(10_000)) for each in range(10))


def faulty_lines() -> bytes:
    return b"".join(b'{"custom_id": "%d"}\n' % each for each in range(50_000))


def nested_line() -> bytes:
    return b"[" * 8_000_000 + b"]" * 8_000_000 + b"\n"


def odd_lines() -> bytes:
    """Each with another oddity of JSON."""
    odd = [
        "NaN",
        "Infinity",
        "1e999",
        "9" * 5000,
        '"\\ud800"',
        "{" * 500 + "}" * 500,
        '{"a":1,"a":2}',
        "\x00",
        "1" * 5000 + ".5",
    ]
    lines = (f'{{"model": "{MODEL}", "messages": [], "user": {each}}}' for each in odd)
    return b"".join(raw_line(f"line-{number}", each.encode()) for number, each in enumerate(lines))


def tiny_batches(number: int, *, cancelled: bool = False, **headers: str) -> Prepare:
    """Batches of one line, eight clients at a time. `headers`: of the creation, `{}` is the batch's number."""

    async def prepare(target: Target) -> Fire:
        file_id = await target.uploaded(line("only", chat_body(max_tokens=1)))
        body = {"input_file_id": file_id, "endpoint": CHAT, "completion_window": "24h", "metadata": METADATA}
        made = [
            target.post(BATCHES, body, **{name: value.format(each) for name, value in headers.items()})
            for each in range(number)
        ]

        async def fire() -> Loot:
            cancels: list[bytes] = []

            def created(answer: Answer) -> None:
                if cancelled and answer.outcome == "200":
                    cancels.append(target.request("POST", f"{BATCHES}/{answer.json()['id']}/cancel"))

            loot = await target.volley(made, seen=created)
            loot.outcomes += (await target.volley(cancels)).outcomes
            return loot

        return fire

    return prepare


def _lists(number: int) -> Callable[[Target], list[bytes]]:
    return lambda target: [target.request("GET", f"{BATCHES}?limit=100")] * number


def _pages(number: int) -> Callable[[Target], list[bytes]]:
    after = ("batch_none", "%00", "'%20OR%201=1", "a" * 8000, "%F0%9F%92%A9", "file-" + "f" * 24, "")
    limits = ("1", "0", "-1", "101", "9" * 400, "1e3", "%D9%A1")
    paths = [f"{path}?after={each}&limit={limit}" for path in (BATCHES, FILES) for each in after for limit in limits]
    return lambda target: [target.request("GET", path) for path in islice(cycle(paths), number)]


def _metadata(target: Target) -> list[bytes]:
    members = [
        {str(each): "v" for each in range(100_000)},
        {"k" * 1_000_000: "v"},
        {"k": "v" * 10_000_000},
        {"k": {"k": {"k": "v"}}},
        ["v"] * 100_000,
    ]
    return [target.new_batch("file-" + "f" * 24, metadata=each) for each in members] * 4


ATTACKS = (
    Attack(
        "poison-input",
        "batch of one line, `input: [{} × 8,000]` (24 kB) on `/v1/responses`",
        batch_of(poison_input, RESPONSES),
        ("failed", "completed"),
        seconds=400,
    ),
    Attack(
        "poison-messages",
        "batch of 10 lines, `messages: [{} × 10,000]` (300 kB)",
        batch_of(poison_messages),
        ("failed", "completed"),
        seconds=400,
    ),
    Attack("faulty-lines", "batch of 50,000 lines, each a fault", batch_of(faulty_lines), ("failed",)),
    Attack("nested-line", "batch of a line of 16 MB of nested brackets", batch_of(nested_line), ("failed",)),
    Attack(
        "odd-lines",
        "batch of lines with NaN, 1e999, a lone surrogate, twice one key, NUL",
        batch_of(odd_lines),
        ("failed",),
    ),
    Attack(
        "tiny-batches", "2,000 batches of one line, metadata at its limits", tiny_batches(2000), ("200",), seconds=180
    ),
    Attack(
        "cancelled-batches",
        "500 batches, cancelled at once",
        tiny_batches(500, cancelled=True),
        ("200", "409"),
        seconds=120,
    ),
    Attack(
        "idempotency-keys",
        "2,000 batches with an Idempotency-Key each",
        tiny_batches(2000, idempotency_key="key-{}"),
        ("200",),
        seconds=180,
    ),
    Attack(
        "long-idempotency-keys",
        "Idempotency-Key of 60 kB, 100 times",
        tiny_batches(100, idempotency_key="{}" + "k" * 60_000),
        ("200", "400", "431"),
    ),
    Attack("metadata", "metadata with 100,000 keys, of 10 MB, nested", requests(_metadata), ("400", "413")),
    Attack("lists", "10,000 lists of batches", requests(_lists(10_000)), ("200",), seconds=180),
    Attack("pages", "2,000 pages after ids that are none", requests(_pages(2000)), ("200", "400", "404")),
)
