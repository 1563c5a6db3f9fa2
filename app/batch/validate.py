"""Reads an input file once: every fault of every line, or the shards that its lines are cut into."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b

from app.batch.lines import Line, LineError, LineFault, RawLine, parse_line, quoted, split_lines
from app.settings import DispatchSettings, Limits
from app.store import ShardPlan

LISTED_FAULTS = 100
"""Faults that a batch object lists; of the rest it gives the number."""


@dataclass
class Validation:
    """`model`: the id of the one that runs the lines; `plans`: the shards when there is no fault.

    `faults`: at most LISTED_FAULTS and a last one that counts the rest.
    """

    model: str | None = None
    plans: list[ShardPlan] = field(default_factory=list)
    faults: list[LineFault] = field(default_factory=list)


async def validate(
    parts: AsyncIterator[bytes],
    *,
    endpoint: str,
    served: Mapping[str, str],
    limits: Limits,
    dispatch: DispatchSettings,
) -> Validation:
    """Reads the file's bytes in one pass. Memory: one line, and 16 bytes a custom_id.

    `served`: the names that a line may have as its model, each with the id of the model that runs it.
    """
    reader = _Reader(endpoint, served, limits)
    cutter = ShardCutter(dispatch.shard_lines, dispatch.shard_bytes)
    async for raw in split_lines(parts, longest=limits.line_bytes):
        if raw.blank:
            continue
        reader.read(raw)
        if reader.lines > limits.lines:
            break
        cutter.add(raw)
    faults = reader.faults()
    return Validation(served.get(reader.name or ""), [] if faults else cutter.plans(), faults)


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
    def __init__(self, endpoint: str, served: Mapping[str, str], limits: Limits) -> None:
        self._endpoint, self._served, self._limits = endpoint, served, limits
        self.name: str | None = None
        """Of the model, or of its adapter: the same in all lines."""
        self.lines = 0
        self._seen: set[bytes] = set()
        self._faults: list[LineFault] = []
        self._unlisted = 0

    def read(self, raw: RawLine) -> None:
        self.lines += 1
        if self.lines > self._limits.lines:
            self._fault(
                LineFault("too_many_lines", f"The file has more than the {self._limits.lines} lines allowed.", None)
            )
            return
        try:
            self._check(self._parsed(raw))
        except LineError as error:
            self._fault(error.at(raw.number))

    def faults(self) -> list[LineFault]:
        if not self.lines:
            return [LineFault("empty_file", "The input file holds no request.")]
        if self._unlisted:
            more = LineFault("more_errors", f"{self._unlisted} more lines have errors that are not listed here.")
            return [*self._faults, more]
        return self._faults

    def _fault(self, fault: LineFault) -> None:
        if len(self._faults) < LISTED_FAULTS:
            self._faults.append(fault)
        else:
            self._unlisted += 1

    def _parsed(self, raw: RawLine) -> Line:
        if raw.too_long:
            raise LineError(
                "line_too_large", f"This line has {raw.length} bytes; at most {self._limits.line_bytes} are allowed."
            )
        return parse_line(raw.data)

    def _check(self, line: Line) -> None:
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
        if line.stream:
            raise LineError("streaming_unsupported", "Streaming is not supported in the Batch API.", "body.stream")
        if line.model is None:
            raise LineError("invalid_request", "Model parameter is required.", "body.model")
        if self._endpoint == "/v1/chat/completions" and not line.has_messages:
            raise LineError("invalid_request", "Messages parameter is required.", "body.messages")
        self._check_model(line.model)

    def _check_model(self, name: str) -> None:
        if name not in self._served:
            raise LineError(
                "model_not_found",
                f"The provided model '{quoted(name)}' is not supported by the Batch API.",
                "body.model",
            )
        if self.name is None:
            self.name = name
        if name != self.name:
            raise LineError(
                "mismatched_model",
                f"The provided model '{name}' does not match the rest of the batch ('{self.name}'). "
                "Each batch must contain requests for a single model.",
                "body.model",
            )
