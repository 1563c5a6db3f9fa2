"""What a request may ask for, checked before an engine sees it: online requests and lines of batches alike.

vLLM checks some of this itself, but late and at a cost that grows with the request: one of a few kilobytes could keep
an engine busy for a minute, or fill the machine's memory. What is checked here takes no longer than reading the body.
"""

from typing import Any

from app.limits import asked, items, schemas
from app.limits.text import check_text
from app.limits.tree import check_tree
from app.settings import RequestLimits

__all__ = ["check_request", "check_text"]


def check_request(endpoint: str, body: dict[str, Any], limits: RequestLimits) -> None:
    """Looks at a parsed body. Raises RequestRefused at the first thing that is over a limit or out of shape."""
    check_tree(body, limits)
    items.check(endpoint, body, limits)
    asked.check(endpoint, body, limits)
    schemas.check(endpoint, body, limits)
