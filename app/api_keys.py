"""API keys are kept as digests: what has been written down, sent on or logged lets nobody in.

Keys are long and random, so that a fast digest without a salt will do; a person's password would need a slow one.
"""

import hashlib
import hmac
import re
from collections.abc import Iterable

VARIABLE = "BATCHYARD_API_KEYS"

PREFIX = "sha256:"
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def digest_of(key: bytes) -> str:
    return PREFIX + hashlib.sha256(key).hexdigest()


def as_digest(key: str) -> str:
    """Of a key as a config has it, which may be a digest already."""
    return key if DIGEST.fullmatch(key) else digest_of(key.encode())


def is_known(key: bytes, digests: Iterable[str]) -> bool:
    """All are compared, in constant time, so that the time tells nothing of them."""
    given = digest_of(key)
    return any([hmac.compare_digest(given, known) for known in digests])
