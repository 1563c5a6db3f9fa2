"""Schemathesis with OpenAI's part of the description against the application, in one process: all operations, in all
of its four phases (examples, coverage, fuzzing, stateful), with all of its checks but two.

What is left out is positive_data_acceptance for requests that the description allows and the contract does not:
- an endpoint of OpenAI's enum that vLLM does not serve (/v1/moderations, ...): 400 invalid_value;
- members that the description does not name: 400 unknown_parameter, as OpenAI answers;
- an input_file_id longer than any id: 400.
And negative_data_rejection for a null `output_expires_after`, which OpenAI's clients send for None: as if absent.
Of the contract's other expected exceptions none is left: an unknown input file is a failed batch and not a 400, random
bytes are accepted as a batch file and found wrong when the batch is validated, and there is a key, so that
ignored_auth may stay.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis import Case
from schemathesis.checks import negative_data_rejection, positive_data_acceptance
from starlette.applications import Starlette
from starlette.types import Receive, Scope, Send

from app.api.app import build_app
from app.objects import Objects
from app.settings import ENDPOINTS, Settings
from app.store import Store
from tests.unit.fakes import Clock, FakeEngines, FakeHealth


class Served:
    """The application of this module's fixture: Schemathesis wants one already when tests are collected."""

    app: Starlette

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)


served = Served()
schema = schemathesis.openapi.from_dict(json.loads((Path(__file__).parents[1] / "openai_batch_api.json").read_bytes()))
schema.app = served


@schema.auth()
class Key:
    def get(self, case: Case, context: schemathesis.AuthContext) -> str:
        return "key"

    def set(self, case: Case, data: str, context: schemathesis.AuthContext) -> None:
        case.headers["Authorization"] = f"Bearer {data}"


FEW: dict[str, Any] = {
    "deadline": None,
    "derandomize": True,  # the same cases each time: a red run is a change of ours
    "database": None,
    "suppress_health_check": list(HealthCheck),
}


@pytest.fixture(scope="module", autouse=True)
def app_is_served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    data = tmp_path_factory.mktemp("contract")
    args = {"models": [{"id": "MODEL", "source": "x"}], "data": str(data), "api_keys": ["key"]}
    configured = Settings.load(args, environ={})
    store = Store.open(configured.database_url, Clock())
    health = FakeHealth({})
    health.set("MODEL", 1)
    served.app = build_app(configured, store, Objects(configured.objects_url), health, FakeEngines(), Clock())
    yield
    store.close()


MEMBERS = {"input_file_id", "endpoint", "completion_window", "metadata", "output_expires_after"}


def left_out(case: Case) -> list[Any]:
    body = case.body if isinstance(case.body, dict) and "endpoint" in case.body else {}
    expires_after = body.get("output_expires_after")
    refused = (
        body.get("endpoint", ENDPOINTS[0]) not in ENDPOINTS
        or len(str(body.get("input_file_id"))) > 64
        or not body.keys() <= MEMBERS
        or (isinstance(expires_after, dict) and not expires_after.keys() <= {"anchor", "seconds"})
    )
    if "output_expires_after" in body and expires_after is None:
        return [negative_data_rejection, positive_data_acceptance]
    return [positive_data_acceptance] if refused else []


@schema.parametrize()
@settings(max_examples=10, **FEW)
def test_each_operation_is_as_described(case: Case) -> None:
    case.call_and_validate(excluded_checks=left_out(case))


class Session(schema.as_state_machine()):  # type: ignore[misc]
    """Operations that follow each other by the description's links: an upload, its batch, the batch's cancel, ..."""

    def validate_response(self, response: Any, case: Case, **kwargs: Any) -> None:
        excluded = left_out(case)
        case.validate_response(response, excluded_checks=excluded, transport_kwargs=kwargs, recorder=self.recorder)


def test_operations_in_a_row_are_as_described() -> None:
    Session.run(settings=settings(max_examples=10, stateful_step_count=6, **FEW))
