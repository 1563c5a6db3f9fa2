"""The x-request-id of an exchange: in its answer, in logs, and in what the engine gets."""

import re
from secrets import token_hex

from starlette.datastructures import Headers

NAME = "x-request-id"

_SANE_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


def request_id_of(headers: Headers) -> str:
    """The client's own id where it is harmless in logs and headers, else a new one."""
    given = headers.get(NAME, "")
    return given if _SANE_ID.fullmatch(given) else f"req_{token_hex(16)}"
