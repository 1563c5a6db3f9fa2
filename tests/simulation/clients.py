"""Clients: each uploads a file, makes a batch of it, follows it to its end and reads what it got."""

import asyncio
import json
from random import Random
from typing import TYPE_CHECKING, Any

from tests.simulation.http import Response, ask
from tests.simulation.plan import ClientPlan, custom_id
from tests.simulation.trace import Violation

if TYPE_CHECKING:
    from tests.simulation.world import World

ENDPOINT = "/v1/chat/completions"
FINAL = ("completed", "failed", "expired", "cancelled")
BOUNDARY = "simulated"
RETRY_SECONDS = 2.0
JSON = {"content-type": "application/json"}

Json = dict[str, Any]


class Client:
    def __init__(self, world: "World", plan: ClientPlan, chance: Random) -> None:
        self._world = world
        self._plan = plan
        self._chance = chance
        self.name = f"client-{plan.number}"
        self.batch_id: str | None = None
        self.finished = False
        self._errands: list[asyncio.Task[None]] = []

    @property
    def cancels(self) -> bool:
        return self._plan.cancel_after is not None

    async def run(self) -> None:
        """Until its batch has ended and its results are read."""
        plan = self._plan
        await asyncio.sleep(plan.start)
        data = b"".join(line(self._plan, number) + b"\n" for number in range(len(plan.lines)))
        file = await self._insist("POST", "/v1/files", *_form(data, self._key("file")))
        self._world.inputs[file["id"]] = plan
        wanted = {"input_file_id": file["id"], "endpoint": ENDPOINT, "completion_window": "24h"}
        batch = await self._insist("POST", "/v1/batches", json.dumps(wanted).encode(), JSON | self._key("batch"))
        self.batch_id = batch["id"]
        if plan.cancel_after is not None:
            self._errands.append(asyncio.create_task(self._after(plan.cancel_after, "POST", f"{self._path}/cancel")))
        if plan.delete_after is not None:
            errand = self._after(plan.delete_after, "DELETE", f"/v1/files/{file['id']}")
            self._errands.append(asyncio.create_task(errand))
        batch = await self._follow()
        for kind in ("output", "error"):
            if (file_id := batch[f"{kind}_file_id"]) is not None:
                content = await self._content(f"/v1/files/{file_id}/content")
                self._world.seen.lines(batch["id"], content, f"its {kind} file")
        if plan.deletes_output and batch["output_file_id"]:
            await self._insist("DELETE", f"/v1/files/{batch['output_file_id']}", allowed=(404,))
        await asyncio.gather(*self._errands)
        self.finished = True
        self._world.trace.note(self.name, "is done:", batch["status"])

    @property
    def _path(self) -> str:
        return f"/v1/batches/{self.batch_id}"

    def _key(self, what: str) -> dict[str, str]:
        return {"idempotency-key": f"{self.name}-{what}"} if self._plan.keyed else {}

    async def _follow(self) -> Json:
        while True:
            batch = await self._insist("GET", self._path)
            self._world.seen.batch(batch)
            if batch["status"] in FINAL:
                return batch
            answer = await self._try("GET", f"{self._path}/results") if self._plan.reads_results else None
            if answer is not None and answer.status == 200:
                self._world.seen.lines(batch["id"], answer.body, "its results so far")
            await asyncio.sleep(1 + 4 * self._chance.random())

    async def _after(self, seconds: float, method: str, path: str) -> None:
        """Once, whatever comes of it: but it must be an answer, and be understood."""
        await asyncio.sleep(seconds)
        answer = await self._answered(method, path)
        if answer.status not in (200, 404, 409):
            raise Violation(f"{self.name} is told {answer.status} to {method} {path}: {answer.body!r}")

    async def _content(self, path: str) -> bytes:
        answer = await self._answered("GET", path)
        if answer.status != 200:
            raise Violation(f"{self.name} cannot read {path}: {answer.status} {answer.body!r}")
        return answer.body

    async def _insist(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        headers: dict[str, str] | None = None,
        allowed: tuple[int, ...] = (),
    ) -> Json:
        """Asks until it is done."""
        answer = await self._answered(method, path, body, headers)
        if answer.status != 200 and answer.status not in allowed:
            raise Violation(f"{self.name} is told {answer.status} to {method} {path}: {answer.body!r}")
        return answer.json()

    async def _answered(
        self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> Response:
        while True:
            answer = await self._try(method, path, body, headers)
            if answer is not None and answer.status < 500:
                return answer
            await asyncio.sleep(RETRY_SECONDS * (0.5 + self._chance.random()))

    async def _try(
        self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> Response | None:
        gateways = [each for each in self._world.gateways if not each.process.dead]
        if not gateways:
            return None
        gateway = self._chance.choice(gateways)
        try:
            return await ask(self._world, self.name, gateway, method, path, body, headers or {})
        except (ConnectionError, TimeoutError):
            return None


def line(plan: ClientPlan, number: int) -> bytes:
    if plan.lines[number] == "bad":
        return b'{"custom_id": "bad", "method": "GET"}'
    text = custom_id(plan, number)
    body = {"model": plan.model, "messages": [{"role": "user", "content": text}]}
    return json.dumps({"custom_id": text, "method": "POST", "url": ENDPOINT, "body": body}).encode()


def _form(data: bytes, headers: dict[str, str]) -> tuple[bytes, dict[str, str]]:
    part = 'Content-Disposition: form-data; name="{}"'
    body = (
        f"--{BOUNDARY}\r\n{part.format('purpose')}\r\n\r\nbatch\r\n"
        f'--{BOUNDARY}\r\n{part.format("file")}; filename="in.jsonl"\r\n\r\n'
    ).encode()
    body += data + f"\r\n--{BOUNDARY}--\r\n".encode()
    return body, {**headers, "content-type": f"multipart/form-data; boundary={BOUNDARY}"}
