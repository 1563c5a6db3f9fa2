"""/admin: what a person does once the watchdog has stopped and asked for one. The CLI calls these."""

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from app.api.auth import tenant_of
from app.api.batches import batch_object, no_batch
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
        """The model's restarts of the last hour count no longer: a replica that waits starts within seconds."""
        model_id = request.path_params["model"]
        if self._settings.model(model_id) is None:
            raise no_model(model_id)
        await self._store.reset_restarts(model_id)
        return JSONResponse({"model": model_id, "restart_budget": self._settings.restarts_per_hour})

    async def resume_batch(self, request: Request) -> Response:
        """A batch that was paused because its lines killed too many engines goes on with a full allowance."""
        batch_id = request.path_params["batch_id"]
        batch = await self._store.resume_batch(tenant_of(request), batch_id)
        if batch is None:
            raise no_batch(batch_id)
        return JSONResponse(batch_object(batch))
