"""Where the results of a batch go: whole or not at all."""

import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import typer


@dataclass(frozen=True)
class Outputs:
    """The output file that was asked for, and beside it the error file: none beside a device or a pipe."""

    answers: Path
    faults: Path | None

    @classmethod
    def of(cls, output: Path, input_file: Path | None = None) -> "Outputs":
        """Raises typer.BadParameter if they cannot be written or would replace the input."""
        if not output.name:
            raise typer.BadParameter(f"-o: {output} is a folder; name a file")
        if is_stream(output):
            if not os.access(output, os.W_OK):
                raise typer.BadParameter(f"-o: {output} cannot be written")
            return cls(output, None)
        faults = output.with_name(f"{output.stem}-errors{output.suffix}")
        for path in (output, faults):
            if input_file is not None and path.exists() and path.samefile(input_file):
                raise typer.BadParameter(f"-o {output}: the results would replace the input {input_file}")
            _refuse_unwritable(path)
        return cls(output, faults)


def is_stream(path: Path) -> bool:
    """A device such as /dev/null, or a pipe: what is written there cannot be taken back."""
    return path.is_char_device() or path.is_fifo()


def _refuse_unwritable(path: Path) -> None:
    if path.exists() and not path.is_file():
        raise typer.BadParameter(f"-o: {path} is {'a folder' if path.is_dir() else 'no plain file'}; name a file")
    if not path.parent.is_dir():
        raise typer.BadParameter(f"-o: there is no folder {path.parent}")
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
        if path.exists():
            path.open("ab").close()
    except OSError as error:
        raise typer.BadParameter(f"-o: {path} cannot be written: {error.strerror}") from error


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """`write` fills a file beside `path`, which then takes its place; a stream gets what is in it.

    Raises OSError; `path` is as it was then, unless it is a stream.
    """
    if is_stream(path):
        _copy_to_stream(path, write)
        return
    target = path.resolve()  # a link stays one
    descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
    os.close(descriptor)
    part = Path(name)
    try:
        write(part)
        part.chmod(target.stat().st_mode & 0o777 if target.exists() else 0o666 & ~_umask())
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def _copy_to_stream(path: Path, write: Callable[[Path], object]) -> None:
    """Only once it is whole: `write` may begin again."""
    with tempfile.NamedTemporaryFile() as whole:
        write(Path(whole.name))
        with open(whole.name, "rb") as source, path.open("wb") as target:
            shutil.copyfileobj(source, target)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
