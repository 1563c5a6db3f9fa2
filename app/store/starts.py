"""The ledger's memory of starts: the brakes on whatever is started again because it died.

A subject is what is started: a model, or "cluster" for the local Ray cluster. Rows are only ever added, so what counts
is what is younger than an hour and than the last reset. Times are seconds since 1970 by the database's clock.
"""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, delete, func, insert, select, update

from app.store.database import Database, reading, writing
from app.store.tables import database_now, starts

HOUR = 3600.0

LONGEST_PAUSE_SECONDS = 60.0


@dataclass(frozen=True)
class StartAnswer:
    """Whether a start may go on. `wait_seconds` 0: yes, and it is noted; else ask again after that time or before.

    `refills_at`: the budget is spent until then.
    """

    wait_seconds: float
    refills_at: float | None = None


@dataclass(frozen=True)
class Restarts:
    """What is known of a subject. Ages are in seconds, as of the answer.

    `last_hour`: its unplanned starts within the last hour; `counted`: those of them that draw on the budget, hence none
    from before a reset and none that a line was to blame for. `refills_at`: the budget is spent until then.

    The rest is about the starts of one deploy: why the one that failed last did, or ended, and how long ago that was;
    how long ago the newest of all began; and whether there were none but the planned ones.
    """

    last_hour: int = 0
    counted: int = 0
    refills_at: float | None = None
    failure: str | None = None
    failure_age: float | None = None
    newest_start_age: float | None = None
    all_planned: bool = True


class StartVerbs(Database):
    @writing
    def ask_to_start(
        self, connection: Connection, subject: str, starter: str, *, deploy: str, planned: int, budget: int
    ) -> StartAnswer:
        """May `starter` start now? It may ask again: it is counted once.

        Of each deploy the first `planned` starts are planned: they never wait and never count. Of the others at most
        `budget` start within an hour, and each waits, from the last one on, 1 s doubling to 60 s.
        """
        mine = starts.c.subject == subject
        if connection.scalar(select(starts.c.seq).where(mine, starts.c.starter == starter)) is not None:
            return StartAnswer(0)
        of_deploy = select(func.count()).where(mine, starts.c.deploy == deploy, starts.c.kind == "planned")
        if int(connection.scalar(of_deploy) or 0) < planned:
            self._note(connection, subject, "planned", starter, deploy)
            return StartAnswer(0)
        now, unplanned, used = self._last_hour(connection, subject)
        if used >= budget:
            return StartAnswer(LONGEST_PAUSE_SECONDS, _refills_at(now, unplanned, used, budget))
        wait = unplanned[-1].at + _pause(used) - now if unplanned else 0.0
        # The wall clock may have been set back since: nothing waits longer than the longest pause.
        if 0 < wait <= LONGEST_PAUSE_SECONDS:
            return StartAnswer(wait)
        self._note(connection, subject, "unplanned", starter, deploy)
        return StartAnswer(0)

    @writing
    def note_failure(self, connection: Connection, starter: str, reason: str) -> None:
        """Why its start failed, or why it ended later."""
        failed = {"failure": reason, "failed_at": database_now()}
        connection.execute(update(starts).where(starts.c.starter == starter).values(failed))

    @writing
    def reset_restarts(self, connection: Connection, subject: str) -> bool:
        """Whatever was counted counts no longer: a person has looked. False: nothing counted, so nothing was done."""
        _, _, used = self._last_hour(connection, subject)
        if used:
            self._note(connection, subject, "reset")
        return used > 0

    @reading
    def restarts(self, connection: Connection, subject: str, budget: int, deploy: str | None = None) -> Restarts:
        """`deploy`: the one whose starts are told of; None: whichever they are of."""
        now, unplanned, used = self._last_hour(connection, subject)
        in_hour = (starts.c.subject == subject, starts.c.kind == "unplanned", starts.c.at > now - HOUR)
        of_deploy = [starts.c.subject == subject, starts.c.starter.is_not(None)]
        if deploy is not None:
            of_deploy.append(starts.c.deploy == deploy)
        newest = self._newest(connection, *of_deploy)
        failed = self._failed_last(connection, *of_deploy)
        return Restarts(
            last_hour=int(connection.scalar(select(func.count()).where(*in_hour)) or 0),
            counted=used,
            refills_at=_refills_at(now, unplanned, used, budget) if used >= budget else None,
            failure=failed.failure if failed else None,
            failure_age=now - failed.failed_at if failed else None,
            newest_start_age=now - newest.at if newest else None,
            all_planned=self._newest(connection, *of_deploy, starts.c.kind != "planned") is None,
        )

    def _newest(self, connection: Connection, *conditions: ColumnElement[bool]) -> Row[Any, Any] | None:
        newest = select(starts.c.at).where(*conditions).order_by(starts.c.seq.desc()).limit(1)
        return connection.execute(newest).first()

    def _failed_last(self, connection: Connection, *conditions: ColumnElement[bool]) -> Row[Any, Any] | None:
        failed = select(starts.c.failed_at, starts.c.failure).where(*conditions, starts.c.failed_at.is_not(None))
        return connection.execute(failed.order_by(starts.c.failed_at.desc()).limit(1)).first()

    @writing
    def forget_starts(self, connection: Connection, age_seconds: float) -> None:
        """Not the planned ones: a deploy that forgot them would have as many more."""
        old = starts.c.at < database_now() - age_seconds
        connection.execute(delete(starts).where(old, starts.c.kind != "planned"))

    def _note(
        self, connection: Connection, subject: str, kind: str, starter: str | None = None, deploy: str | None = None
    ) -> None:
        row = {"subject": subject, "kind": kind, "starter": starter, "deploy": deploy}
        connection.execute(insert(starts).values(**row, at=database_now()))

    def _last_hour(self, connection: Connection, subject: str) -> tuple[float, list[Row[tuple[float]]], int]:
        """The time, the unplanned starts since the later of an hour ago and the last reset, and how many count."""
        now = float(connection.scalar(select(database_now())) or 0)
        mine = starts.c.subject == subject
        reset = select(func.coalesce(func.max(starts.c.seq), 0)).where(mine, starts.c.kind == "reset")
        recent = (mine, starts.c.at > now - HOUR, starts.c.seq > reset.scalar_subquery())
        unplanned = list(
            connection.execute(select(starts.c.at).where(*recent, starts.c.kind == "unplanned").order_by(starts.c.seq))
        )
        excused = connection.scalar(select(func.count()).where(*recent, starts.c.kind == "excused"))
        return now, unplanned, max(0, len(unplanned) - int(excused or 0))


def _pause(used: int) -> float:
    """After the last of `used` starts that count: none after an excused one, then 1, 2, 4, ... 60 s."""
    return min(LONGEST_PAUSE_SECONDS, 2.0 ** (used - 1)) if used else 0.0


def _refills_at(now: float, unplanned: list[Row[tuple[float]]], used: int, budget: int) -> float:
    """When so many of the unplanned starts are older than an hour that one more may go."""
    if budget < 1 or used > len(unplanned):
        return now + HOUR
    return float(unplanned[used - budget].at) + HOUR
