import json
from collections.abc import AsyncIterator
from itertools import pairwise
from random import Random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from app.batch.lines import (
    BOM,
    QUOTED_CHARACTERS,
    Line,
    LineError,
    LineFault,
    RawLine,
    parse_line,
    requests_of,
    split_lines,
)

LONG = 1_000_000


async def parts_of(data: bytes, cuts: list[int]) -> AsyncIterator[bytes]:
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    for start, end in pairwise(places):
        yield data[start:end]


async def lines_of(data: bytes, cuts: list[int] | None = None, longest: int = LONG) -> list[RawLine]:
    return [line async for line in split_lines(parts_of(data, cuts or []), longest=longest)]


# Files with many line ends and a few of the other bytes that matter.
texts = st.lists(st.sampled_from([b"\n", b"\n", b"\r\n", b" ", b"{}", b"a", b"\xff", BOM, "\u2028".encode()])).map(
    b"".join
)
files = texts | st.binary(max_size=60)
cut_places = st.lists(st.integers(0, 200), max_size=8)


# Cutting a stream into lines


@given(files, cut_places)
async def test_the_lines_together_are_the_file_and_each_lies_where_it_says(data: bytes, cuts: list[int]) -> None:
    lines = await lines_of(data, cuts)
    assert b"".join(data[line.offset : line.offset + line.length] for line in lines) == data
    assert [line.number for line in lines] == list(range(1, len(lines) + 1))
    for line in lines:
        taken = data[line.offset : line.offset + line.length]
        assert taken.removesuffix(b"\n") == line.data
        assert b"\n" not in line.data
        assert not line.too_long


@given(files, cut_places, st.integers(1, 5))
async def test_the_lines_do_not_depend_on_how_the_stream_is_cut(data: bytes, cuts: list[int], longest: int) -> None:
    assert await lines_of(data, cuts, longest) == await lines_of(data, [], longest)


@given(files, cut_places, st.integers(1, 5))
@example(b"abcdef", [], 5)
async def test_of_a_line_that_is_too_long_only_the_beginning_is_kept(
    data: bytes, cuts: list[int], longest: int
) -> None:
    for cut, whole in zip(await lines_of(data, cuts, longest), await lines_of(data), strict=True):
        assert cut.data == whole.data[:longest]
        assert (cut.number, cut.offset, cut.length) == (whole.number, whole.offset, whole.length)
        assert cut.too_long == (len(whole.data) > longest)


async def test_a_long_line_is_never_held_whole() -> None:
    async def spaces() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b" " * 10_000

    (line,) = [line async for line in split_lines(spaces(), longest=100)]
    assert (len(line.data), line.length, line.too_long, line.blank) == (100, 1_000_000, True, False)


@given(files, st.data())
async def test_the_requests_of_a_range_are_its_lines_that_are_not_blank(data: bytes, draw: st.DataObject) -> None:
    lines = await lines_of(data)
    first = draw.draw(st.integers(0, len(lines)))
    chosen = lines[first : draw.draw(st.integers(first, len(lines)))]
    start, end = (chosen[0].offset, chosen[-1].offset + chosen[-1].length) if chosen else (0, 0)
    assert list(requests_of(data[start:end])) == [line.data for line in chosen if not line.blank]


@pytest.mark.parametrize("blank", [b"", b"\r", b" \t ", BOM, BOM + b"\r"])
async def test_a_line_of_white_space_holds_no_request(blank: bytes) -> None:
    (line,) = await lines_of(blank + b"\n")
    assert line.blank
    assert list(requests_of(blank + b"\n")) == []


# Parsing a line: texts of JSON, since the bytes are what counts

