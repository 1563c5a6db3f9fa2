"""Asking a server on this machine: by no proxy that the environment names, which would answer in its place."""

import json
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError
from urllib.request import ProxyHandler, build_opener

DIRECT = build_opener(ProxyHandler({}))

ANSWER_SECONDS = 5.0


def http_status(url: str) -> int | None:
    """None when nobody answers within 5 s."""
    answer = _answer(url)
    return answer[0] if answer else None


def http_json(url: str) -> dict[str, Any] | None:
    """The object that is answered, with whichever status; None when there is none within 5 s."""
    answer = _answer(url)
    try:
        found = json.loads(answer[1]) if answer else None
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _answer(url: str) -> tuple[int, bytes] | None:
    try:
        with DIRECT.open(url, timeout=ANSWER_SECONDS) as answer:
            return int(answer.status), answer.read()
    except HTTPError as error:
        with error:
            return error.code, error.read()
    except (OSError, HTTPException):
        return None
