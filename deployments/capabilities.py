"""What a replica's vLLM serves: read from the state of its HTTP app and from its classes of requests."""

from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from app.capabilities import Capabilities

HANDLERS = {
    "/v1/chat/completions": "openai_serving_chat",
    "/v1/completions": "openai_serving_completion",
    "/v1/embeddings": "serving_embedding",
    "/v1/responses": "openai_serving_responses",
}
"""Where vLLM keeps the handler of an endpoint; there is none where the model lacks the endpoint."""


def capabilities_of(state: Any) -> Capabilities:
    """`state`: of vLLM's HTTP app."""
    requests = request_types()
    served = [endpoint for endpoint, handler in HANDLERS.items() if getattr(state, handler, None) is not None]
    return Capabilities({endpoint: members(requests[endpoint]) for endpoint in served})


def request_types() -> dict[str, Any]:
    """vLLM's type of request by endpoint: a class, or a union of classes of which the body chooses one."""
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.entrypoints.openai.completion.protocol import CompletionRequest
    from vllm.entrypoints.openai.responses.protocol import ResponsesRequest
    from vllm.entrypoints.pooling.embed.protocol import EmbeddingRequest

    return {
        "/v1/chat/completions": ChatCompletionRequest,
        "/v1/completions": CompletionRequest,
        "/v1/embeddings": EmbeddingRequest,
        "/v1/responses": ResponsesRequest,
    }


def members(request: Any) -> frozenset[str]:
    """The names that a body may have, aliases among them."""
    if get_origin(request) is Annotated:
        return members(get_args(request)[0])
    if get_origin(request) in (Union, UnionType):
        return frozenset().union(*(members(each) for each in get_args(request)))
    fields = request.model_fields
    aliases = {name for field in fields.values() for name in (field.alias, field.validation_alias)}
    return frozenset(fields) | {name for name in aliases if isinstance(name, str)}
