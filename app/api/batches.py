"""/v1/batches: create, list, look up, cancel, and read the results so far."""

from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, replace
from itertools import islice
from secrets import token_hex
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from app.api import gate, idempotency, pages
from app.api.auth import tenant_of
from app.api.batch_request import COMPLETION_WINDOWS, BatchRequest
from app.api.bodies import json_object, read_body
from app.api.errors import NEVER_RETRY, ApiError
from app.api.routing import resource
from app.api.streams import JSONL, PartsResponse
from app.batch.lines import LineError, LineFault, parse_line, requests_of
from app.batch.results import stream_results
from app.errors import ObjectMissing
from app.health import Health
from app.objects import Objects
from app.settings import Settings
from app.store import FINAL_STATES, Batch, File, Store

BODY_BYTES = 1024 * 1024
"""The longest body of POST /v1/batches; the longest that is valid has about 60 KB."""

HEAD_BYTES = 64 * 1024
"""How much of an input file the gate reads at first to find the first line."""

UNCANCELLABLE = ("completed", "failed", "expired")

TIMES = (
    "created_at",
    "in_progress_at",
    "expires_at",
    "finalizing_at",
    "completed_at",
    "failed_at",
    "expired_at",
    "cancelling_at",
    "cancelled_at",
)


class Batches:
    def __init__(
        self,
        settings: Settings,
        store: Store,
        objects: Objects,
        health: Health,
        now: Callable[[], int],
        created: Callable[[], None],
    ) -> None:
        """`created` is called after each new batch."""
        self._limits = settings.limits
        self._served = settings.served
        self._store = store
        self._objects = objects
        self._health = health
        self._now = now
        self._created = created

    def routes(self) -> list[Route]:
        return [
            resource("/v1/batches", {"GET": self.list_batches, "POST": self.create}),
            resource("/v1/batches/{batch_id}", {"GET": self.retrieve}),
            resource("/v1/batches/{batch_id}/cancel", {"POST": self.cancel}),
            resource("/v1/batches/{batch_id}/results", {"GET": self.results}),
        ]

    async def create(self, request: Request) -> Response:
        tenant, key = tenant_of(request), idempotency.key_of(request)
        body = json_object(await read_body(request, BODY_BYTES, "the longest that is valid has far less"))
        wanted = BatchRequest.of(body)
        digest = idempotency.digest_of(asdict(wanted))
        batch = await self._earlier(tenant, key, digest)
        if batch is None:
            batch = await self._store.create_batch(
                await self._new_batch(tenant, wanted),
                queued_lines_limit=self._limits.queued_lines,
                idempotency_key=key,
                digest=digest,
            )
            self._created()
        return JSONResponse(batch_object(batch))

    async def list_batches(self, request: Request) -> Response:
        batches, has_more = await self._store.list_batches(
            tenant_of(request), limit=pages.limit_of(request, 20, 100), after=request.query_params.get("after")
        )
        return pages.page([batch_object(batch) for batch in batches], has_more)

    async def retrieve(self, request: Request) -> Response:
        batch = await self._found(request)
        progress = await self._store.progress(batch.id) if batch.status == "in_progress" else None
        return JSONResponse(batch_object(batch) | ({"progress": asdict(progress)} if progress else {}))

    async def cancel(self, request: Request) -> Response:
        batch_id = request.path_params["batch_id"]
        batch = await self._store.cancel_batch(tenant_of(request), batch_id)
        if batch is None:
            raise no_batch(batch_id)
        if batch.status in UNCANCELLABLE:
            message = f"Cannot cancel a batch with status '{batch.status}'."
            raise ApiError(409, message, headers=NEVER_RETRY)
        return JSONResponse(batch_object(batch))

    async def results(self, request: Request) -> Response:
        return await PartsResponse.start(self._results(await self._found(request)), media_type=JSONL)

    async def _found(self, request: Request) -> Batch:
        batch_id = request.path_params["batch_id"]
        batch = await self._store.batch(tenant_of(request), batch_id)
        if batch is None:
            raise no_batch(batch_id)
        return batch

    async def _earlier(self, tenant: str, key: str | None, digest: str) -> Batch | None:
        """What the same key and body made before. Raises IdempotencyConflict."""
        if key is None:
            return None
        batch_id = await self._store.idempotent_object(tenant, "batches", key, digest)
        return await self._store.batch(tenant, batch_id) if batch_id is not None else None

    async def _new_batch(self, tenant: str, wanted: BatchRequest) -> Batch:
        """A batch to validate, or one that has failed because its file cannot be an input. Raises ApiError (503)."""
        created_at = self._now()
        batch = Batch(
            id=f"batch_{token_hex(12)}",
            tenant=tenant,
            status="validating",
            endpoint=wanted.endpoint,
            input_file_id=wanted.input_file_id,
            completion_window=wanted.completion_window,
            created_at=created_at,
            expires_at=created_at + COMPLETION_WINDOWS[wanted.completion_window],
            metadata=wanted.metadata,
            output_expires_after=wanted.output_expires_after,
        )
        file = await self._store.file(tenant, wanted.input_file_id)
        if file is None or file.purpose != "batch":
            return replace(batch, status="failed", failed_at=created_at, errors=[_fault(file, batch).as_dict()])
        await self._pass_gate(file)
        return batch

    async def _pass_gate(self, file: File) -> None:
        """Raises ApiError (503) when no replica of the file's model is healthy. Which it is, is only read when needed:
        what is no request or names no model of ours passes, and validation says what is wrong with it."""
        if all(model.healthy for model in self._health.models()):
            return
        named = await self._first_model(file)
        model = gate.model_named(named, self._served, self._health) if named is not None else None
        if model is not None:
            gate.require_replica(model, "batches")

    async def _first_model(self, file: File) -> str | None:
        try:
            return parse_line(await self._first_line(file)).model
        except (LineError, ObjectMissing):
            return None

    async def _first_line(self, file: File) -> bytes:
        """The first line that is not blank, as far as it lies in the file's first `limits.line_bytes`."""
        longest = min(file.bytes, self._limits.line_bytes)
        length = min(HEAD_BYTES, longest)
        while True:
            head = await self._objects.read(file.object_key, 0, length)
            lines = list(islice(requests_of(head), 2))
            if len(lines) == 2 or length == longest:  # what follows the first shows that it is whole
                return lines[0] if lines else b""
            length = min(8 * length, longest)

    async def _results(self, batch: Batch) -> AsyncIterator[bytes]:
        """What is durable while the batch runs; output and error file once it has ended."""
        if batch.status not in FINAL_STATES:
            running = False
            async for part in stream_results(self._store, self._objects, batch.id):
                running = True
                yield part
            # Once the batch ends its segments go: those that were not read yet seem to be empty.
            batch = await self._store.batch(batch.tenant, batch.id) or batch
            if running and batch.status in FINAL_STATES:
                raise ObjectMissing(f"batch {batch.id} has ended while its results were read: read them again")
            if running:
                return
        for file_id in (batch.output_file_id, batch.error_file_id):
            file = await self._store.file(batch.tenant, file_id) if file_id is not None else None
            if file is not None:
                async for part in self._objects.stream(file.object_key):
                    yield part