spaces = st.text(alphabet=" \t\r", max_size=3)
characters = st.characters(codec="utf-8") | st.sampled_from('"\\/\u2028\u2029\x85\ufeff\x7f\U0001f600e\u0301')
strings = st.builds(
    lambda text, escaped: json.dumps(text, ensure_ascii=escaped), st.text(characters, max_size=10), st.booleans()
)
numbers = (
    st.integers().map(str)
    | st.floats(allow_nan=False, allow_infinity=False).map(json.dumps)
    | st.sampled_from(["-0", "-0.0", "1E400", "1e-400", "0.10", "1.0000000000000000000000001", "12345678901234567890"])
    | st.integers(1, 4300).map(lambda digits: "7" * digits)
)
scalars = st.sampled_from(["null", "true", "false"]) | numbers | strings


def _array(items: list[str], space: str) -> str:
    return "[" + f"{space},{space}".join(items) + f"{space}]"


def _object(members: list[tuple[str, str]], space: str) -> str:
    return "{" + space + f"{space},{space}".join(f"{name}{space}:{space}{value}" for name, value in members) + "}"


def objects(values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.builds(_object, st.lists(st.tuples(strings, values), max_size=4), spaces)


values = st.recursive(
    scalars, lambda inner: st.builds(_array, st.lists(inner, max_size=4), spaces) | objects(inner), max_leaves=12
)


@given(
    body=objects(values),
    custom_id=st.text(characters, min_size=1, max_size=10),
    escaped=st.booleans(),
    more=st.lists(values, max_size=2),
    order=st.randoms(use_true_random=False),
    space=spaces,
    mark=st.sampled_from([b"", BOM]),
)
@settings(max_examples=200)
async def test_the_body_is_what_the_client_wrote_byte_for_byte(
    body: str, custom_id: str, escaped: bool, more: list[str], order: Random, space: str, mark: bytes
) -> None:
    members = [
        ('"custom_id"', json.dumps(custom_id, ensure_ascii=escaped)),
        ('"method"', '"POST"'),
        ('"u\\u0072l"', '"\\/v1/embeddings"'),
        ('"body"', body),
        *((f'"more{number}"', value) for number, value in enumerate(more)),
    ]
    order.shuffle(members)
    line = parse_line(mark + (space + _object(members, space) + space).encode())
    assert line.body == body.encode()
    assert (line.custom_id, line.method, line.url) == (custom_id, "POST", "/v1/embeddings")


def line_of(**members: object) -> bytes:
    whole = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "tiny"}, **members}
    return json.dumps({name: value for name, value in whole.items() if value != "absent"}).encode()


def parsed(**body: object) -> Line:
    return parse_line(line_of(body=body))


def fault_of(data: bytes) -> LineFault:
    with pytest.raises(LineError) as caught:
        parse_line(data)
    return caught.value.at(7)


def test_the_model_is_read_from_the_body() -> None:
    assert parsed(model="tiny").model == "tiny"
    for none in ("", None, 3, ["tiny"]):
        assert parsed(model=none).model is None
    assert parsed().model is None


def test_of_a_key_that_stands_twice_in_the_body_both_are_kept_and_the_last_one_counts() -> None:
    body = '{"model": "first", "model": "tiny"}'
    line = parse_line(line_of(body="BODY").replace(b'"BODY"', body.encode()))
    assert (line.body, line.model) == (body.encode(), "tiny")


@pytest.mark.parametrize("name", ["custom_id", "method", "url", "body"])
@pytest.mark.parametrize("value", [None, "absent"])
def test_a_field_that_is_absent_or_null_is_missing(name: str, value: str | None) -> None:
    fault = LineFault("missing_required_parameter", f"Missing required parameter: '{name}'.", name, 7)
    assert fault_of(line_of(**{name: value})) == fault


def test_an_empty_custom_id_is_missing() -> None:
    assert fault_of(line_of(custom_id="")).code == "missing_required_parameter"


def test_a_line_has_one_fault_the_first() -> None:
    assert fault_of(b"{}").param == "custom_id"


@pytest.mark.parametrize(
    "name, value", [("custom_id", 1), ("method", True), ("url", ["/"]), ("body", "{}"), ("body", [])]
)
def test_a_field_of_another_type_is_named(name: str, value: object) -> None:
    fault = fault_of(line_of(**{name: value}))
    assert (fault.code, fault.param) == ("invalid_type", name)
    assert f"'{name}': expected {'an object' if name == 'body' else 'a string'}" in fault.message


