"""The reader of uploads: however a body is cut into chunks, it is the same form."""

import asyncio
from hashlib import sha256
from tempfile import TemporaryFile

from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.types import Message

from app.api.forms import UploadForm, path_of, receive_form
from app.settings import Limits

BOUNDARY = b"-x"

# Bytes of which boundaries are made, so that whole and half ones appear in the content.
boundary_like = st.lists(st.sampled_from([b"\r", b"\n", b"-", b"x", b"--", b"\r\n--", BOUNDARY, b"a", b"\0"])).map(
    b"".join
)
contents = (boundary_like | st.binary()).filter(lambda content: b"\r\n--" + BOUNDARY not in b"\r\n" + content)


def body_of(content: bytes) -> bytes:
    return b"".join(
        (
            b"--" + BOUNDARY + b'\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n',
            b"--" + BOUNDARY + b'\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n',
            content + b"\r\n--" + BOUNDARY + b"--\r\n",
        )
    )


async def read(chunks: list[bytes]) -> tuple[UploadForm, bytes]:
    incoming: list[Message] = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    incoming.append({"type": "http.request", "more_body": False})

    async def receive() -> Message:
        return incoming.pop(0)

    content_type = b"multipart/form-data; boundary=" + BOUNDARY
    scope = {"type": "http", "method": "POST", "headers": [(b"content-type", content_type)]}
    with TemporaryFile() as file:
        form = await receive_form(Request(scope, receive), file, Limits())
        return form, path_of(file).read_bytes()


@settings(max_examples=100)
@given(content=contents, data=st.data())
def test_any_content_in_any_chunks_arrives_as_it_was_sent(content: bytes, data: st.DataObject) -> None:
    body = body_of(content)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(body)), max_size=20)))
    chunks = [body[start:end] for start, end in zip([0, *cuts], [*cuts, len(body)], strict=True)]
    form, written = asyncio.run(read(chunks))
    assert written == content
    assert form == UploadForm(
        {"purpose": "batch"}, "f", len(content), content.count(b"\n"), sha256(content).hexdigest()
    )