def batch_object(batch: Batch) -> dict[str, Any]:
    """A batch as OpenAI shows it: every member, null where there is nothing."""
    return {
        "id": batch.id,
        "object": "batch",
        "endpoint": batch.endpoint,
        "model": batch.model,
        "errors": {"object": "list", "data": errors} if (errors := _errors(batch)) else None,
        "input_file_id": batch.input_file_id,
        "completion_window": batch.completion_window,
        "status": batch.status,
        "output_file_id": batch.output_file_id,
        "error_file_id": batch.error_file_id,
        **{name: getattr(batch, name) for name in TIMES},
        "request_counts": {"total": batch.total, "completed": batch.completed, "failed": batch.failed},
        "usage": _usage(batch) if batch.status != "validating" else None,
        "metadata": batch.metadata,
        "warnings": batch.warnings,
        "error_summary": batch.error_summary,
    }


def _errors(batch: Batch) -> list[dict[str, Any]] | None:
    if batch.paused_at is None or batch.status != "in_progress":
        return batch.errors
    message = (
        "The batch is paused: lines of it killed more engines than it is allowed. Cancel it, or have an operator look "
        "into it and resume it."
    )
    return [LineFault("batch_paused", message).as_dict()]


def _usage(batch: Batch) -> dict[str, Any]:
    return {
        "input_tokens": batch.input_tokens,
        "input_tokens_details": {"cached_tokens": batch.cached_tokens},
        "output_tokens": batch.output_tokens,
        "output_tokens_details": {"reasoning_tokens": batch.reasoning_tokens},
        "total_tokens": batch.input_tokens + batch.output_tokens,
    }


def _fault(file: File | None, batch: Batch) -> LineFault:
    """Why this cannot be the input of a batch. OpenAI says so on the batch, not as an error of the request."""
    if file is None:
        message = f"Cannot find file {batch.input_file_id}, or organization {batch.tenant} does not have access to it."
    else:
        message = f"File {file.id} has the purpose '{file.purpose}'; the input of a batch must have 'batch'."
    return LineFault("invalid_request", message, "file_id")


def no_batch(batch_id: str) -> ApiError:
    return ApiError(404, f"No batch found with id '{batch_id}'.", param="id")