def test_only_post_is_a_method() -> None:
    for method in ("GET", "post", ""):
        fault = fault_of(line_of(method=method))
        assert (fault.code, fault.param) == ("invalid_method", "method")


NOT_JSON = {
    b"": "expected '{' at character 1",
    b"[]": "expected '{' at character 1",
    b'"{}"': "expected '{' at character 1",
    b"{": "ends at character 2",
    b"{} {}": "more after the object, at character 4",
    b'{"a":1,}': "Expecting value",
    b'{"a" 1}': "expected ':' at character 6",
    b'{"a":1 "b":2}': "expected '}' at character 8",
    b'{"a":}': "Expecting value",
    b"{1:2}": "name must be a string",
    b"{'a':1}": "Expecting value",
    b'{"a":"\t"}': "Invalid control character",
    b'{"a":"\\x"}': "Invalid \\escape",
    b'{"a":01}': "expected '}'",
    b'{"a":NaN}': "NaN is not a JSON value",
    b'{"a":[-Infinity]}': "-Infinity is not a JSON value",
    b'{"a":\x00}': "Expecting value",
    b'{"a":1}\x00': "more after the object",
    b'{"a":1}\xc2\x85': "more after the object",
    b'{\xc2\xa0"a":1}': "Expecting value",
    b'{"\xff":1}': "byte 3 is not valid UTF-8",
    b'{"a":"\xed\xa0\x80"}': "byte 7 is not valid UTF-8",
    b'{"a":"\\ud800"}': "lone surrogate",
    b'{"a":{"\\udfff":1}}': "lone surrogate",
    b'{"a":"\\ude00\\ud83d"}': "lone surrogate",
    b'{"a":1,"a":1}': "the key 'a' stands twice",
    b'{"a":1,"\\u0061":1}': "the key 'a' stands twice",
    b'{"a":' + b"7" * 5000 + b"}": "4300 digits",
    b'{"a":' + b"[" * 100_000: "nested too deeply",
    b'{"a":' + b'{"":' * 100_000: "nested too deeply",
    b"\xff\xfe{\x00": "byte 1 is not valid UTF-8",
    BOM + BOM + b"{}": "expected '{'",
}


@pytest.mark.parametrize("data", NOT_JSON, ids=lambda data: repr(data[:20]))
def test_what_is_not_json_is_said_to_be_so_and_why(data: bytes) -> None:
    fault = fault_of(data)
    assert (fault.code, fault.param, fault.line) == ("invalid_json_line", None, 7)
    assert fault.message.startswith("This line is not parseable as valid JSON: ")
    assert NOT_JSON[data] in fault.message


@given(st.binary(max_size=80) | st.text(characters, max_size=80).map(str.encode) | objects(values).map(str.encode))
@settings(max_examples=200)
async def test_a_line_is_a_request_or_a_fault_whatever_it_is(data: bytes) -> None:
    try:
        line = parse_line(data)
    except LineError as error:
        assert error.code and error.message
    else:
        assert line.body in data


def test_an_escaped_backslash_before_what_looks_like_a_surrogate_is_text() -> None:
    assert parse_line(line_of(custom_id="\\ud800")).custom_id == "\\ud800"


def test_a_pair_of_surrogate_escapes_is_one_character() -> None:
    assert parse_line(line_of(custom_id="A").replace(b'"A"', b'"\\ud83d\\ude00"')).custom_id == "\U0001f600"


@pytest.mark.parametrize("data", [line_of(method="x" * LONG), b'{"%b":1,"%b":1}' % (b"x" * LONG, b"x" * LONG)])
def test_a_message_quotes_only_the_beginning_of_what_is_long(data: bytes) -> None:
    assert len(fault_of(data).message) < QUOTED_CHARACTERS + 200
