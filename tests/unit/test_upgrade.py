"""What we use of Ray and vLLM below their public surfaces: each test names the file of ours that an upgrade broke."""

import inspect
import re
import warnings
from types import ModuleType

import pytest

from app.settings import ENDPOINTS


@pytest.fixture(scope="module", autouse=True)
def engine() -> ModuleType:
    """deployments.engine; its import is vLLM's, whose warnings are not ours to mend."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import deployments.engine

    return deployments.engine


def test_llm_server_starts_its_engine_where_engine_py_steps_in() -> None:
    from ray.serve.llm.deployment import LLMServer

    assert inspect.iscoroutinefunction(LLMServer._start_engine)
    assert "engine_cls" in inspect.signature(LLMServer.__init__).parameters
    assert inspect.iscoroutinefunction(LLMServer.__serve_build_asgi_app__)


def test_vllm_engine_takes_the_executor_where_lean_executor_py_sets_it() -> None:
    from ray.llm._internal.common.callbacks.base import CallbackCtx
    from ray.llm._internal.serve.engines.vllm.vllm_engine import VLLMEngine
    from vllm.config import ParallelConfig
    from vllm.v1.executor.uniproc_executor import UniProcExecutor

    names = list(inspect.signature(VLLMEngine._start_async_llm_engine).parameters)
    assert names == ["self", "vllm_engine_args", "vllm_engine_config", "placement_group"]
    assert ParallelConfig(distributed_executor_backend=UniProcExecutor).distributed_executor_backend is UniProcExecutor
    assert CallbackCtx(run_init_node=False).run_init_node is False


def test_vllms_engine_client_answers_what_engine_py_asks_it() -> None:
    from vllm.v1.engine.async_llm import AsyncLLM

    assert inspect.iscoroutinefunction(AsyncLLM.is_sleeping)
    assert isinstance(inspect.getattr_static(AsyncLLM, "errored"), property)
    assert isinstance(inspect.getattr_static(AsyncLLM, "dead_error"), property)
    # It reads a flag, so that the replica may ask from another event loop than the front end's.
    assert "await" not in inspect.getsource(AsyncLLM.check_health)


def test_serve_gives_up_only_by_the_two_counts_that_restarts_py_speaks_of() -> None:
    from ray.serve._private import deployment_state

    source = inspect.getsource(deployment_state.DeploymentState._failed_to_start_threshold.fget)
    assert "max_constructor_retry_count" in source and "MAX_PER_REPLICA_RETRY_COUNT" in source


def test_vllms_core_logs_where_core_errors_py_listens() -> None:
    import vllm.envs
    from vllm.logger import DEFAULT_LOGGING_CONFIG
    from vllm.v1.engine import core, utils

    from deployments.core_errors import VARIABLE

    assert VARIABLE in vllm.envs.environment_variables
    assert DEFAULT_LOGGING_CONFIG["loggers"]["vllm"]["handlers"] == ["vllm"]
    assert 'logger.exception("EngineCore failed to start.")' in inspect.getsource(core)
    assert "Failed core proc(s): " in inspect.getsource(utils)


def test_vllms_chat_handler_takes_a_request_without_http() -> None:
    from vllm.entrypoints.openai.chat_completion.serving import OpenAIServingChat

    parameters = inspect.signature(OpenAIServingChat.create_chat_completion).parameters
    assert parameters["raw_request"].default is None


def test_serves_router_has_what_replicas_py_reads() -> None:
    from ray.serve._private.request_router.request_router import RequestRouter
    from ray.serve.request_router import RunningReplica

    assert "self._deployment_id" in inspect.getsource(RequestRouter.__init__)
    assert isinstance(inspect.getattr_static(RequestRouter, "curr_replicas"), property)
    assert isinstance(inspect.getattr_static(RunningReplica, "node_id"), property)
    for hook in ("update_replicas", "on_replica_actor_died", "choose_replicas"):
        assert callable(getattr(RequestRouter, hook))


def test_serves_replica_wrapper_has_the_seams_that_paced_py_steps_into() -> None:
    from ray._common.ray_option_utils import task_options
    from ray.serve._private.request_router import replica_wrapper
    from ray.serve._private.request_router.request_router import RequestRouter

    assert list(inspect.signature(RequestRouter.create_replica_wrapper).parameters) == ["self", "replica_info"]
    made = inspect.getsource(replica_wrapper.RunningReplica.__init__)
    assert "self._actor_replica_wrapper = ActorReplicaWrapper(self._actor_handle)" in made
    called = inspect.getsource(replica_wrapper.ActorReplicaWrapper.send_request_python)
    methods = {"handle_request", "handle_request_streaming", "handle_request_with_rejection"}
    assert set(re.findall(r"self\._actor_handle\.(\w+)", called)) == methods
    assert called.count(".options(") == 2
    assert "_generator_backpressure_num_objects" in task_options


def test_serves_proxy_and_controller_read_the_variables_that_local_py_sets() -> None:
    from ray.serve._private import constants

    from deployments.local.server import ENVIRONMENT

    read = inspect.getsource(constants)
    for name in ENVIRONMENT:
        if name.startswith("RAY_SERVE_"):
            assert f'"{name}"' in read


def test_uvicorn_has_the_seams_that_http1_py_steps_into() -> None:
    from uvicorn.config import HTTP_PROTOCOLS, Config
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

    assert HTTP_PROTOCOLS["auto"] == "uvicorn.protocols.http.auto:AutoHTTPProtocol"
    assert "HTTP_PROTOCOLS.get(self.http, self.http)" in inspect.getsource(Config.load)
    for method, used in {
        "__init__": "self.parser.set_dangerous_leniencies(lenient_data_after_close=True)",
        "on_headers_complete": "if self.parser.should_upgrade() and self._should_upgrade():",
        "on_body": "(self.parser.should_upgrade() and self._should_upgrade())",
        "on_message_complete": "(self.parser.should_upgrade() and self._should_upgrade())",
        "handle_websocket_upgrade": "self.ws_protocol_class",
        "_start_asgi_task": "cycle.run_asgi(app)",
    }.items():
        assert used in inspect.getsource(getattr(HttpToolsProtocol, method)), f"deployments/http1.py: {method}"
    sending = inspect.getsource(RequestResponseCycle.send)
    assert "self.chunked_encoding is None" in sending and "self.expected_content_length -= num_bytes" in sending


def test_serves_proxy_lets_proxy_py_and_http1_py_choose_its_http() -> None:
    from ray.serve._private import http_util, proxy
    from ray.serve._private.constants import (
        SERVE_HTTP_REQUEST_DISCONNECT_DISABLED_HEADER,
        SERVE_HTTP_REQUEST_ID_HEADER,
        SERVE_HTTP_REQUEST_TIMEOUT_S_HEADER,
        SERVE_MULTIPLEXED_MODEL_ID,
        SERVE_SESSION_ID,
    )

    from app.api.request_ids import NAME
    from deployments.proxy import SERVES_OWN

    starting = inspect.getsource(http_util.start_asgi_http_server)
    assert "uvicorn.Config(" in starting and "http=" not in starting
    made = inspect.getsource(proxy)
    assert made.index("configure_http_middlewares(") < made.index("start_asgi_http_server(")
    assert SERVE_HTTP_REQUEST_ID_HEADER == NAME
    either_way = {
        name.replace(*each) for name in (SERVE_MULTIPLEXED_MODEL_ID, SERVE_SESSION_ID) for each in ("_-", "-_")
    }
    own = {SERVE_HTTP_REQUEST_TIMEOUT_S_HEADER, SERVE_HTTP_REQUEST_DISCONNECT_DISABLED_HEADER, *either_way}
    assert {name.decode() for name in SERVES_OWN} == own


def test_serve_passes_messages_of_ours_on_in_both_directions_as_windows_py_wants() -> None:
    from ray.serve._private import http_util, proxy, replica

    assert "await queue(msg)" in inspect.getsource(proxy.HTTPProxy.proxy_asgi_receive)
    assert "self.queue.put_nowait(message)" in inspect.getsource(http_util.ASGIReceiveProxy.fetch_until_disconnect)
    assert "result_queue.put_nowait" in inspect.getsource(replica.UserCallableWrapper.call_http_entrypoint)
    assert "yield asgi_message" in inspect.getsource(proxy.HTTPProxy.send_request_to_replica)


def test_serves_client_knows_the_host_that_http_address_py_asks_for() -> None:
    from ray.serve import context
    from ray.serve._private.client import ServeControllerClient
    from ray.serve.config import HTTPOptions

    assert "raise_if_no_controller_running" in inspect.signature(context._get_global_client).parameters
    assert isinstance(inspect.getattr_static(ServeControllerClient, "http_config"), property)
    assert "host" in HTTPOptions.model_fields


def test_vllms_app_keeps_its_handlers_where_capabilities_py_looks() -> None:
    from vllm.entrypoints.generate import api_router
    from vllm.entrypoints.pooling import factories

    from deployments.capabilities import HANDLERS

    source = inspect.getsource(api_router) + inspect.getsource(factories)
    assert HANDLERS.keys() == set(ENDPOINTS)
    for handler in HANDLERS.values():
        assert f"state.{handler} = " in source


def test_vllms_requests_are_as_members_py_says() -> None:
    """What we refuse vLLM does not know, and what we recommend in its place it does."""
    from app.members import INSTEAD
    from deployments.capabilities import members, request_types

    assert request_types().keys() == INSTEAD.keys() == set(ENDPOINTS)
    for endpoint, request in request_types().items():
        known = members(request)
        assert {"model", "user"} <= known
        assert not known & INSTEAD[endpoint].keys()
        for name, advice in INSTEAD[endpoint].items():
            wanted = re.findall(r"`(\w+)", advice)
            assert set(wanted) <= known, f"{endpoint}: {name}"


def test_vllms_class_of_a_request_ignores_what_it_does_not_know() -> None:
    """Or else we need not warn of it."""
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

    body = {"model": "m", "messages": [{"role": "user", "content": "x"}], "guided_json": {}, "foo": 1}
    assert ChatCompletionRequest.model_validate(body).structured_outputs is None


def test_vllm_says_that_a_tool_parser_is_missing_in_the_words_that_answers_py_knows() -> None:
    from vllm.renderers import online_renderer

    from deployments.answers import TOLD

    for words in TOLD:
        assert words in inspect.getsource(online_renderer)


def test_vllms_good_answers_have_the_object_that_answers_py_wants() -> None:
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionResponse
    from vllm.entrypoints.openai.completion.protocol import CompletionResponse
    from vllm.entrypoints.openai.responses.protocol import ResponsesResponse
    from vllm.entrypoints.pooling.embed.protocol import EmbeddingResponse

    from deployments.answers import KINDS

    answers = (ChatCompletionResponse, CompletionResponse, EmbeddingResponse, ResponsesResponse)
    assert list(KINDS.values()) == [answer.model_fields["object"].default for answer in answers]


def test_vllms_embeddings_in_bytes_are_those_that_validate_py_refuses() -> None:
    from typing import get_args

    from vllm.utils.serial_utils import EncodingFormat

    from app.batch.validate import BINARY_FORMATS

    assert set(get_args(EncodingFormat)) == {"float", "base64", *BINARY_FORMATS}


def test_vllms_arguments_are_where_engine_arguments_py_reads_them() -> None:
    import dataclasses

    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.entrypoints.launchers.cli_args import FrontendArgs

    from deployments.local.engine_arguments import argument_kinds

    taken = {field.name for each in (AsyncEngineArgs, FrontendArgs) for field in dataclasses.fields(each)}
    assert set(argument_kinds() or {}) == taken


def test_vllm_names_the_values_of_an_argument_where_engine_arguments_py_reads_them() -> None:
    from typing import get_args

    from vllm.config.cache import CacheDType
    from vllm.config.lora import MaxLoRARanks
    from vllm.config.model import ModelDType, RunnerOption

    from deployments.local.engine_arguments import argument_kinds

    kinds = argument_kinds() or {}
    named = {"dtype": ModelDType, "kv_cache_dtype": CacheDType, "max_lora_rank": MaxLoRARanks, "runner": RunnerOption}
    assert {name: kinds[name].choices for name in named} == {
        name: [str(value) for value in get_args(literal)] for name, literal in named.items()
    }


def test_serves_config_has_the_keys_that_config_file_py_knows() -> None:
    from ray.serve import schema

    from deployments.local.config_file import APPLICATION_KEYS, CONFIG_KEYS, HTTP_KEYS

    assert set(CONFIG_KEYS) == set(schema.ServeDeploySchema.model_fields)
    assert set(HTTP_KEYS) == set(schema.HTTPOptionsSchema.model_fields)
    assert set(APPLICATION_KEYS) == set(schema.ServeApplicationSchema.model_fields)


def test_vllm_stops_at_the_first_wrong_item_where_fail_fast_py_makes_it() -> None:
    """fail_fast.py: pydantic makes each schema of a list by the function that it replaces, before vLLM is imported."""
    from pydantic import TypeAdapter, ValidationError
    from pydantic_core import core_schema

    import deployments.fail_fast

    assert core_schema.list_schema is deployments.fail_fast._fail_fast_list_schema
    with pytest.raises(ValidationError) as wrong:
        TypeAdapter(list[list[int]]).validate_python([["x"] * 9] * 9)
    assert wrong.value.error_count() == 1


def test_vllm_words_its_refusals_where_short_refusals_py_steps_in() -> None:
    from vllm.entrypoints.serve.exception_handling import error_response, register
    from vllm.entrypoints.serve.exception_handling.handlers import validation

    for module in (error_response, validation):
        assert callable(module.sanitize_message)
    assert callable(register.validation_exception_handler)
    assert "validation_exception_handler" in inspect.getsource(register.init_exception_handler)
    assert "sanitize_message(message)" in inspect.getsource(error_response.create_error_response)


def test_ray_keeps_to_loopback_by_the_switch_that_server_py_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray._private import ray_constants, services

    from deployments.local.server import LOOPBACK

    assert LOOPBACK[ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR] == "0"
    monkeypatch.setattr(ray_constants, "ENABLE_RAY_CLUSTER", False)
    assert services.get_node_ip_address() == "127.0.0.1"


@pytest.mark.parametrize(("node", "heard_at"), [("127.0.0.1", {"::ffff:127.0.0.1"}), ("10.0.0.1", {"::"})])
async def test_serves_replicas_hear_each_other_where_replica_port_py_says(
    monkeypatch: pytest.MonkeyPatch, node: str, heard_at: set[str]
) -> None:
    import grpc.aio
    import psutil
    import ray
    from ray.serve._private import replica

    from deployments import replica_port

    assert 'add_port_to_grpc_server(self._server, "[::]:0")' in inspect.getsource(replica)
    monkeypatch.setattr(replica, "add_port_to_grpc_server", replica_port._add_port)
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: node)
    replica_port.keep_to_loopback()
    server = grpc.aio.server()
    port = replica.add_port_to_grpc_server(server, "[::]:0")
    await server.start()
    sockets = psutil.Process().net_connections("tcp")
    await server.stop(None)
    assert {each.laddr.ip for each in sockets if each.laddr.port == port} == heard_at


def test_ray_keeps_its_token_where_cluster_py_closes_it() -> None:
    from ray._private.authentication.authentication_token_setup import _get_default_token_path

    from deployments.local.cluster import RAYS_TOKEN

    assert _get_default_token_path() == RAYS_TOKEN.expanduser()


def test_vllm_fetches_media_by_the_connector_of_media_py_alone() -> None:
    import aiohttp
    import vllm.envs
    from vllm.connections import HTTPConnection
    from vllm.entrypoints import chat_utils
    from vllm.multimodal.media import MEDIA_CONNECTOR_REGISTRY, MediaConnector

    from deployments import media

    assert media.VARIABLE in vllm.envs.environment_variables
    assert MEDIA_CONNECTOR_REGISTRY.name2class[media.NAME] is media.GuardedConnector
    asking = inspect.getsource(chat_utils)
    assert asking.count("envs.VLLM_MEDIA_CONNECTOR,") == asking.count("MEDIA_CONNECTOR_REGISTRY.load(") == 2
    for argument in ("media_io_kwargs=", "allowed_media_domains="):
        assert asking.count(f"            {argument}self._tracker.") == 2
    assert list(inspect.signature(MediaConnector.__init__).parameters)[1:3] == ["media_io_kwargs", "connection"]
    assert "await self.get_async_client()" in inspect.getsource(HTTPConnection.get_async_response)
    assert "self.get_sync_client()" in inspect.getsource(HTTPConnection.get_response)
    assert {"socket_factory", "happy_eyeballs_delay"} <= set(inspect.signature(aiohttp.TCPConnector).parameters)
    fetching = inspect.getsource(aiohttp.ClientSession._request)
    assert fetching.index("redirects = 0") < fetching.index("build_client_middlewares(")


def test_vllm_takes_templates_from_requests_only_where_it_is_told_to() -> None:
    """docs/security.md promises that."""
    from vllm.entrypoints.launchers.cli_args import BaseFrontendArgs, FrontendArgs

    assert (
        next(
            each.trust_request_chat_template
            for each in (FrontendArgs, BaseFrontendArgs)
            if hasattr(each, "trust_request_chat_template")
        )
        is False
    )
