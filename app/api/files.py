"""/v1/files: upload, list, look up, download, delete."""

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from typing import Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from app.api import idempotency, pages
from app.api.auth import tenant_of
from app.api.errors import NEVER_RETRY, ApiError, invalid_value, missing_parameter, not_found, unavailable
from app.api.expiry import checked_seconds
from app.api.forms import UploadForm, path_of, receive_form, spool
from app.api.ranges import ByteRange, Unsatisfiable, parse_range
from app.api.routing import resource
from app.api.streams import JSONL, PartsResponse
from app.objects import Objects
from app.settings import Settings
from app.store import File, Store

UPLOAD_PURPOSES = ("assistants", "batch", "fine-tune", "vision", "user_data", "evals")
JSONL_PURPOSES = ("batch", "batch_output")
DAY = 86_400
LONGEST_LIST = 10_000

RESERVED_SECONDS = DAY
"""An upload whose gateway died before its row was true is deleted after this; the longest takes minutes."""


PUTS_AT_ONCE = 2
"""Uploads that go from disk to the object store at one time: each holds 10 MB of memory meanwhile."""


class Files:
    def __init__(self, settings: Settings, store: Store, objects: Objects, now: Callable[[], int]) -> None:
        self._limits = settings.limits
        self._batch_file_seconds = int(settings.retention.batch_file_days * DAY)
        self._folder = settings.data / "uploads"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._store = store
        self._objects = objects
        self._now = now
        self._places = asyncio.Semaphore(settings.limits.uploads_at_once)
        self._putting = asyncio.Semaphore(PUTS_AT_ONCE)

    def routes(self) -> list[Route]:
        return [
            resource("/v1/files", {"GET": self.list_files, "POST": self.create}),
            resource("/v1/files/{file_id}", {"GET": self.retrieve, "DELETE": self.delete}),
            resource("/v1/files/{file_id}/content", {"GET": self.content}),
        ]

    async def create(self, request: Request) -> Response:
        key = idempotency.key_of(request)
        if self._places.locked():
            message = (
                f"{self._limits.uploads_at_once} uploads are under way, and no more may be (limits.uploads_at_once)."
            )
            raise unavailable(f"{message} Please try again.", "too_many_uploads")
        async with self._places:
            with spool(self._folder) as spooled:
                form = await receive_form(request, spooled, self._limits)
                file = await self._keep(tenant_of(request), form, path_of(spooled), key)
        return JSONResponse(file_object(file))

    async def list_files(self, request: Request) -> Response:
        files, has_more = await self._store.list_files(
            tenant_of(request),
            purpose=request.query_params.get("purpose"),
            ascending=pages.ascending(request),
            limit=pages.limit_of(request, LONGEST_LIST, LONGEST_LIST),
            after=request.query_params.get("after"),
        )
        return pages.page([file_object(file) for file in files], has_more)

    async def retrieve(self, request: Request) -> Response:
        return JSONResponse(file_object(await self._found(request)))

    async def content(self, request: Request) -> Response:
        file = await self._found(request)
        asked = _range_of(request, file.bytes)
        headers = {
            "accept-ranges": "bytes",
            "content-disposition": _attachment(file.filename),
            "content-length": str(asked.length if asked else file.bytes),
            "x-content-type-options": "nosniff",
        }
        media_type = JSONL if file.purpose in JSONL_PURPOSES else "application/octet-stream"
        if asked is None:
            return await PartsResponse.start(
                self._objects.stream(file.object_key), headers=headers, media_type=media_type
            )
        return await PartsResponse.start(
            self._objects.stream(file.object_key, asked.start, asked.end),
            status=206,
            headers={**headers, "content-range": asked.content_range},
            media_type=media_type,
        )

    async def delete(self, request: Request) -> Response:
        file_id = request.path_params["file_id"]
        outcome = await self._store.delete_file(tenant_of(request), file_id)
        if outcome == "missing":
            raise not_found("File", file_id)
        if outcome != "deleted":
            raise ApiError(
                409,
                f"Cannot delete file '{file_id}': batch '{outcome}' reads it and is not finished. "
                "Cancel the batch or wait for its end first.",
                param="id",
                code="file_in_use",
                headers=NEVER_RETRY,
            )
        return JSONResponse({"id": file_id, "object": "file", "deleted": True})

    async def _found(self, request: Request) -> File:
        file_id = request.path_params["file_id"]
        file = await self._store.file(tenant_of(request), file_id)
        if file is None:
            raise not_found("File", file_id)
        return file

    async def _keep(self, tenant: str, form: UploadForm, content: Path, key: str | None) -> File:
        """The new file, or the one that the same key and body made before. Raises IdempotencyConflict."""
        upload = _Upload.of(form)
        digest = idempotency.digest_of(upload.purpose, upload.filename, upload.keep_seconds, form.sha256)
        earlier = await self._earlier(tenant, key, digest)
        if earlier is not None:
            return earlier
        file = self._file(tenant, upload)
        await self._store.reserve_object(file.object_key, self._now() + RESERVED_SECONDS)
        async with self._putting:
            await self._objects.put(file.object_key, content)
        return await self._store.add_file(file, key, digest, reserved=True)

    async def _earlier(self, tenant: str, key: str | None, digest: str) -> File | None:
        if key is None:
            return None
        file_id = await self._store.idempotent_object(tenant, "files", key, digest)
        return await self._store.file(tenant, file_id) if file_id is not None else None

    def _file(self, tenant: str, upload: "_Upload") -> File:
        file_id, created_at = f"file-{token_hex(12)}", self._now()
        keep_seconds = upload.keep_seconds
        if keep_seconds is None and upload.purpose == "batch":
            keep_seconds = self._batch_file_seconds
        return File(
            id=file_id,
            tenant=tenant,
            purpose=upload.purpose,
            filename=upload.filename,
            bytes=upload.bytes,
            object_key=f"files/{file_id}",
            created_at=created_at,
            expires_at=created_at + keep_seconds if keep_seconds is not None else None,
            lines=upload.lines,
        )


