"""Finding image and label files."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from dalib.data.decode import IMAGE_SUFFIXES
from dalib.data.faults import Fault, report
from dalib.errors import DataError


def existing_folder(path: Path, expected: str, check: str = "`root` and the dataset's layout") -> Path:
    """Return ``path``, or raise a DataError that says what should have been there, and what to ``check``."""
    try:
        if path.is_dir():
            return path
        found = "a file" if path.is_file() else "nothing"
    except OSError as error:
        found = f"what cannot be read ({error.strerror})"
    raise DataError(f"{path}: expected {expected}, found {found}; check {check}.")


def below(base: Path, name: str, option: str) -> Path:
    """Return ``base / name``; DataError where ``name``, the value of ``option``, leads out of ``base``."""
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise DataError(f"{option}: expected a folder below {base}, found {name!r}, which leads out of it.")
    return base / name


def find_images(folder: Path, key: Callable[[str], str | None] = lambda name: name) -> dict[str, Path]:
    """Find the images under ``folder`` by key; see ``find_files``. None at all is an error."""
    files = find_files(folder, IMAGE_SUFFIXES, key)
    if not files:
        raise DataError(
            f"{folder}: expected images ({', '.join(sorted(IMAGE_SUFFIXES))}), found none that fit; check the path."
        )
    return files


def find_files(
    folder: Path, suffixes: Iterable[str], key: Callable[[str], str | None] = lambda name: name
) -> dict[str, Path]:
    """Find files under ``folder`` at any depth, sorted; symbolic links are followed, and a loop is a fault.

    Args:
        suffixes: lower-case suffixes to take.
        key: maps a file's path below ``folder``, with "/" and without suffix, to its key; None skips the file.
    """
    files: dict[str, Path] = {}
    for file in _walk(folder, ()):
        name = key(file.relative_to(folder).with_suffix("").as_posix()) if file.suffix.lower() in suffixes else None
        if name is None:
            continue
        if name in files:
            report(
                [Fault(str(file), f"expected one file of this name, found {files[name]} as well; remove one of them.")]
            )
        files.setdefault(name, file)
    return files


def _walk(folder: Path, above: tuple[Path, ...]) -> Iterator[Path]:
    try:
        real, entries = folder.resolve(strict=True), sorted(folder.iterdir())
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop, before Python 3.13
        report([Fault(str(folder), f"cannot be read ({getattr(error, 'strerror', error)}); check its permissions.")])
        return
    if any(folder.is_relative_to(real) for folder in above):
        reason = f"expected a folder, found a symbolic link to {real}, which contains it; remove the link."
        report([Fault(str(folder), reason)])
        return
    for entry in entries:
        if entry.is_dir():
            yield from _walk(entry, (*above, real))
        else:
            yield entry
