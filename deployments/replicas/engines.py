"""The engine replicas as the dispatcher uses them: lines to one of them, answers back."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from uuid import uuid4

from ray.serve.handle import DeploymentHandle

from app.batch.dispatch import Answer, TimedOut
from app.batch.suspects import Beside
from app.errors import EngineLost, ReplicaGone
from deployments.replicas.losses import Losses
from deployments.replicas.watch import ReplicaWatch, cause_of, one_line


class RayEngines:
    """The engine replicas as the dispatcher uses them."""

    def __init__(self, watch: ReplicaWatch, handles: Mapping[str, DeploymentHandle], losses: Losses) -> None:
        self._watch = watch
        self._handles = handles
        self._losses = losses

    def replicas(self, model: str) -> dict[str, int]:
        return self._watch.replicas(model)

    async def answers(
        self, model: str, replica: str, endpoint: str, bodies: Sequence[bytes], *, beside: Beside
    ) -> AsyncIterator[list[Answer | TimedOut]]:
        node = self._watch.node(model, replica)
        handle, call = self._handles[model], uuid4().hex
        stream = handle.options(stream=True).answer_lines.remote(endpoint, bodies, beside, call, replica=replica)
        sent = False
        try:
            async for some in stream:
                if not sent:  # they may enter, and do so at `begin`: from then on a death is theirs
                    sent = True
                    await handle.begin.remote(call, replica=replica)
                yield some
        except (asyncio.CancelledError, GeneratorExit):
            stream.cancel()
            raise
        except Exception as error:
            self._watch.suspend(model, replica)
            if isinstance(cause_of(error), ReplicaGone):
                raise ReplicaGone(one_line(error)) from error
            if not sent:
                raise ReplicaGone(f"lost before the lines were in its engine: {one_line(error)}") from error
            if explanation := await self._losses.explanation(model, replica, node, error):
                raise ReplicaGone(f"{explanation}: {one_line(error)}") from error
            raise EngineLost(one_line(error)) from error