@dataclass(frozen=True)
class _Upload:
    """What a client asks to keep; `keep_seconds` None: for as long as the purpose's default says."""

    purpose: str
    filename: str
    bytes: int
    lines: int
    keep_seconds: int | None

    @classmethod
    def of(cls, form: UploadForm) -> "_Upload":
        purpose = form.fields.get("purpose")
        if purpose is None:
            raise missing_parameter("purpose")
        if purpose not in UPLOAD_PURPOSES:
            raise invalid_value("purpose", purpose, UPLOAD_PURPOSES)
        return cls(purpose, form.filename, form.bytes, form.lines, _keep_seconds(form.fields))


def file_object(file: File) -> dict[str, Any]:
    """A file as OpenAI shows it."""
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.bytes,
        "created_at": file.created_at,
        "expires_at": file.expires_at,
        "filename": file.filename,
        "purpose": file.purpose,
        "status": "processed",
        "status_details": None,
    }


def _keep_seconds(fields: dict[str, str]) -> int | None:
    names = ("expires_after[anchor]", "expires_after[seconds]")
    anchor, seconds = (fields.get(name) for name in names)
    if anchor is None and seconds is None:
        return None
    return checked_seconds(anchor, int(seconds) if seconds and re.fullmatch("[0-9]+", seconds) else seconds, names)


def _range_of(request: Request, size: int) -> ByteRange | None:
    """The range that is asked for; None: the whole content. Raises ApiError (416)."""
    header = request.headers.get("range")
    if header is None or request.method != "GET" or "if-range" in request.headers:  # no validator here to name
        return None
    try:
        return parse_range(header, size)
    except Unsatisfiable as error:
        message = f"The range '{header}' lies outside of the content, which has {size} bytes."
        headers = {"content-range": f"bytes */{size}"}
        raise ApiError(416, message, param="Range", code="range_not_satisfiable", headers=headers) from error


def _attachment(filename: str) -> str:
    """RFC 6266: a name in ASCII for old clients, the true one beside it."""
    plain = re.sub(r'[^ -~]|["\\%]', "_", filename)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(filename, safe='')}"
