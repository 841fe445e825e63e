"""A lock on a run's folder, so that only one process trains there."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from dalib.errors import DalibError

PATIENCE = 10.0  # seconds; a killed process's loader workers hold its lock for some five more


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Create the folder and keep other processes from training in it; the lock ends with the process.

    Raises:
        DalibError: another process trains there, or the folder cannot be created or written to.
    """
    lock = FileLock(folder / ".lock", timeout=PATIENCE)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        raise DalibError(
            f"{folder} is in use: another process trains there. Wait for it or end it, or choose another folder "
            "with --out."
        ) from error
    except OSError as error:
        reason = "it is a file" if isinstance(error, FileExistsError) else error.strerror or error
        raise DalibError(f"{folder} cannot hold a run: {reason}. Choose another folder with --out.") from error
    try:
        yield
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()
        with suppress(OSError):  # only an empty folder is removed
            folder.rmdir()
