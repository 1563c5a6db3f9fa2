import gzip
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.batch.file_kind import not_json_lines
from app.batch.lines import BOM, QUOTED_CHARACTERS, LineFault, RawLine, requests_of, split_lines
from app.batch.validate import LISTED_FAULTS, ShardCutter, Validation, validate
from app.batch.warnings import LISTED_NAMES
from app.capabilities import Capabilities
from app.errors import CapabilitiesUnknown
from app.settings import Limits, Settings
from tests.unit.yard import EVERYTHING

CHAT, COMPLETIONS, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
TINY = {"id": "tiny", "source": "x", "adapters": {"polite": "x"}}
SETTINGS = Settings.load({"models": [TINY, {"id": "tiny-2", "source": "x"}]}, {})
KNOWN = frozenset({"model", "messages", "max_tokens", "structured_outputs", "input", "encoding_format", "prompt"})
CHATTING = Capabilities({CHAT: KNOWN, COMPLETIONS: KNOWN})
CPU_SECONDS = 10
"""Far above what any file here takes, far below what a quadratic reader would."""


async def parts(data: bytes, size: int = 65_536) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


async def validated(
    data: bytes, *, endpoint: str = CHAT, capabilities: Capabilities | None = EVERYTHING, **changes: object
) -> Validation:
    """`changes`: of the settings."""
    started = time.process_time()
    settings = SETTINGS.model_copy(update=changes)
    found = await validate(parts(data), endpoint=endpoint, settings=settings, capabilities=lambda model: capabilities)
    assert time.process_time() - started < CPU_SECONDS
    return found


def request(custom_id: object, **changes: object) -> dict[str, Any]:
    """A good request; a changed value of "absent" takes a field out, one with a dot is of the body."""
    body: dict[str, object] = {"model": "tiny", "messages": []}
    whole: dict[str, object] = {"custom_id": custom_id, "method": "POST", "url": CHAT, "body": body}
    for name, value in changes.items():
        holder, key = (body, name.removeprefix("body_")) if name.startswith("body_") else (whole, name)
        if value == "absent":
            del holder[key]
        else:
            holder[key] = value
    return whole


def line(custom_id: object, **changes: object) -> bytes:
    return json.dumps(request(custom_id, **changes)).encode()


def file_of(*lines: bytes) -> bytes:
    return b"".join(each + b"\n" for each in lines)


def marks(found: Validation) -> list[tuple[str, int | None, str | None]]:
    return [(fault.code, fault.line, fault.param) for fault in found.faults]


# A good file


async def test_a_good_file_has_a_model_and_shards_and_no_fault() -> None:
    data = file_of(*(line(f"id-{number}") for number in range(150)))
    found = await validated(data)
    assert (found.model, found.faults) == ("tiny", [])
    assert [(plan.first_line, plan.count) for plan in found.plans] == [(1, 128), (129, 22)]
    assert sum(plan.length for plan in found.plans) == len(data)


async def test_line_numbers_count_blank_lines_and_shards_leave_them_out() -> None:
    data = file_of(b"", line(1), b" \r", b"", line("2"))
    assert marks(await validated(data)) == [("invalid_type", 2, "custom_id")]
    found = await validated(file_of(b"", line("1"), b" \r", b"", line("2"), b""))
    assert [(plan.first_line, plan.count) for plan in found.plans] == [(2, 2)]


async def test_a_file_of_as_many_lines_as_allowed_is_good() -> None:
    data = file_of(*(line(str(number)) for number in range(3)), b"", b" ")
    assert not (await validated(data, limits=Limits(lines=3))).faults


# Faults: OpenAI's, then ours

