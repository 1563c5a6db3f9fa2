"""vLLM's refusals, kept short where it makes them: they repeat the request, once for each thing that may be wrong.

Its messages then go through regular expressions whose time grows with the square of their length. These private places
of vLLM are known to this file alone; tests/unit/test_upgrade.py says when an upgrade moved them.
"""

import reprlib
from typing import Any

LISTED_FAULTS = 20
"""Of one request. One wrong item of a response alone has over 200, one for each kind that it is not."""

MESSAGE_CHARACTERS = 4_096

CUT = "… (cut)"


def shorten_refusals() -> None:
    """To be called before vLLM builds its HTTP app."""
    from fastapi import Request
    from fastapi.exceptions import RequestValidationError
    from starlette.responses import JSONResponse
    from vllm.entrypoints.serve.exception_handling import error_response, register
    from vllm.entrypoints.serve.exception_handling.handlers import validation
    from vllm.entrypoints.serve.exception_handling.utils import sanitize_message

    def shortened(message: str) -> str:
        return str(sanitize_message(cut(message)))

    async def refused(request: Request, error: RequestValidationError) -> JSONResponse:
        faults = [short(fault) for fault in error.errors()[:LISTED_FAULTS]]
        answer: JSONResponse = await validation.validation_exception_handler(request, RequestValidationError(faults))
        return answer

    error_response.sanitize_message = validation.sanitize_message = shortened
    register.validation_exception_handler = refused


def cut(message: str) -> str:
    return message if len(message) <= MESSAGE_CHARACTERS else message[:MESSAGE_CHARACTERS] + CUT


def short(fault: Any) -> Any:
    """A fault as pydantic tells it, with the beginning of the input that it is about."""
    if not isinstance(fault, dict):
        return fault
    return {**fault, "msg": cut(str(fault.get("msg", ""))), "input": reprlib.repr(fault.get("input"))}
