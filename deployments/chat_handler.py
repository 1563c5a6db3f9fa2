"""The short way into vLLM for the endpoint of most batches."""

import asyncio
import json
from typing import Any

from app.store import Usage
from deployments.answers import usage_of


class ChatHandler:
    """The short way for the endpoint of most batches: vLLM's chat handler, without HTTP round it.

    It answers only what goes well. Whatever does not is left to vLLM's HTTP app, so that errors are in its own words.
    """

    def __init__(self, state: Any) -> None:
        from pydantic import ValidationError
        from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest, ChatCompletionResponse
        from vllm.exceptions import VLLMError

        self._handler = getattr(state, "openai_serving_chat", None)
        self._request_class = ChatCompletionRequest
        self._response_class = ChatCompletionResponse
        self._refusals = (ValidationError, ValueError, TypeError, VLLMError)

    async def answer(self, body: bytes) -> tuple[int, bytes, Usage] | None:
        if self._handler is None:
            return None
        try:
            request = self._request_class.model_validate(json.loads(body))
            response = await self._handler.create_chat_completion(request)
        except self._refusals:
            return None
        if (task := asyncio.current_task()) is not None and task.cancelling():
            raise asyncio.CancelledError  # vLLM answers a cancelled request with an error response
        if not isinstance(response, self._response_class):
            return None
        return 200, response.model_dump_json().encode(), usage_of(response.usage.model_dump())