FAULTS: dict[str, tuple[bytes, str, str | None, str]] = {
    "not JSON": (b"{oops", "invalid_json_line", None, "This line is not parseable as valid JSON"),
    "no custom_id": (
        b'{"method":"POST","url":"/","body":{}}',
        "missing_required_parameter",
        "custom_id",
        "parameter: 'custom_id'.",
    ),
    "no method": (line("x", method="absent"), "missing_required_parameter", "method", "parameter: 'method'."),
    "no url": (line("x", url="absent"), "missing_required_parameter", "url", "parameter: 'url'."),
    "no body": (line("x", body="absent"), "missing_required_parameter", "body", "parameter: 'body'."),
    "another url": (line("x", url="/v1/embeddings"), "invalid_url", "url", "does not match the batch endpoint."),
    "an online url": (line("x", url=f"http://host{CHAT}"), "invalid_url", "url", "does not match the batch endpoint."),
    "streaming": (line("x", body_stream=True), "streaming_unsupported", "body.stream", "Streaming is not supported"),
    "no model": (line("x", body_model="absent"), "invalid_request", "body.model", "Model parameter is required."),
    "streaming by a number": (line("x", body_stream=1), "streaming_unsupported", "body.stream", "not supported"),
    "streaming by a text": (line("x", body_stream="false"), "streaming_unsupported", "body.stream", "not supported"),
    "null as messages": (line("x", body_messages=None), "invalid_request", "body.messages", "is required."),
    "no messages": (
        line("x", body_messages="absent"),
        "invalid_request",
        "body.messages",
        "Messages parameter is required.",
    ),
    "an unknown model": (
        line("x", body_model="gpt-4o"),
        "model_not_found",
        "body.model",
        "The provided model 'gpt-4o' is not supported by the Batch API.",
    ),
    "another model": (line("x", body_model="tiny-2"), "mismatched_model", "body.model", "for a single model."),
    "an adapter": (line("x", body_model="polite"), "mismatched_model", "body.model", "for a single model."),
    "a custom_id again": (line("first"), "duplicate_custom_id", "custom_id", "The custom_id 'first' for this request"),
    "a number as custom_id": (line(7), "invalid_type", "custom_id", "expected a string"),
    "a text as body": (line("x", body="{}"), "invalid_type", "body", "expected an object"),
    "GET": (line("x", method="GET"), "invalid_method", "method", "only 'POST' is supported"),
}


@pytest.mark.parametrize("name", FAULTS)
async def test_a_fault_has_its_code_its_parameter_and_its_line(name: str) -> None:
    data, code, param, message = FAULTS[name]
    found = await validated(file_of(line("first"), b"", data, line("last")))
    assert marks(found) == [(code, 3, param)]
    assert message in found.faults[0].message


@pytest.mark.parametrize("endpoint", ["/v1/completions", "/v1/embeddings", "/v1/responses"])
async def test_only_chat_needs_messages(endpoint: str) -> None:
    data = file_of(line("x", url=endpoint, body_messages="absent"))
    assert not (await validated(data, endpoint=endpoint)).faults


async def test_every_faulty_line_is_named_once() -> None:
    data = file_of(line("a"), b"{", line("a", url="/", body_stream=True), line("b"), b"[]", b"{}")
    assert marks(await validated(data)) == [
        ("invalid_json_line", 2, None),
        ("duplicate_custom_id", 3, "custom_id"),
        ("invalid_json_line", 5, None),
        ("missing_required_parameter", 6, "custom_id"),
    ]


async def test_a_custom_id_of_a_faulty_line_counts_as_used() -> None:
    data = file_of(line("a", url="/"), line("a"))
    assert marks(await validated(data)) == [("invalid_url", 1, "url"), ("duplicate_custom_id", 2, "custom_id")]


async def test_an_adapters_lines_are_run_by_its_model() -> None:
    found = await validated(file_of(line("a", body_model="polite"), line("b", body_model="polite")))
    assert (found.model, found.faults) == ("tiny", [])


async def test_an_unknown_model_is_not_the_one_that_others_must_match() -> None:
    found = await validated(file_of(line("a", body_model="gpt-4o"), line("b"), line("c", body_model="tiny-2")))
    assert marks(found) == [("model_not_found", 1, "body.model"), ("mismatched_model", 3, "body.model")]


