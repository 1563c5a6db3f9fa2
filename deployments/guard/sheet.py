"""Shared memory through which an engine's front end reports to its guard.

Nothing is sent, so neither process can hold up the other.
"""

import mmap
import os
import struct

TICK = struct.Struct("d")
LENGTH = struct.Struct("H")
WORDS_AT = TICK.size + LENGTH.size
SIZE = 1024


class Sheet:
    """One page. `tick` grows while the front end's event loop turns; `work` says in words what it is at."""

    def __init__(self, file: int) -> None:
        """`file`: a descriptor of the shared memory; see `new`."""
        self.file = file
        self._memory = mmap.mmap(file, SIZE)

    @classmethod
    def new(cls) -> "Sheet":
        file = os.memfd_create("sheet")
        os.ftruncate(file, SIZE)
        return cls(file)

    @property
    def tick(self) -> float:
        """Seconds by the monotonic clock of this machine."""
        return float(TICK.unpack_from(self._memory)[0])

    @tick.setter
    def tick(self, seconds: float) -> None:
        TICK.pack_into(self._memory, 0, seconds)

    @property
    def work(self) -> str:
        (length,) = LENGTH.unpack_from(self._memory, TICK.size)
        return self._memory[WORDS_AT : min(SIZE, WORDS_AT + length)].decode(errors="replace")

    @work.setter
    def work(self, words: str) -> None:
        text = words.encode()[: SIZE - WORDS_AT]
        self._memory[WORDS_AT : WORDS_AT + len(text)] = text
        LENGTH.pack_into(self._memory, TICK.size, len(text))
