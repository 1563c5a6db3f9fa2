"""The form of POST /v1/files, read as it comes: its fields are kept, its file goes to disk part by part."""

import asyncio
import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from app.api.bodies import content_length
from app.api.errors import ApiError, bad_request, missing_parameter, too_large, unknown_parameter
from app.api.filenames import filename_of, text_of
from app.errors import ObjectsUnavailable
from app.settings import Limits

FIELDS = ("purpose", "expires_after[anchor]", "expires_after[seconds]")

FIELD_BYTES = 1024
"""The longest value of a field; the longest that means something has 12 bytes."""

FORM_BYTES = 256 * 1024
"""Room for all that a form has besides its file's content: boundaries, part headers, fields."""

WRITE_BYTES = 256 * 1024
"""Bytes of the file that wait in memory before a thread writes them."""

_WRITERS = ThreadPoolExecutor(4, "upload")
"""Threads of their own: those that the ledger uses must not wait for a slow disk."""


@dataclass(frozen=True)
class UploadForm:
    """What came besides the content: `fields` as sent, and what is known of the file."""

    fields: dict[str, str]
    filename: str
    bytes: int
    lines: int
    """Ends of lines: what a batch of the file has at most, and one less where the last line has no end."""
    sha256: str


@contextmanager
def spool(folder: Path) -> Iterator[IO[bytes]]:
    """A file without a name, so that even after kill -9 nothing of it is left. Raises ObjectsUnavailable: disk full."""
    with _disk_faults(f"The upload cannot be written to {folder}"):
        file = TemporaryFile(dir=folder)  # noqa: SIM115
    with file:
        yield file


@contextmanager
def _disk_faults(message: str) -> Iterator[None]:
    """Stands around the file's own operations alone: a client that leaves may be an OSError, too."""
    try:
        yield
    except OSError as error:
        raise ObjectsUnavailable(f"{message}: {error.strerror}") from error


def path_of(file: IO[bytes]) -> Path:
    """The name under which Linux lets a file without a name be opened, as long as `file` is open."""
    return Path(f"/proc/self/fd/{file.fileno()}")


async def receive_form(request: Request, file: IO[bytes], limits: Limits) -> UploadForm:
    """Reads the whole form; the content is in `file` then.

    Memory: about 3 WRITE_BYTES. Raises ApiError, ObjectsUnavailable: disk full, and ClientDisconnect when the
    body is cut off.
    """
    reader = _FormReader(limits, content_length(request))
    parser = _parser(request, reader)
    content = _Content(file)
    received = 0
    reader.check_size()
    async for chunk in request.stream():
        received += len(chunk)
        try:
            parser.write(chunk)
        except FormParserError as error:
            raise _malformed(str(error)) from error
        reader.check_size()
        if received - reader.size > FORM_BYTES:
            raise _malformed(f"it has more than {FORM_BYTES} bytes besides the file")
        if len(reader.waiting) >= WRITE_BYTES:
            await content.write(reader.taken())
    await content.write(reader.taken())
    if not reader.ended:
        raise _malformed("it ends before its last boundary")
    return reader.form(content)


class _Content:
    """The file's content on its way to disk. Writing and hashing happen in a thread."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._sha256 = hashlib.sha256()
        self.lines = 0

    async def write(self, data: bytes) -> None:
        await asyncio.get_running_loop().run_in_executor(_WRITERS, self._write, data)

    def sha256(self) -> str:
        return self._sha256.hexdigest()

    def _write(self, data: bytes) -> None:
        self._sha256.update(data)
        self.lines += data.count(b"\n")
        with _disk_faults("The upload cannot be written to the folder `uploads` of the data folder"):
            self._file.write(data)
            self._file.flush()


class _FormReader:
    """What the parser tells, part by part. `waiting` are bytes of the file that nobody has taken yet."""

    def __init__(self, limits: Limits, content_length: int) -> None:
        self.waiting = bytearray()
        self.size = 0
        self.ended = False
        self._limits = limits
        self._content_length = content_length
        self._fields: dict[str, bytearray] = {}
        self._complete: dict[str, str] = {}
        self._filename: str | None = None
        self._part = ""
        self._header = bytearray()
        self._value = bytearray()
        self._disposition = b""

    def taken(self) -> bytes:
        data = bytes(self.waiting)
        self.waiting.clear()
        return data

    def check_size(self) -> None:
        """Raises ApiError (413) as soon as what came, or what was announced, is more than this purpose may have."""
        limit, setting = self._limit()
        if max(self.size, self._content_length - FORM_BYTES) > limit:
            message = f"The file is larger than the {limit} bytes allowed (limits.{setting})."
            raise too_large(message, "file_too_large")

    def form(self, content: _Content) -> UploadForm:
        if self._filename is None:
            raise missing_parameter("file")
        return UploadForm(self._complete, self._filename, self.size, content.lines, content.sha256())

    def callbacks(self) -> dict[str, Callable[..., None]]:
        return {
            "on_part_begin": self._part_begin,
            "on_header_field": self._header_field,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_finished,
            "on_part_data": self._part_data,
            "on_part_end": self._part_end,
            "on_end": self._end,
        }

    def _limit(self) -> tuple[int, str]:
        """Until the purpose is known, it may be the one that allows more."""
        batch, other = (self._limits.file_bytes, "file_bytes"), (self._limits.upload_bytes, "upload_bytes")
        purpose = self._complete.get("purpose")
        if purpose is None:
            return max(batch, other)
        return batch if purpose == "batch" else other

    def _part_begin(self) -> None:
        self._part, self._disposition = "", b""

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = bytes(self._value)
        self._header.clear()
        self._value.clear()

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        if b"name" not in options:
            raise _malformed("a part has no name")
        self._part = text_of(options[b"name"])
        if self._part in self._fields or (self._part == "file" and self._filename is not None):
            raise bad_request(f"Duplicate parameter: '{self._part}'.", self._part, "duplicate_parameter")
        if self._part == "file":
            self._filename = filename_of(self._disposition, options.get(b"filename", b""))
        elif self._part in FIELDS:
            self._fields[self._part] = bytearray()
        else:
            raise unknown_parameter(self._part)

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if self._part == "file":
            self.size += end - start
            self.waiting += memoryview(data)[start:end]
            return
        field = self._fields[self._part]
        field += data[start:end]
        if len(field) > FIELD_BYTES:
            message = f"Invalid '{self._part}': more than {FIELD_BYTES} bytes."
            raise bad_request(message, self._part, "string_above_max_length")

    def _part_end(self) -> None:
        if self._part != "file":
            self._complete[self._part] = text_of(self._fields[self._part])

    def _end(self) -> None:
        self.ended = True


def _parser(request: Request, reader: _FormReader) -> MultipartParser:
    kind, options = parse_options_header(request.headers.get("content-type"))
    if kind != b"multipart/form-data":
        raise bad_request("The body of an upload must be multipart/form-data.", code="invalid_content_type")
    if not options.get(b"boundary"):
        raise _malformed("the content-type names no boundary")
    try:
        return MultipartParser(options[b"boundary"], reader.callbacks())  # type: ignore[arg-type]
    except FormParserError as error:
        raise _malformed(str(error)) from error


def _malformed(reason: str) -> ApiError:
    return bad_request(f"The multipart form is malformed: {reason}.", code="invalid_form")
