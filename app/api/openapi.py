"""/openapi.json: the description of this API, `openapi.json` beside this file with the version filled in."""

import json
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from app.api.health import VERSION
from app.api.routing import resource

DESCRIPTION = Path(__file__).with_name("openapi.json")


def description() -> dict[str, Any]:
    described: dict[str, Any] = json.loads(DESCRIPTION.read_bytes())
    described["info"]["version"] = VERSION
    return described


class Description:
    def __init__(self) -> None:
        self._description = description()

    def routes(self) -> list[Route]:
        return [resource("/openapi.json", {"GET": self.read})]

    async def read(self, request: Request) -> Response:
        return JSONResponse(self._description)
