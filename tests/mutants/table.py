"""What is broken on purpose, and which tests must notice. `python -m tests.mutants` runs them.

A mutant is one exact replacement in one file. tests/unit/test_mutants.py says when a file has changed under one.
"""

from tests.mutants.doors import DOORS
from tests.mutants.mutant import Mutant

FENCES = (
    Mutant(
        "a late owner's results count",
        "app/store/shards.py",
        " and_(shards.c.batch_id == claim.batch_id, shards.c.index == claim.index, shards.c.epoch == claim.epoch)",
        " and_(shards.c.batch_id == claim.batch_id, shards.c.index == claim.index)",
        "tests/store/test_shards.py",
    ),
    Mutant(
        "a claim does not bump the epoch of its shard",
        "app/store/shards.py",
        "                epoch=shards.c.epoch + 1,\n",
        "                epoch=shards.c.epoch,\n",
        "tests/store/test_shards.py",
    ),
    Mutant(
        "a late finaliser or validator acts",
        "app/store/batches.py",
        "batches.c.id == claim.batch.id, batches.c.epoch == claim.epoch, batches.c.status.not_in(FINAL_STATES)",
        "batches.c.id == claim.batch.id, batches.c.status.not_in(FINAL_STATES)",
        "tests/store/test_finalising.py tests/store/test_batches.py",
    ),
    Mutant(
        "a batch that is finalised stays open to late results",
        "app/store/batches.py",
        '.values(state="closed", epoch=shards.c.epoch + 1, ',
        ".values(",
        "tests/store/test_shards.py",
    ),
    Mutant(
        "a record whose answer got lost counts its lines twice",
        "app/store/shards.py",
        " - self._done_positions(connection, [shard]).get(shard, frozenset())",
        "",
        "tests/store/test_shards.py",
    ),
    Mutant(
        "a renewal names claims that others hold now",
        "app/store/shards.py",
        "            tuple_(shards.c.batch_id, shards.c.index, shards.c.epoch).in_(list(keys)), shards.c.state",
        "            tuple_(shards.c.batch_id, shards.c.index).in_([key[:2] for key in keys]), shards.c.state",
        "tests/store/test_shards.py",
    ),
    Mutant(
        "shards of a dead owner are never taken",
        "app/store/shards.py",
        'shards.c.state == "pending", and_(shards.c.state == "running", shards.c.lease_until < database_now())',
        'shards.c.state == "pending"',
        "tests/store/test_shards.py",
    ),
    Mutant(
        "a shard under a live lease is taken by another",
        "app/store/shards.py",
        'and_(shards.c.state == "running", shards.c.lease_until < database_now())',
        'shards.c.state == "running"',
        "tests/store/test_shards.py",
    ),
    Mutant(
        "a dispatcher gets its own running shards again",
        "app/store/shards.py",
        "                tuple_(shards.c.batch_id, shards.c.index, shards.c.epoch).not_in(list(running)),\n",
        "",
        "tests/store/test_suspects.py",
    ),
    Mutant(
        "lines of a batch that does not run start",
        "app/store/shards.py",
        '                batches.c.status == "in_progress",\n                batches.c.ending.is_(None),\n',
        "",
        "tests/store/test_batches.py",
    ),
)

