"""Lines of result files: one line each, whatever reads them."""

import json

import pytest

from app.batch.output import answered_line, unanswered_line

MARKS = "a\x85b\u2028c\u2029d \\u2028 ü \U0001f600"


def body_of(text: str) -> bytes:
    return json.dumps({"content": text}, ensure_ascii=False).encode()


@pytest.mark.parametrize("custom_id", ["a", MARKS])
def test_an_answer_is_one_line_for_readers_that_also_end_lines_at_unicodes_separators(custom_id: str) -> None:
    line = answered_line("batch_1", 1, custom_id, 200, body_of(MARKS))
    assert len(line.decode().splitlines()) == 1
    read = json.loads(line)
    assert (read["custom_id"], read["response"]["body"]) == (custom_id, {"content": MARKS})


def test_all_that_is_no_separator_stays_byte_for_byte() -> None:
    body = body_of("\xa0 \u2027 \u202a \u0f85 \u0142\u0085".replace("\x85", "\\\\"))
    assert body in answered_line("batch_1", 1, "a", 200, body)


def test_a_line_that_was_not_answered_is_one_line_as_well() -> None:
    line = unanswered_line("batch_1", 1, MARKS, "batch_cancelled", MARKS)
    assert len(line.decode().splitlines()) == 1
    assert json.loads(line)["error"]["message"] == MARKS
