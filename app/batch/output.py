"""The lines of output and error files, as bytes that end with LF."""

import json
from hashlib import blake2b

NOT_RUN = {
    "cancelled": ("batch_cancelled", "This request was not executed because the batch was cancelled."),
    "expired": (
        "batch_expired",
        "This request could not be executed before the completion window expired.",
    ),
    "failed": ("input_file_gone", "This request was not executed because the content of the input file is gone."),
}
"""Why lines of a batch that ended early have no answer, by how it ended."""

RESULT_LOST = (
    "result_lost",
    "This request was executed, but its result was lost in the object store, and the batch could not execute it again.",
)
"""A line that was answered once, of a batch that is ending or whose input is gone."""


ESCAPED = {mark.encode(): b"\\u%04x" % ord(mark) for mark in "\x85\u2028\u2029"}
"""What ends a line for many a reader, Python's `iter_lines` among them, and not for JSON: written as JSON's escape."""


def answered_line(batch_id: str, number: int, custom_id: str, status: int, body: bytes) -> bytes:
    """A line that the model answered, well (status 200) or with an error of its own; `body` is its JSON."""
    request = _request_id(batch_id, number)
    body = body.replace(b"\n", b" ").replace(b"\r", b" ")  # raw, these can only stand between JSON's tokens
    for mark, escape in ESCAPED.items():
        body = body.replace(mark, escape)  # and these only within strings
    response = b'{"status_code":%d,"request_id":"req_%b","body":%b}' % (status, request, body)
    return b'{"id":"batch_req_%b","custom_id":%b,"response":%b,"error":null}\n' % (
        request,
        json.dumps(custom_id).encode(),
        response,
    )


def unanswered_line(batch_id: str, number: int, custom_id: str, code: str, message: str) -> bytes:
    """A line that no model answered."""
    line = {
        "id": "batch_req_" + _request_id(batch_id, number).decode(),
        "custom_id": custom_id,
        "response": None,
        "error": {"code": code, "message": message},
    }
    return json.dumps(line, separators=(",", ":")).encode() + b"\n"


def _request_id(batch_id: str, number: int) -> bytes:
    """The same for every run of the line, so that finalising twice writes the same bytes."""
    return blake2b(f"{batch_id}/{number}".encode(), digest_size=12).hexdigest().encode()