RESULTS = (
    Mutant(
        "a new owner runs lines again that are durable",
        "app/batch/dispatch.py",
        " if position not in claim.done]",
        "]",
        "tests/unit/test_flow.py",
    ),
    Mutant(
        "lines in flight at an engine that dies are dropped",
        "app/batch/dispatch.py",
        "            died = not isinstance(error, ReplicaGone)\n",
        "            self._recorder.complete(claim)\n            died = False\n",
        "tests/unit/test_flow.py",
    ),
    Mutant(
        "the output file is in the order of the answers",
        "app/batch/results.py",
        "for position in sorted(lines)]",
        "for position in lines]",
        "tests/unit/test_flow.py",
    ),
    Mutant(
        "failed lines stand in the output file",
        "app/batch/results.py",
        'output.write(b"".join(each.line for each in ordered if not each.failed))',
        'output.write(b"".join(each.line for each in ordered))',
        "tests/unit/test_flow.py",
    ),
    Mutant(
        "lines without an answer are left out of the error file",
        "app/batch/results.py",
        "return {**shard.results, **_missing_lines(batch, shard, data)}",
        "return {**shard.results}",
        "tests/unit/test_flow.py",
    ),
    Mutant(
        "results that come while an object is written are lost",
        "app/batch/recorder.py",
        "        del pending.results[: len(draft.lines)]\n",
        "        pending.results.clear()\n",
        "tests/unit/test_faults.py",
    ),
    Mutant(
        "rows come before their object",
        "app/batch/recorder.py",
        "        if data:\n            await self._objects.put(key, bytes(data))\n",
        "        if data:\n            asyncio.get_running_loop().create_task(self._objects.put(key, bytes(data)))\n",
        "tests/unit/test_flow_storage.py tests/unit/test_faults.py",
    ),
    Mutant(
        "lines start although results cannot be written",
        "app/batch/dispatch.py",
        "        if self._recorder.stuck:\n",
        "        if False:\n",
        "tests/unit/test_faults.py",
    ),
)

DAMAGE = (
    Mutant(
        "an object that rows name is garbage",
        "app/store/garbage.py",
        "sorted(set(keys) - named)",
        "sorted(set(keys))",
        "tests/store/test_garbage.py",
    ),
    Mutant(
        "a changed byte in a result goes unnoticed",
        "app/batch/results.py",
        " or segment.digest not in (None, digest_of(data))",
        "",
        "tests/unit/test_damage.py",
    ),
    Mutant(
        "a late finaliser makes lines run again",
        "app/store/repairs.py",
        "update(batches).where(self._held(claim), batches.c.status",
        "update(batches).where(batches.c.id == claim.batch.id, batches.c.status",
        "tests/store/test_repairs.py",
    ),
)

GATE = (
    Mutant(
        "a batch that waits for its engine uses up its tries",
        "app/batch/lifecycle.py",
        "UNHEARD_SECONDS, fault=False)",
        "UNHEARD_SECONDS, fault=True)",
        "tests/unit/test_faults.py",
    ),
    Mutant(
        "a batch is taken without a healthy replica",
        "app/api/gate.py",
        "if model.healthy == 0:",
        "if False:",
        "tests/unit/test_api_gate.py",
    ),
    Mutant(
        "a model without a healthy replica is not unhealthy",
        "app/health.py",
        "if self.healthy == 0:",
        "if self.healthy < 0:",
        "tests/unit/test_api_health.py",
    ),
    Mutant(
        "a replica whose heartbeat stream broke still counts",
        "deployments/replicas/watch.py",
        "if model.alive.pop(name, None) is not None:",
        "if name in model.alive:",
        "tests/unit/test_replicas.py",
    ),
    Mutant(
        "a replica that is silent still counts",
        "deployments/replicas/watch.py",
        " and replica.last_beat >= since",
        "",
        "tests/unit/test_replicas.py",
    ),
    Mutant(
        "a replica that lost lines gets more at once",
        "deployments/replicas/watch.py",
        "            found.suspended = True\n",
        "            pass\n",
        "tests/unit/test_replicas.py",
    ),
    Mutant(
        "a reader that is stopped stops all calls of a replica",
        "deployments/replicas/paced.py",
        ", _generator_backpressure_num_objects=ITEMS_AHEAD)",
        ")",
        "tests/unit/test_paced.py",
    ),
    Mutant(
        "lines start before their dispatcher knows that they are in",
        "deployments/engine.py",
        "                    await begun.wait()\n",
        "                    pass\n",
        "tests/unit/test_engine.py",
    ),
    Mutant(
        "lines that kill as they enter are blamed for nothing",
        "deployments/replicas/engines.py",
        "                    sent = True\n",
        "                    sent = bool(some)\n",
        "tests/unit/test_replicas.py",
    ),
    Mutant(
        "time in which nothing could be received is silence of the core",
        "deployments/pulse.py",
        "        if not receiving or since > LONG_LOOK_SECONDS:",
        "        if since > LONG_LOOK_SECONDS:",
        "tests/unit/test_pulse.py",
    ),
    Mutant(
        "a front end may be stuck for ever",
        "deployments/guard/guard.py",
        "        if self._stuck <= limit:\n",
        "        if self._stuck >= 0:\n",
        "tests/unit/test_guard.py",
    ),
    Mutant(
        "an engine that has not grown is ended for the memory that another took",
        "deployments/guard/guard.py",
        " < SCARCE_GROWTH:",
        " < 0:",
        "tests/unit/test_guard.py",
    ),
    Mutant(
        "a core that neither answers nor works counts as alive",
        "deployments/pulse.py",
        "        if works and now - self._answered < self._step_seconds:\n",
        "        if now - self._answered < self._step_seconds:\n",
        "tests/unit/test_pulse.py",
    ),
)

