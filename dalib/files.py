"""Files that are written whole or not at all."""

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from dalib.errors import DalibError

_TEMPORARY = re.compile(r"\..+\.\d+\.tmp")
_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def replaced(path: Path, previous: Path | None = None) -> Iterator[IO[bytes]]:
    """Open a temporary file beside ``path`` that takes its place when the body ends; on an error the old one stays.

    Args:
        previous: where the old file goes. A process that is killed at any moment leaves the old file whole at one of
            the two paths, or the new one at ``path``.

    Raises:
        DalibError: the disk is full, or the place cannot be written.
    """
    temporary = _temporary(path)
    with _refused(path, temporary):
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if previous is not None and path.exists():
            path.replace(previous)
        temporary.replace(path)
        _sync_folder(path.parent)


def write_atomically(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` whole or not at all."""
    with replaced(path) as file:
        file.write(data)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    write_atomically(path, text.encode())


def check_writable(path: Path) -> None:
    """Make the folder of ``path``, and find out now whether a file could be written there later.

    Raises:
        DalibError: it is a folder, or its own cannot be made or written to.
    """
    if path.is_dir():
        raise DalibError(f"{path} is a folder; expected the path of a file to write. Add a file's name to it.")
    temporary = _temporary(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
        temporary.unlink()
    except OSError as error:
        reason = f"{error.filename}: {error.strerror}"
        raise DalibError(f"{path} cannot be written ({reason}). Choose a place that can be written.") from error


def append_line(path: Path, line: str) -> None:
    """Add a line to a text file and wait until the disk has it; only a power cut or a full disk cuts a line short."""
    with _refused(path), path.open("a", encoding="utf-8") as file:
        file.write(f"{line}\n")
        file.flush()
        os.fsync(file.fileno())


def remove_temporaries(folder: Path) -> None:
    """Remove what a process that was killed while it wrote has left in a folder."""
    for path in folder.glob(".*.tmp"):
        if _TEMPORARY.fullmatch(path.name):
            path.unlink(missing_ok=True)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


@contextmanager
def _refused(path: Path, temporary: Path | None = None) -> Iterator[None]:
    """Remove the temporary file on any error, and say in one message what the system refused."""
    try:
        yield
    except BaseException as error:
        needed = max(_size(path), _size(temporary) if temporary else 0)
        if temporary is not None and temporary.exists():
            temporary.unlink()
        if isinstance(error, OSError):
            raise DalibError(_explained(path, error, needed)) from error
        raise


def _explained(path: Path, error: OSError, needed: int) -> str:
    refusal = f"{path} cannot be written: {error.strerror or error}"
    kept = (
        "The file that stands there is whole."
        if path.exists()
        else "Nothing is left of it; other files are as they were."
    )
    if error.errno not in _FULL:
        return f"{refusal}. {kept} Choose a place that can be written."
    free = shutil.disk_usage(path.parent).free
    return (
        f"{refusal}; it takes {_readable(needed)} or more, {_readable(free)} are free. {kept} "
        "Make room and go on, with --resume if it was a training run."
    )


def _readable(count: int) -> str:
    return f"{count / 1e3:.0f} kB" if count < 1e6 else f"{count / 1e6:.1f} MB"


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _sync_folder(folder: Path) -> None:
    """Make the rename itself survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
