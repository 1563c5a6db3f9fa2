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
        return JSONResponse({"object": "list", "data": [self._object(name) for name in self._settings.served]})

    async def retrieve(self, request: Request) -> Response:
        model_id = request.path_params["model"]
        if model_id not in self._settings.served:
            raise no_model(model_id)
        return JSONResponse(self._object(model_id))

    def _object(self, name: str) -> dict[str, Any]:
        """OpenAI's model object; that of an adapter names its model as `parent`, as vLLM's does."""
        model_id = self._settings.served[name]
        parent = {} if name == model_id else {"parent": model_id}
        return {"id": name, "object": "model", "created": self._created, "owned_by": "batchyard", **parent}


def no_model(model_id: str) -> ApiError:
    return ApiError(404, f"The model '{model_id}' does not exist.", param="model", code="model_not_found")
