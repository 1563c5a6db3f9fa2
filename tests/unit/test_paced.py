"""How Serve's router calls a replica of ours: the options that its actor is called with."""

import pickle
from typing import Any

import pytest
from ray.serve._private.common import RequestMetadata
from ray.serve.request_router import PendingRequest

from deployments.replicas.board import TrackingRouter


class Method:
    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []

    def options(self, **options: Any) -> "Method":
        self.calls.append(options)
        return self

    def remote(self, metadata: bytes) -> str:
        assert pickle.loads(metadata).call_method == "watch"
        return "a reference"


class Actor:
    def __init__(self) -> None:
        self.handle_request = Method()
        self.handle_request_streaming = Method()
        self.handle_request_with_rejection = Method()


class Info:
    """Of a replica, as Serve's controller sends it to the routers."""

    multiplexed_model_ids = ()
    is_cross_language = False

    def __init__(self, actor: Actor) -> None:
        self.get_actor_handle = lambda: actor


@pytest.mark.parametrize("with_rejection", [True, False], ids=["asks for a slot", "has a slot"])
async def test_a_replica_sends_an_item_of_a_stream_when_the_one_before_was_taken(
    monkeypatch: pytest.MonkeyPatch, with_rejection: bool
) -> None:
    module = "ray.serve._private.request_router.replica_wrapper"
    monkeypatch.setattr(f"{module}.ActorReplicaResult", lambda reference, metadata, with_rejection=False: reference)
    actor = Actor()
    replica = TrackingRouter.create_replica_wrapper(object(), Info(actor))
    replica._grpc_replica_wrapper = object()  # it would connect
    metadata = RequestMetadata(request_id="", internal_request_id="", call_method="watch", is_streaming=True)
    request = PendingRequest(args=[], kwargs={}, metadata=metadata)
    assert replica.try_send_request(request, with_rejection=with_rejection) == "a reference"
    called = actor.handle_request_with_rejection if with_rejection else actor.handle_request_streaming
    assert called.calls == [{"num_returns": "streaming", "_generator_backpressure_num_objects": 1}]
