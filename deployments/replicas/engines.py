"""The engine replicas as the dispatcher uses them: lines to one of them, answers back."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence

from ray.serve.handle import DeploymentHandle

from app.batch.dispatch import Answer
from app.errors import EngineLost, ReplicaGone
from deployments.replicas.watch import ReplicaWatch, one_line


class RayEngines:
    """The engine replicas as the dispatcher uses them."""

    def __init__(self, watch: ReplicaWatch, handles: Mapping[str, DeploymentHandle]) -> None:
        self._watch = watch
        self._handles = handles

    def replicas(self, model: str) -> dict[str, int]:
        return self._watch.replicas(model)

    async def answers(
        self, model: str, replica: str, endpoint: str, bodies: Sequence[bytes], *, alone: bool
    ) -> AsyncIterator[list[Answer]]:
        stream = self._handles[model].options(stream=True).answer_lines.remote(endpoint, bodies, alone, replica=replica)
        entered = False
        try:
            async for some in stream:
                entered = True
                yield some
        except (asyncio.CancelledError, GeneratorExit):
            stream.cancel()
            raise
        except Exception as error:
            self._watch.suspend(model, replica)
            lost = EngineLost if entered else ReplicaGone
            raise lost(one_line(error)) from error