@pytest.mark.parametrize("data", [b"", b"\n", b"\n" * 1000, b" \t\r\n\r\n", BOM, BOM + b"\r\n\n", b" " * 1000])
async def test_a_file_without_a_request_is_empty(data: bytes) -> None:
    assert marks(await validated(data)) == [("empty_file", None, None)]


async def test_a_file_with_too_many_lines_is_read_no_further() -> None:
    read: list[bytes] = []

    async def lines_as_they_come() -> AsyncIterator[bytes]:
        for number in range(1000):
            read.append(file_of(line(str(number))))
            yield read[-1]

    found = await validate(
        lines_as_they_come(),
        endpoint=CHAT,
        settings=SETTINGS.model_copy(update={"limits": Limits(lines=3)}),
        capabilities=lambda model: EVERYTHING,
    )
    assert marks(found) == [("too_many_lines", None, None)]
    assert "more than the 3 lines allowed" in found.faults[0].message
    assert len(read) == 4


async def test_a_line_that_is_too_large_says_how_large_it_is() -> None:
    largest = line("a").ljust(2000)
    limits = Limits(line_bytes=2000)
    assert not (await validated(file_of(largest), limits=limits)).faults
    assert not (await validated(largest, limits=limits)).faults
    for too_large in (file_of(largest + b" "), largest + b" "):
        found = await validated(file_of(b"") + too_large, limits=limits)
        assert marks(found) == [("line_too_large", 2, None)]
        assert f"has {len(too_large)} bytes; at most 2000" in found.faults[0].message


async def test_of_many_faults_the_first_hundred_are_listed_and_the_rest_counted() -> None:
    assert len((await validated(b"{\n" * LISTED_FAULTS)).faults) == LISTED_FAULTS
    found = await validated(b"{\n" * (LISTED_FAULTS + 50))
    assert [fault.line for fault in found.faults] == [*range(1, LISTED_FAULTS + 1), None]
    assert (found.faults[-1].code, found.faults[-1].param) == ("more_errors", None)
    assert found.faults[-1].message.startswith("50 more lines")


async def test_a_message_quotes_only_the_beginning_of_what_is_long() -> None:
    long = "x" * 1_000_000
    found = await validated(file_of(line(long), line(long), line("b", body_model=long), line("c", method=long)))
    assert [fault.code for fault in found.faults] == ["duplicate_custom_id", "model_not_found", "invalid_method"]
    assert all(len(fault.message) < QUOTED_CHARACTERS + 250 for fault in found.faults)


# Hostile files

GOOD = line("good")
TEXT = "\u2028\u2029\x85\u00a0\ufeff\U0001f600"


def raw(body: bytes, custom_id: bytes = b'"x"') -> bytes:
    """A line whose body has one more member, written as it stands."""
    return b'{"custom_id":%b,"method":"POST","url":"%b","body":{"model":"tiny","messages":[],"more":%b}}' % (
        custom_id,
        CHAT.encode(),
        body,
    )


GOOD_FILES = {
    "CRLF": file_of(GOOD + b"\r", line("b") + b"\r", b"\r"),
    "blank last lines": file_of(GOOD, b"", b"", b"  "),
    "no last newline": GOOD,
    "a byte order mark": BOM + file_of(GOOD, line("b")),
    "line ends of Unicode": file_of(json.dumps(request(TEXT), ensure_ascii=False).encode()),
    "escapes": file_of(line(TEXT + "\x00\n\r\x0b\x0c\x1c")),
    "a pair of surrogates": file_of(raw(rb'"\ud83d\ude00"')),
    "a duplicated key in the body": file_of(raw(b'1,"more":2')),
    "a 400-digit number": file_of(raw(b"9" * 400)),
    "a number beyond a float": file_of(raw(b"-1E400")),
    "a deep body": file_of(raw(b"[" * 200 + b"]" * 200)),
    "a 15 MB line": file_of(raw(b'"' + b"x" * 15_000_000 + b'"')),
    "no streaming": file_of(line("a", body_stream=False), line("b", body_stream=None)),
    "blanks round the JSON": file_of(b" \t" + GOOD + b" \t\r"),
}


