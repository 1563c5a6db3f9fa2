"""Reads an input file once: every fault of every line, or the shards that its lines are cut into."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

from app.batch.file_kind import HEAD_BYTES, not_json_lines
from app.batch.lines import Line, LineError, LineFault, RawLine, quoted, read_line, split_lines
from app.batch.warnings import Warnings
from app.capabilities import Capabilities, CapabilitiesOf, lacking
from app.errors import CapabilitiesUnknown, RequestRefused
from app.limits import check_request, check_text
from app.media import media_fault
from app.members import misnamed, unknown
from app.settings import Settings
from app.store import ShardPlan

LISTED_FAULTS = 100
"""Faults that a batch object lists; of the rest it gives the number."""

BINARY_FORMATS = ("bytes", "bytes_only")
"""Of embeddings, in vLLM: an answer that is no JSON, so no line can hold it."""


@dataclass
class Validation:
    """`model`: the id of the one that runs the lines; `plans`: the shards when there is no fault.

    `faults`: at most LISTED_FAULTS and a last one that counts the rest. `warnings`: as the batch object shows them.
    """

    model: str | None = None
    plans: list[ShardPlan] = field(default_factory=list)
    faults: list[LineFault] = field(default_factory=list)
    warnings: list[dict[str, Any]] = field(default_factory=list)


async def validate(
    parts: AsyncIterator[bytes], *, endpoint: str, settings: Settings, capabilities: CapabilitiesOf
) -> Validation:
    """Reads the file's bytes in one pass. Memory: one line, and 16 bytes a custom_id.

    Raises CapabilitiesUnknown at the first line that names a model of which `capabilities` knows nothing yet.
    """
    head = await anext(parts, b"")
    if (wrong := not_json_lines(head[:HEAD_BYTES])) is not None:
        return Validation(faults=[wrong])
    reader = _Reader(endpoint, settings, capabilities)
    cutter = ShardCutter(settings.dispatch.shard_lines, settings.dispatch.shard_bytes)
    async for raw in split_lines(_chained(head, parts), longest=settings.limits.line_bytes):
        if raw.blank:
            continue
        reader.read(raw)
        if reader.refused is not None:
            break
        cutter.add(raw)
    faults = reader.faults()
    return Validation(reader.model, [] if faults else cutter.plans(), faults, reader.warnings.entries())


async def _chained(head: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield head
    async for part in rest:
        yield part


class ShardCutter:
    """Cuts lines into shards of at most `lines` lines and `size` bytes; a larger line has a shard of its own."""

    def __init__(self, lines: int, size: int) -> None:
        self._lines, self._size = lines, size
        self._plans: list[ShardPlan] = []
        self._open: list[RawLine] = []

    def add(self, line: RawLine) -> None:
        if self._open and (len(self._open) >= self._lines or self._length_with(line) > self._size):
            self._close()
        self._open.append(line)

    def plans(self) -> list[ShardPlan]:
        if self._open:
            self._close()
        return self._plans

    def _length_with(self, line: RawLine) -> int:
        return line.offset + line.length - self._open[0].offset

    def _close(self) -> None:
        first = self._open[0]
        length = self._length_with(self._open[-1])
        self._plans.append(ShardPlan(first.offset, length, first.number, len(self._open)))
        self._open = []


class _Reader:
    def __init__(self, endpoint: str, settings: Settings, capabilities: CapabilitiesOf) -> None:
        self._endpoint, self._served, self._limits = endpoint, settings.served, settings.limits
        self._requests = settings.requests
        self._media = {model.id: model.allowed_media_domains for model in settings.models}
        self._capabilities_of = capabilities
        self._capabilities: Capabilities | None = None
        self._unknown_is_a_fault = settings.unknown_parameters == "fault"
        self._name: str | None = None
        """Of the model, or of its adapter: the same in all lines."""
        self._lines = 0
        self._seen: set[bytes] = set()
        self._faults: list[LineFault] = []
        self._unlisted = 0
        self.warnings = Warnings()
        self.refused: LineFault | None = None
        """Why the file as a whole is refused: its other lines need not be read."""

    @property
    def model(self) -> str | None:
        return self._served.get(self._name or "")

    def read(self, raw: RawLine) -> None:
        self._lines += 1
        if self._lines > self._limits.lines:
            message = f"The file has more than the {self._limits.lines} lines allowed."
            self.refused = LineFault("too_many_lines", message)
            return
        try:
            line, body = self._parsed(raw)
            self._check(line, body)
            self._check_members(raw.number, body)
            check_request(self._endpoint, body, self._requests)
            self._check_media(body)
        except LineError as error:
            self._fault(error.at(raw.number))
        except RequestRefused as refused:
            param = "body" if refused.param is None else f"body.{refused.param}"
            self._fault(LineFault(refused.code, str(refused), param, raw.number))

    def faults(self) -> list[LineFault]:
        if not self._lines:
            return [LineFault("empty_file", "The input file holds no request.")]
        found = list(self._faults)
        if self._unlisted:
            found.append(LineFault("more_errors", f"{self._unlisted} more lines have errors that are not listed here."))
        if self.refused is not None:
            found.append(self.refused)
        return found

    def _fault(self, fault: LineFault) -> None:
        if len(self._faults) < LISTED_FAULTS:
            self._faults.append(fault)
        else:
            self._unlisted += 1

    def _parsed(self, raw: RawLine) -> tuple[Line, dict[str, Any]]:
        if raw.too_long:
            raise LineError(
                "line_too_large", f"This line has {raw.length} bytes; at most {self._limits.line_bytes} are allowed."
            )
        check_text(raw.data, self._requests)
        return read_line(raw.data)

    def _check(self, line: Line, body: dict[str, Any]) -> None:
        digest = blake2b(line.custom_id.encode(), digest_size=16).digest()
        if digest in self._seen:
            raise LineError(
                "duplicate_custom_id",
                f"The custom_id '{quoted(line.custom_id)}' for this request is a duplicate of another request. "
                "The custom_id parameter must be unique for each request in a batch.",
                "custom_id",
            )
        self._seen.add(digest)
        if line.url != self._endpoint:
            raise LineError(
                "invalid_url", "The URL provided for this request does not match the batch endpoint.", "url"
            )
        if body.get("stream") not in (None, False):
            raise LineError("streaming_unsupported", "Streaming is not supported in the Batch API.", "body.stream")
        if line.model is None:
            raise LineError("invalid_request", "Model parameter is required.", "body.model")
        if self._endpoint == "/v1/chat/completions" and body.get("messages") is None:
            raise LineError("invalid_request", "Messages parameter is required.", "body.messages")
        self._check_model(line.model)

    def _check_model(self, name: str) -> None:
        if name not in self._served:
            raise LineError(
                "model_not_found",
                f"The provided model '{quoted(name)}' is not supported by the Batch API.",
                "body.model",
            )
        if self._name is None:
            self._choose(name)
        if name != self._name:
            raise LineError(
                "mismatched_model",
                f"The provided model '{name}' does not match the rest of the batch ('{self._name}'). "
                "Each batch must contain requests for a single model.",
                "body.model",
            )

    def _choose(self, name: str) -> None:
        self._name = name
        self._capabilities = self._capabilities_of(self._served[name])
        if self._capabilities is None:
            raise CapabilitiesUnknown(f"No engine of model {self._served[name]} has been heard of yet")
        if self._endpoint not in self._capabilities.members:
            message = lacking(name, self._endpoint, self._capabilities)
            self.refused = LineFault("endpoint_not_supported", message, "endpoint")

    def _check_media(self, body: dict[str, Any]) -> None:
        if (fault := media_fault(body, self._media[self.model or ""])) is not None:
            place, message = fault
            raise LineError("media_url_not_allowed", message, f"body.{place}")

    def _check_members(self, number: int, body: dict[str, Any]) -> None:
        known = None if self._capabilities is None else self._capabilities.members.get(self._endpoint)
        if self._endpoint == "/v1/embeddings" and body.get("encoding_format") in BINARY_FORMATS:
            message = "An embedding in bytes cannot stand in a line of JSON. Use the encoding_format float or base64."
            raise LineError("invalid_value", message, "body.encoding_format")
        if known is not None and known.issuperset(body):
            return
        if (wrong := misnamed(self._endpoint, body, known)) is not None:
            name, message = wrong
            raise LineError("unsupported_parameter", message, f"body.{name}")
        for name in unknown(body, known):
            if self._unknown_is_a_fault:
                message = f"Unknown parameter: '{quoted(name)}'. The engine would ignore it."
                raise LineError("unknown_parameter", message, f"body.{quoted(name)}")
            self.warnings.add(number, name)