BRAKES = (
    Mutant(
        "a spent budget lets a model start",
        "app/store/starts.py",
        "        if used >= budget:\n            return StartAnswer(LONGEST",
        "        if used > budget:\n            return StartAnswer(LONGEST",
        "tests/store/test_starts.py",
    ),
    Mutant(
        "starts do not wait longer each time",
        "app/store/starts.py",
        "2.0 ** (used - 1)",
        "1.0",
        "tests/store/test_starts.py",
    ),
    Mutant(
        "a reset lifts nothing",
        "app/store/starts.py",
        ", starts.c.seq > reset.scalar_subquery()",
        "",
        "tests/store/test_starts.py",
    ),
    Mutant(
        "a death with a culprit is taken off nothing",
        "app/store/starts.py",
        "len(unplanned) - int(excused or 0)",
        "len(unplanned)",
        "tests/store/test_suspects.py tests/store/test_starts.py",
    ),
)

SUSPECTS = (
    Mutant(
        "a line is condemned at its first death by itself",
        "app/batch/suspects.py",
        "DEATHS_ALONE = 2",
        "DEATHS_ALONE = 1",
        "tests/unit/test_suspects.py",
    ),
    Mutant(
        "the groups of suspects shrink too slowly",
        "app/batch/suspects.py",
        "PARTS = 16",
        "PARTS = 2",
        "tests/unit/test_suspects.py",
    ),
    Mutant(
        "a slow line is condemned for the slowness of others",
        "app/batch/suspects.py",
        "found.append(Group([position], Beside.ONLINE if",
        "found.append(Group([position], Beside.ANYTHING if",
        "tests/unit/test_suspects.py tests/unit/test_flow.py",
    ),
    Mutant(
        "suspects share the engine with other lines",
        "deployments/occupancy.py",
        "self.beside is Beside.ANYTHING or (",
        "self.beside is not Beside.ONLINE or (",
        "tests/unit/test_occupancy.py",
    ),
    Mutant(
        "a batch that was put off runs on",
        "app/store/shards.py",
        "                or_(batches.c.lease_until.is_(None), batches.c.lease_until < database_now()),\n",
        "",
        "tests/store/test_repairs.py",
    ),
    Mutant(
        "a fault of one batch's shard ends the loops of all",
        "app/batch/dispatch.py",
        "            await self._put_off(claim)\n",
        "            raise\n",
        "tests/unit/test_damage.py",
    ),
    Mutant(
        "a batch that has spent its allowance goes on",
        "app/store/shards.py",
        "                batches.c.paused_at.is_(None),\n",
        "",
        "tests/store/test_suspects.py",
    ),
)

LIMITS = (
    Mutant(
        "what is over a limit passes",
        "app/limits/refusal.py",
        "    if asked > limit:\n",
        "    if asked > 2 * limit:\n",
        "tests/unit/test_limits.py",
    ),
    Mutant(
        "a wrong item of a request reaches vLLM",
        "app/limits/items.py",
        "        if not any(isinstance(item.get(each), str) for each in named):\n",
        "        if False:\n",
        "tests/unit/test_limits.py",
    ),
    Mutant(
        "an engine's error is as long as it likes",
        "deployments/answers.py",
        "    if len(content) <= ERROR_BYTES:\n        return content\n",
        "    if content:\n        return content\n",
        "tests/unit/test_answers.py",
    ),
)

MUTANTS = (*FENCES, *RESULTS, *DAMAGE, *GATE, *BRAKES, *SUSPECTS, *DOORS, *LIMITS)