@pytest.mark.parametrize("name", GOOD_FILES)
async def test_a_strange_file_may_be_good(name: str) -> None:
    data = GOOD_FILES[name]
    found = await validated(data)
    assert found.faults == []
    assert sum(plan.count for plan in found.plans) == data.count(b"custom_id")


FAULTY_FILES = {
    "a NUL between tokens": (file_of(GOOD, b"\x00" + line("b")), [2]),
    "a line of NULs": (file_of(GOOD, b"\x00" * 1_000_000, line("b")), [2]),
    "a NUL in a string": (file_of(GOOD, raw(b'"\x00"')), [2]),
    "a raw line feed in a string": (file_of(GOOD, raw(b'"\n"')), [2, 3]),
    "invalid UTF-8": (file_of(GOOD, raw(b'"\xc3\x28"'), line("b")), [2]),
    "Latin-1": (file_of(GOOD, raw('"ü"'.encode("latin-1"))), [2]),
    "NaN": (file_of(GOOD, raw(b"NaN")), [2]),
    "Infinity": (file_of(GOOD, raw(b"[Infinity]"), line("b"), raw(b"-Infinity")), [2, 4]),
    "90,000 brackets": (file_of(GOOD, raw(b"[" * 90_000), raw(b"[" * 90_000 + b"]" * 90_000)), [2, 3]),
    "90,000 braces": (file_of(GOOD, raw(b'{"":' * 90_000)), [2]),
    "a lone surrogate": (file_of(GOOD, raw(rb'"\ud800"'), raw(b"1", rb'"\udc00"')), [2, 3]),
    "a surrogate as UTF-8": (file_of(GOOD, raw(b'"\xed\xa0\x80"')), [2]),
    "a duplicated key": (file_of(GOOD, GOOD[:-1] + b', "custom_id": "c"}'), [2]),
    "a 5,000-digit number": (file_of(GOOD, raw(b"9" * 5000)), [2]),
    "a line cut off": (file_of(GOOD) + line("b")[:-1], [2]),
    "two requests on a line": (file_of(GOOD, line("b") + line("c")), [2]),
    "a byte order mark twice": (BOM + BOM + GOOD, [1]),
    "CR alone as line end": (GOOD + b"\r" + line("b"), [1]),
    "an empty array": (file_of(b"[]", GOOD), [1]),
    "no JSON, with a comma": (file_of(b"Hello, world", GOOD), [1]),
}


@pytest.mark.parametrize("name", FAULTY_FILES)
async def test_a_hostile_line_is_named_and_the_lines_round_it_are_not(name: str) -> None:
    data, lines = FAULTY_FILES[name]
    found = await validated(data)
    assert marks(found) == [("invalid_json_line", number, None) for number in lines]
    assert all(len(fault.message) < 300 for fault in found.faults)


TEXT_LINES = file_of(GOOD, line("b")).decode()
WRONG_KINDS = {
    "gzip": (gzip.compress(TEXT_LINES.encode()), "compressed with gzip: unpack it"),
    "xlsx": (b"PK\x03\x04" + bytes(100), "ZIP archive, as .xlsx files are"),
    "zstd": (b"\x28\xb5\x2f\xfd" + bytes(100), "Zstandard"),
    "UTF-16 with its mark": (TEXT_LINES.encode("utf-16"), "UTF-16: save it as UTF-8"),
    "UTF-16, big end first": (TEXT_LINES.encode("utf-16-be"), "UTF-16"),
    "UTF-16, little end first": (TEXT_LINES.encode("utf-16-le"), "UTF-16"),
    "a JSON array": (b"[" + GOOD + b"]", "one JSON array"),
    "a pretty JSON array": (json.dumps([request("a")], indent=1).encode(), "one JSON array"),
    "a pretty JSON array behind a mark": (BOM + json.dumps([request("a")], indent=1).encode(), "one JSON array"),
    "pretty JSON": (json.dumps(request("a"), indent=1).encode(), "JSON over several lines"),
    "CSV": (b"custom_id,prompt\na,Hello\nb,Bye\n", "looks like CSV"),
    "CSV with JSON in it": (b'custom_id;body\r\na;"{""model"": ""tiny""}"\r\n', "looks like CSV"),
}


