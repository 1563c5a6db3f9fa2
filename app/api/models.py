"""/v1/models: what the settings serve."""

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from app.api.errors import ApiError
from app.api.routing import resource
from app.settings import Settings


class Models:
    """`created` is when this process started, for want of a better time."""

    def __init__(self, settings: Settings, created: int) -> None:
        self._settings = settings
        self._created = created

    def routes(self) -> list[Route]:
        return [
            resource("/v1/models", {"GET": self.list_models}),
            resource("/v1/models/{model:path}", {"GET": self.retrieve}),
        ]

    async def list_models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [self._object(model.id) for model in self._settings.models]})

    async def retrieve(self, request: Request) -> Response:
        model_id = request.path_params["model"]
        if self._settings.model(model_id) is None:
            raise no_model(model_id)
        return JSONResponse(self._object(model_id))

    def _object(self, model_id: str) -> dict[str, Any]:
        return {"id": model_id, "object": "model", "created": self._created, "owned_by": "batchyard"}


def no_model(model_id: str) -> ApiError:
    return ApiError(404, f"The model '{model_id}' does not exist.", param="model", code="model_not_found")
