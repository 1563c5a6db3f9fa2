"""Files that are no JSON lines at all: named once, with what to do, instead of once a line."""

from app.batch.lines import BOM, LineFault

HEAD_BYTES = 64 * 1024
"""How much of a file is enough to recognise its kind."""

PACKED = {
    b"\x1f\x8b": "is compressed with gzip",
    b"PK\x03\x04": "is a ZIP archive, as .xlsx files are",
    b"\x28\xb5\x2f\xfd": "is compressed with Zstandard",
    b"\xfd7zXZ\x00": "is compressed with xz",
    b"BZh": "is compressed with bzip2",
}
UTF16_STARTS = (b"\xff\xfe", b"\xfe\xff", b"{\x00", b"\x00{", b"[\x00", b"\x00[")

_WANTED = "A batch file is JSON Lines: one JSON object a line, in UTF-8"


def not_json_lines(head: bytes) -> LineFault | None:
    """Why a file that begins with `head` (some KB, or all of it) is not JSON Lines as a whole; None: it may be."""
    wrong = _packed(head) or _text_of_another_kind(head.removeprefix(BOM))
    return LineFault("invalid_file_format", wrong) if wrong else None


def _packed(head: bytes) -> str | None:
    for start, what in PACKED.items():
        if head.startswith(start):
            return f"The file {what}: unpack it before the upload. {_WANTED}."
    if head.startswith(UTF16_STARTS):
        return f"The file is UTF-16: save it as UTF-8. {_WANTED}."
    return None


def _text_of_another_kind(head: bytes) -> str | None:
    lines = [line for each in head.split(b"\n") if (line := each.strip())][:2]
    if not lines:
        return None
    if lines[0] == b"[" or (lines[0].startswith(b"[") and lines[0][1:].lstrip().startswith(b"{")):
        return f"The file is one JSON array: write each element on a line of its own, without commas. {_WANTED}."
    if lines[0] == b"{" and len(lines) == 2 and not lines[1].startswith(b"{"):
        return f"The file is JSON over several lines: write each request on one line. {_WANTED}."
    if len(lines) == 2 and not any(line.startswith(b"{") for line in lines) and any(c in lines[0] for c in b",;\t"):
        return f"The file looks like CSV: turn each row into a request. {_WANTED}."
    return None
