"""The name of an uploaded file, in each of the ways that clients write one that is not ASCII.

Browsers, curl and Python's clients send its UTF-8 as it is (RFC 7578). Others send `filename*=UTF-8''gr%C3%BC.jsonl`
(RFC 8187), alone or beside a plain name, and mail libraries `filename="=?utf-8?B?Z3LDvA==?="` (RFC 2047).
"""

import binascii
import re
from email.errors import HeaderParseError
from email.header import decode_header, make_header
from urllib.parse import unquote_to_bytes

_QUOTED = re.compile(r'"(?:\\.|[^"\\])*"')
_EXTENDED = re.compile(r";\s*filename\*\s*=\s*([\w!#$%&+^`{}~-]+)'[^']*'([^;\s]*)", re.IGNORECASE)
_ENCODED_WORD = re.compile(r"=\?[^?\s]+\?[bBqQ]\?[^?\s]*\?=")

UNNAMED = "file"


def filename_of(disposition: bytes, plain: bytes) -> str:
    """`plain` is the parameter `filename` of the content-disposition. Text that every database and header takes."""
    return storable(_extended(disposition) or _decoded(text_of(plain))) or UNNAMED


def text_of(data: bytes | bytearray) -> str:
    return storable(data.decode("utf-8", "replace"))


def storable(text: str) -> str:
    """Without NUL and lone surrogates, which some codecs make."""
    return text.encode("utf-8", "replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")


def _extended(disposition: bytes) -> str | None:
    # What looks like a parameter within quotes is none.
    found = _EXTENDED.search(_QUOTED.sub('""', disposition.decode("latin-1")))
    if found is None:
        return None
    charset, value = found.groups()
    try:
        return unquote_to_bytes(value).decode(charset, "replace")
    except (LookupError, ValueError):  # a charset that Python does not know, or that cannot replace
        return None


def _decoded(text: str) -> str:
    """Text that holds encoded words, without them; what cannot be decoded stays as it came."""
    if not (text.isascii() and _ENCODED_WORD.search(text)):
        return text
    try:
        return str(make_header(decode_header(text)))
    except (HeaderParseError, LookupError, ValueError, binascii.Error):
        return text