@pytest.mark.parametrize("name", WRONG_KINDS)
async def test_a_file_of_another_kind_has_one_fault_that_says_what_to_do(name: str) -> None:
    data, message = WRONG_KINDS[name]
    found = await validated(data)
    assert marks(found) == [("invalid_file_format", None, None)]
    assert message in found.faults[0].message
    assert not_json_lines(data[:200]) == found.faults[0]  # as `batchyard run` asks it, before the upload


# What the engine would ignore

MISNAMED = {
    "guided_json": (CHAT, '`structured_outputs: {"json": …}`'),
    "guided_regex": (COMPLETIONS, '`structured_outputs: {"regex": …}`'),
    "extra_body": (EMBEDDINGS, "at the top level of the body"),
    "max_completion_tokens": (COMPLETIONS, "Write `max_tokens` instead"),
    "enable_thinking": (CHAT, "`chat_template_kwargs"),
}


@pytest.mark.parametrize("name", MISNAMED)
async def test_a_member_whose_meaning_is_known_is_a_fault_that_says_what_to_write(name: str) -> None:
    endpoint, message = MISNAMED[name]
    data = file_of(line("a", url=endpoint), line("b", url=endpoint, **{f"body_{name}": {"x": 1}}))
    found = await validated(data, endpoint=endpoint, capabilities=Capabilities({endpoint: KNOWN}))
    assert marks(found) == [("unsupported_parameter", 2, f"body.{name}")]
    assert message in found.faults[0].message


async def test_a_member_that_the_engine_does_know_is_no_fault_whatever_it_once_meant() -> None:
    capabilities = Capabilities({CHAT: KNOWN | {"reasoning"}})
    assert not (await validated(file_of(line("a", body_reasoning={})), capabilities=capabilities)).faults


async def test_a_member_that_is_null_is_as_good_as_absent() -> None:
    found = await validated(file_of(line("a", body_guided_json=None, body_foo=None)), capabilities=CHATTING)
    assert (found.faults, found.warnings) == ([], [])


async def test_members_that_the_engine_ignores_are_counted_by_name() -> None:
    odd = line("b", body_foo=1, body_store=True)
    data = file_of(line("a"), b"", odd, line("c", body_foo=2), line("d", body_max_tokens=1))
    found = await validated(data, capabilities=CHATTING)
    assert (found.model, found.faults) == ("tiny", [])
    assert [(each["code"], each["param"], each["line"], each["count"]) for each in found.warnings] == [
        ("unknown_parameter", "body.foo", 3, 2),
        ("unknown_parameter", "body.store", 3, 1),
    ]


async def test_of_many_ignored_names_the_first_are_listed_and_the_rest_counted() -> None:
    lines = [line(str(number), **{f"body_{'x' * 500}{number}": 1, f"body_n{number}": 1}) for number in range(100)]
    found = await validated(file_of(*lines), capabilities=CHATTING)
    listed = [100, *[1] * (LISTED_NAMES - 1)]  # the long names are one by what is shown of them
    assert [each["count"] for each in found.warnings] == [*listed, 200 - sum(listed)]
    assert (found.warnings[-1]["code"], found.warnings[-1]["param"]) == ("more_warnings", None)
    assert all(len(str(each)) < 2 * QUOTED_CHARACTERS + 250 for each in found.warnings)


