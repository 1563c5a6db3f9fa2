"""/admin: what a person does once the watchdog has stopped and asked for one. The CLI calls these."""

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from app.api.auth import tenant_of
from app.api.batches import batch_object, no_batch
from app.api.errors import NEVER_RETRY, ApiError
from app.api.models import no_model
from app.api.routing import resource
from app.settings import Settings
from app.store import Store


class Admin:
    def __init__(self, settings: Settings, store: Store) -> None:
        self._settings = settings
        self._store = store

    def routes(self) -> list[Route]:
        return [
            resource("/admin/models/{model:path}/restarts/reset", {"POST": self.reset_restarts}),
            resource("/admin/batches/{batch_id}/resume", {"POST": self.resume_batch}),
        ]

    async def reset_restarts(self, request: Request) -> Response:
        """The model's restarts of the last hour count no longer: a replica that waits starts within seconds.

        409 where none of them counts.
        """
        model_id, budget = request.path_params["model"], self._settings.restarts_per_hour
        if self._settings.model(model_id) is None:
            raise no_model(model_id)
        if budget == 0:
            raise _nothing_to_do(f"restarts_per_hour is 0, so model {model_id} never starts again: raise that")
        if not await self._store.reset_restarts(model_id):
            raise _nothing_to_do(f"None of the {budget} restarts an hour of model {model_id} is used")
        return JSONResponse({"model": model_id, "restart_budget": budget})

    async def resume_batch(self, request: Request) -> Response:
        """A batch that was paused because its lines killed too many engines goes on with a full allowance.

        409 where it is not paused.
        """
        batch_id, tenant = request.path_params["batch_id"], tenant_of(request)
        batch = await self._store.batch(tenant, batch_id)
        if batch is not None and (batch.paused_at is None or batch.status != "in_progress"):
            raise _nothing_to_do(f"Batch {batch_id} is not paused, it is {batch.status}")
        batch = await self._store.resume_batch(tenant, batch_id)
        if batch is None:
            raise no_batch(batch_id)
        return JSONResponse(batch_object(batch))


def _nothing_to_do(why: str) -> ApiError:
    return ApiError(409, f"{why}. There is nothing to do.", code="nothing_to_do", headers=NEVER_RETRY)
