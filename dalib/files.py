"""Atomic writing of files, safe loading of tensors, and the checkpoints in a run folder."""

import errno
import json
import os
import re
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from dalib.errors import CheckpointError, DalibError, DataError

_TEMPORARY = re.compile(r"\..+\.\d+\.tmp")
_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def replaced(path: Path, previous: Path | None = None) -> Iterator[IO[bytes]]:
    """Open a temporary file beside ``path`` that takes its place when the body ends; on an error the old one stays.

    Args:
        previous: where the old file goes. A process that is killed at any moment leaves the old file whole at one of
            the two paths, or the new one at ``path``.

    Raises:
        DalibError: the disk is full, or ``path`` cannot be written.
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
    """Write ``data`` to ``path`` atomically."""
    with replaced(path) as file:
        file.write(data)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically."""
    write_atomically(path, text.encode())


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON file atomically, a list of numbers on one line."""
    text = json.dumps(value, indent=2)
    text = re.sub(r"\[\n[\s\d,.eE+-]+\]", lambda row: f"[{' '.join(row[0][1:-1].split())}]", text)
    write_text(path, text + "\n")


def check_writable(path: Path) -> None:
    """Create the folder of ``path`` and check that a file can be written there.

    Raises:
        DalibError: ``path`` is a folder, or its parent cannot be created or written to.
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
    """Append a line to a text file and flush it to the disk; only a power cut or a full disk cuts a line short."""
    with _refused(path), path.open("a", encoding="utf-8") as file:
        file.write(f"{line}\n")
        file.flush()
        os.fsync(file.fileno())


def remove_temporaries(folder: Path) -> None:
    """Remove the temporary files that a killed process left in a folder."""
    for path in folder.glob(".*.tmp"):
        if _TEMPORARY.fullmatch(path.name):
            path.unlink(missing_ok=True)


def load_tensors(path: Path) -> Any:
    """Return what a file of ``torch.save`` holds, on the CPU: tensors, primitives and containers of them.

    An untrusted file is safe to open: objects, which could run code, are refused, and so is compression, which could
    unfold to any size. The checksums of torch's ZIP archive reveal damage.

    Raises:
        DataError: it is refused, and the message, which begins with "it", says why.
        Exception: of any kind; a damaged file fails anywhere in torch's reader.
    """
    import torch

    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise DataError("it is compressed, which torch never does, so it could unfold to any size")
            # torch reads nothing from an entry marked as a folder and returns uninitialised tensors.
            if any(entry.external_attr for entry in archive.infolist()):
                raise DataError("it is damaged: an entry has attributes, which torch never writes")
            if damaged := archive.testzip():
                raise DataError(f"it is damaged: the checksum of its entry {damaged!r} differs")
    return torch.load(path, map_location="cpu", weights_only=True)


def checkpoints_of(run: Path) -> list[Path]:
    """Return the checkpoints that a run can resume from, newest first; ``best.pt`` is not among them."""
    folder = run / "checkpoints"
    kept = sorted(folder.glob("step_*.pt"), key=lambda path: (len(path.name), path.name), reverse=True)
    return [path for path in (folder / "last.pt", folder / "previous.pt", *kept) if path.exists()]


def find_checkpoint(path: Path) -> Path:
    """Return a run folder's newest checkpoint, or a file's own path; CheckpointError if there is none."""
    if path.is_dir():
        if found := checkpoints_of(path):
            return found[0]
        expected = path / "checkpoints" / "last.pt"
        raise CheckpointError(f"{path} has no checkpoint; expected {expected}. Has the run written one yet?")
    if not path.exists():
        raise CheckpointError(f"{path} does not exist; expected a run folder or a checkpoint.")
    return path


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


@contextmanager
def _refused(path: Path, temporary: Path | None = None) -> Iterator[None]:
    """On any error remove the temporary file; an OSError becomes a DalibError."""
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
