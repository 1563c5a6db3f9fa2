"""The one tree of errors. A class's docstring is its meaning; `app/api/errors.py` maps classes to HTTP answers."""

from collections.abc import Sequence

ConfigFault = tuple[tuple[str | int, ...], str]
"""The place of a value in nested mappings and lists, and what is wrong with it."""


class BatchyardError(Exception):
    """Something that Batchyard can name went wrong."""


class SettingsError(BatchyardError):
    """The config cannot be used.

    `faults`: what is wrong at which place of the config's `args`, where that is known; the message has all of it.
    """

    def __init__(self, message: str, faults: "Sequence[ConfigFault]" = ()) -> None:
        super().__init__(message)
        self.faults = tuple(faults)


class CapabilitiesUnknown(BatchyardError):
    """No engine of the model has been heard of in this process yet, so what it can be asked for is not known."""


class FolderGone(BatchyardError):
    """The folder of a model or of an adapter is not there where a replica starts."""


class MachineExhausted(BatchyardError):
    """The machine refused what the work needs: open files, memory, a thread."""


class RequestRefused(BatchyardError):
    """A request that no engine is asked to answer: it is over a limit, or has not the shape that an engine takes.

    `param`: the path of what is refused, from the body on; None: the body itself.
    """

    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code, self.param = code, param


class StoreUnavailable(BatchyardError):
    """The ledger's database did not take the statement: locked, away, full or read-only."""


class ObjectsUnavailable(BatchyardError):
    """The object store did not answer, is full or refuses us."""


class ObjectMissing(BatchyardError):
    """The object store has no object of that key."""


class ObjectCutShort(ObjectMissing):
    """The object store has only the beginning of the object."""


class UploadTooLate(BatchyardError):
    """An upload became no file before its object was due to be deleted, which may be gone by now."""


class EngineLost(BatchyardError):
    """The engine replica died or hung with lines in it, and nothing but its lines is known to explain that."""


class ReplicaGone(EngineLost):
    """The replica was lost and the lines have no part in it: they never reached the engine, or something else is known
    to have ended it, such as the end of its node. Nothing is known of those lines."""
