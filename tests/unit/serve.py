"""Ray Serve, as far as it stands between a proxy's middlewares and a gateway: messages pass without a bound."""

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.windows import GatewayWindows


class Pipe(asyncio.Queue[Message]):
    """Messages on their way; `most`: the most bytes that ever were."""

    def __init__(self) -> None:
        super().__init__()
        self._bytes = self.most = 0

    def put_nowait(self, item: Message) -> None:
        self._bytes += len(item.get("body", b""))
        self.most = max(self.most, self._bytes)
        super().put_nowait(item)

    async def get(self) -> Message:
        item = await super().get()
        self._bytes -= len(item.get("body", b""))
        return item


class WithWindows:
    """What the proxy calls; `app` runs behind the gateway's end of the windows. One request at a time has the pipes."""

    def __init__(self, app: ASGIApp) -> None:
        self._gateway = GatewayWindows(app)
        self.up, self.down = Pipe(), Pipe()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        up, down = self.up, self.down = Pipe(), Pipe()
        working = asyncio.create_task(self._gateway(scope, up.get, down.put))
        passing = asyncio.create_task(_pass_on(receive, up))
        try:
            while not (working.done() and down.empty()):
                next_message = asyncio.create_task(down.get())
                await asyncio.wait([working, next_message], return_when=asyncio.FIRST_COMPLETED)
                if next_message.done():
                    await send(next_message.result())
                else:
                    next_message.cancel()
            await working
        finally:
            working.cancel()
            passing.cancel()


async def _pass_on(receive: Receive, pipe: Pipe) -> None:
    while True:
        pipe.put_nowait(await receive())
