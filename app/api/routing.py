"""One path, one route: with Starlette's own way, a route a method, a 405 names the methods of the first route only."""

from collections.abc import Awaitable, Callable, Mapping

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

Handler = Callable[[Request], Awaitable[Response]]


def resource(path: str, handlers: Mapping[str, Handler]) -> Route:
    """A handler for each method. HEAD is handled as GET, whose body the server drops; OPTIONS says what there is."""
    methods = {*handlers, "OPTIONS", *(["HEAD"] if "GET" in handlers else [])}
    allow = ", ".join(sorted(methods))

    async def dispatch(request: Request) -> Response:
        if request.method == "OPTIONS":
            return Response(status_code=204, headers={"allow": allow})
        return await handlers["GET" if request.method == "HEAD" else request.method](request)

    return Route(path, dispatch, methods=methods)
