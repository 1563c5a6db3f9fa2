"""A shard while its lines run: what is left of it, and what becomes of each line."""

import asyncio
from dataclasses import dataclass, field

from app.batch.lines import Line, LineError
from app.batch.output import answered_line, unanswered_line
from app.batch.recorder import Result
from app.batch.suspects import Group
from app.store import ShardClaim, Usage

CONDEMNED = {
    "engine_lost": "The engine died twice with nothing but this request in it.",
    "request_timeout": "This request took longer than the model's line_seconds, without other lines in the engine too.",
}
"""Why a line has no answer, by the code of its error."""


@dataclass
class RunningShard:
    """A shard that runs here."""

    claim: ShardClaim
    replica: str
    todo: set[int]
    """Positions without an answer."""
    slow: set[int]
    """Positions that took too long once."""
    group: Group = field(default_factory=lambda: Group(()))
    """What was sent last, without what was aborted since."""
    apart_since: float | None = None
    """Since when groups of it have kept other lines out of the replica; monotonic seconds."""
    requests: dict[int, Line] = field(default_factory=dict)
    task: asyncio.Task[None] | None = None

    @property
    def suspect(self) -> bool:
        return bool(self.claim.suspects or self.claim.slow)

    @property
    def in_engine(self) -> set[int]:
        """What was sent and neither answered nor aborted."""
        return self.todo.intersection(self.group.positions)

    def deaths(self) -> dict[int, int]:
        """Of what is to do, each with the number of deaths that it was in."""
        return {position: self.claim.suspects.get(position, 0) for position in self.todo}

    def suspects(self) -> dict[int, int]:
        return {position: number for position, number in self.deaths().items() if number}

    def stop(self) -> None:
        if self.task is not None:
            self.task.cancel()

    def answered(self, position: int, status: int, body: bytes, usage: Usage) -> Result:
        """Of vLLM's answer: HTTP status and JSON body."""
        claim, custom_id = self.claim, self.requests[position].custom_id
        line = answered_line(claim.batch_id, claim.first_line + position, custom_id, status, body)
        return Result(position, line, failed=status >= 400, usage=usage)

    def unanswered(self, position: int, code: str) -> Result:
        """`code`: one of CONDEMNED."""
        return self._without_answer(position, self.requests[position].custom_id, code, CONDEMNED[code])

    def changed(self, position: int, error: LineError) -> Result:
        """The line is not what it was when it was validated: not even its custom_id is sure."""
        return self._without_answer(position, "", error.code, error.message)

    def _without_answer(self, position: int, custom_id: str, code: str, message: str) -> Result:
        claim = self.claim
        line = unanswered_line(claim.batch_id, claim.first_line + position, custom_id, code, message)
        return Result(position, line, failed=True)