async def test_unknown_members_are_faults_where_the_settings_say_so() -> None:
    data = file_of(line("a"), line("b", body_foo=1))
    found = await validated(data, capabilities=CHATTING, unknown_parameters="fault")
    assert (marks(found), found.warnings) == ([("unknown_parameter", 2, "body.foo")], [])


async def test_while_no_engine_was_heard_of_a_file_is_read_no_further_than_the_name_of_its_model() -> None:
    read: list[bytes] = []

    async def lines_as_they_come() -> AsyncIterator[bytes]:
        for number in range(1000):
            read.append(file_of(line(str(number))))
            yield read[-1]

    with pytest.raises(CapabilitiesUnknown, match="tiny"):
        await validate(lines_as_they_come(), endpoint=CHAT, settings=SETTINGS, capabilities=lambda model: None)
    assert len(read) == 1


async def test_a_file_that_names_no_model_that_is_served_waits_for_no_engine() -> None:
    found = await validated(file_of(line("a", body_model="gone")), capabilities=None)
    assert marks(found) == [("model_not_found", 1, "body.model")]


async def test_an_endpoint_that_the_model_lacks_is_one_fault_of_the_file() -> None:
    data = file_of(*(line(str(number), url=EMBEDDINGS, body_input="x") for number in range(5)))
    found = await validated(data, endpoint=EMBEDDINGS, capabilities=CHATTING)
    assert (marks(found), found.plans) == ([("endpoint_not_supported", None, "endpoint")], [])
    assert found.faults[0].message == (f"Model tiny does not serve {EMBEDDINGS}. It serves {CHAT}, {COMPLETIONS}.")


@pytest.mark.parametrize("encoding", ["bytes", "bytes_only"])
async def test_embeddings_in_bytes_are_refused_for_they_cannot_stand_in_a_line(encoding: str) -> None:
    good = [line(name, url=EMBEDDINGS, body_encoding_format=name) for name in ("float", "base64")]
    data = file_of(*good, line("c", url=EMBEDDINGS, body_encoding_format=encoding))
    found = await validated(data, endpoint=EMBEDDINGS, capabilities=Capabilities({EMBEDDINGS: KNOWN}))
    assert marks(found) == [("invalid_value", 3, "body.encoding_format")]


@pytest.mark.parametrize("filler", [b"x", b" ", b"[", b"\x00"])
async def test_a_20_mb_line_is_named_with_its_size(filler: bytes) -> None:
    found = await validated(file_of(GOOD, filler * 20_000_000, line("b")))
    assert marks(found) == [("line_too_large", 2, None)]
    assert "has 20000001 bytes" in found.faults[0].message


@given(st.lists(st.binary(max_size=30) | st.sampled_from([GOOD, b"", b"{}", BOM])).map(b"\n".join))
async def test_any_file_has_faults_or_shards(data: bytes) -> None:
    found = await validated(data)
    assert bool(found.faults) != bool(found.plans)
    assert all(isinstance(fault, LineFault) for fault in found.faults)


# Cutting into shards


@given(
    st.lists(st.sampled_from([b"a", b"bb", b"ccc", b"d" * 20, b"", b" ", b"\r", BOM]), max_size=40).map(b"\n".join),
    st.integers(1, 5),
    st.integers(1, 30),
)
async def test_the_shards_hold_every_request_once_and_in_order(data: bytes, lines: int, size: int) -> None:
    cutter = ShardCutter(lines, size)
    requests: list[RawLine] = []
    async for each in split_lines(parts(data), longest=1000):
        if not each.blank:
            requests.append(each)
            cutter.add(each)
    plans = cutter.plans()

    cut = [list(requests_of(data[plan.offset : plan.offset + plan.length])) for plan in plans]
    assert [each.data for each in requests] == [each for shard in cut for each in shard]
    assert [plan.count for plan in plans] == [len(shard) for shard in cut]
    for plan in plans:
        assert plan.count <= lines
        assert plan.length <= size or plan.count == 1
        assert data[: plan.offset].count(b"\n") == plan.first_line - 1
