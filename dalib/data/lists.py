"""Text files that name the images of a split, one per line."""

from collections.abc import Mapping
from pathlib import Path

from dalib.data.decode import IMAGE_SUFFIXES
from dalib.data.faults import Fault, report
from dalib.errors import DataError, suggest


def listed(
    files: Mapping[str, Path], list_file: str | None, *, root: Path, split: str | None, format_name: str
) -> dict[str, Path]:
    """Return the files that a list names, in its order; all of them where neither list nor split is given.

    Args:
        files: files by key: the path below their folder, without suffix.
        list_file: a text file; lines hold keys, with or without suffix. ``{split}`` stands for the split.
            A relative path is looked up from the current folder, then from ``root``.

    Raises:
        DataError: no such list, a name that is not among ``files`` or occurs twice, or a split without its own list.
    """
    if list_file is None:
        if split is None:
            return dict(files)
        raise DataError(
            f"{format_name}: split {split!r} was asked for, but this format has no splits of its own; give "
            "`list: FILE`, one image name per line, with {split} in the file's name if it serves several splits."
        )
    if split is not None and "{split}" not in list_file:
        raise DataError(
            f"{format_name}: the list {list_file} is the same for every split, but split {split!r} was asked for; "
            "write {split} in its name, or name the data of this split on its own (`data.eval`)."
        )
    path = find_named(list_file.replace("{split}", split or ""), root)
    return _selected(files, path)


def find_named(path: str, root: Path) -> Path:
    """Return a file given relative to the current folder or to ``root``; DataError where both have one, or none."""
    found = {candidate.resolve(): candidate for candidate in (Path(path), root / path) if candidate.is_file()}
    if not found:
        raise DataError(f"{path}: expected a file in the current folder or in {root}, found none; check the path.")
    if len(found) > 1:
        raise DataError(
            f"{path}: expected one file, found {' and '.join(map(str, found))}; say which by its whole path, or take "
            "one away."
        )
    return next(iter(found.values()))


def _selected(files: Mapping[str, Path], path: Path) -> dict[str, Path]:
    chosen: dict[str, Path] = {}
    for name in _lines(path):
        key = name if name in files else _without_suffix(name)
        if key not in files:
            reason = f"expected names of images, found {name!r}, which is not there.{_near(name, files)}"
            report([Fault(str(path), reason)])
        elif key in chosen:
            report([Fault(str(path), f"expected each image once, found {name!r} twice; remove one.")])
        else:
            chosen[key] = files[key]
    if not chosen:
        raise DataError(f"{path}: expected names of images, one per line, found none.")
    return chosen


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path}: expected a list of images in UTF-8, found a file that cannot be read ({error})."
        ) from None
    return [line.strip() for line in text.splitlines() if line.strip()]


def _without_suffix(name: str) -> str:
    stem, dot, suffix = name.rpartition(".")
    return stem if dot + suffix.lower() in IMAGE_SUFFIXES else name


def _near(name: str, files: Mapping[str, Path]) -> str:
    if len(files) > 5000:  # fuzzy matching with each takes long
        return f" Names look like {next(iter(files))!r}."
    return suggest(name, files)
