"""Finding image and label files."""

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

from dalib.data.decode import IMAGE_SUFFIXES, LABEL_SUFFIXES, no_png
from dalib.data.encodings import LabelMap
from dalib.data.faults import Fault, report
from dalib.errors import DataError, suggest

logger = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")

Key = Callable[[str], str | None]
"""Maps a file's path below its folder, with "/" and without ending, to its key; None leaves the file out."""


def expanded(path: str) -> Path:
    """Return a path with ``~`` and ``$VAR`` expanded; a variable that is not set stays as it is."""
    try:
        return Path(os.path.expandvars(path)).expanduser()
    except RuntimeError:  # no such user
        return Path(path)


def root_folder(root: str, expected: str) -> Path:
    """Return a data set's ``root``, ``~`` and ``$VAR`` expanded, or raise a DataError as ``existing_folder``."""
    return existing_folder(expanded(root), expected)


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


def check_split(split: str | None, format_name: str) -> str:
    """Return the split, train where none is given; DataError for another one than train, val and test."""
    split = split or "train"
    if split not in SPLITS:
        raise DataError(
            f"{format_name}: expected a split of {', '.join(SPLITS)}, found {split!r}.{suggest(split, SPLITS)}"
        )
    return split


def no_reference(format_name: str, split: str, folder: str) -> DataError:
    """Return the error of a split of the same places in clear weather, whose images lie in ``folder``."""
    return DataError(
        f"{format_name}: expected a split of {', '.join(SPLITS)}, found {split!r}. The same places in clear weather "
        f"are read as images alone, by {{use: folder, root: {folder}}}."
    )


def find_images(
    folder: Path,
    key: Key = lambda name: name,
    *,
    ending: str | None = None,
    within: Sequence[str] = ("",),
    but: tuple[str, ...] = (),
    twins: bool = False,
) -> dict[str, Path]:
    """Find the images under ``folder`` by key; see ``find_files``. None at all is an error.

    Args:
        ending: of the names to take, as ``_rgb_anon.png``; None: every picture, and files of other types are told.
        but, twins: see ``find_files``.
    """
    passed_over: Counter[str] = Counter()
    endings = IMAGE_SUFFIXES if ending is None else (ending,)
    files = find_files(folder, endings, key, within=within, but=but, left=passed_over, twins=twins)
    known = ", ".join(sorted(endings))
    if passed_over and ending is None:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(passed_over.items()))
        _tell_once(f"{folder}: {len(files)} images; passed over: {kinds} (images are {known})")
    if not files:
        raise DataError(f"{folder}: expected images ({known}), found none that fit; check the path.")
    return files


def label_folder(base: Path, labels: str | None, expected: str) -> Path | None:
    """Return the existing folder ``base / labels``; None for images alone, ``labels: null``."""
    return None if labels is None else existing_folder(below(base, labels, "labels"), expected)


def find_labels(
    folder: Path, key: Key = lambda name: name, *, ending: str | None = None, within: Sequence[str] = ("",)
) -> dict[str, Path]:
    """Find the labels under ``folder`` by key; see ``find_files``. A picture that is no PNG is a fault.

    Args:
        ending: of the names to take, as ``_gt_labelTrainIds.png``; None: every PNG.
    """
    if ending is not None:
        if found := find_files(folder, (ending,), key, within=within):
            return found
        raise DataError(f"{folder}: expected labels, *{ending}, found none; check the path and how their names end.")
    files = find_files(folder, LABEL_SUFFIXES, key, within=within)
    others = find_files(folder, IMAGE_SUFFIXES - LABEL_SUFFIXES, key, within=within)
    wrong = {name: file for name, file in others.items() if name not in files}
    report([Fault(error.item, error.reason, error.kind) for error in map(no_png, wrong.values())])
    return files | wrong


def find_encoded(
    folder: Path | None, maps: Mapping[str, LabelMap], key: Key = lambda name: name
) -> tuple[dict[str, Path] | None, LabelMap]:
    """Return the labels under ``folder`` with the first of the endings in ``maps`` that occurs, and its label map.

    Without a folder there are no labels.
    A name belongs to the longest ending that it has: ``1_labelTrainIds.png`` is none of the ``.png``.
    """
    if folder is None:
        return None, next(iter(maps.values()))
    for ending, label_map in maps.items():
        longer = tuple(other for other in maps if other != ending and other.endswith(ending))
        if files := find_files(folder, (ending,), key, but=longer):
            return files, label_map
    raise DataError(f"{folder}: expected {' or '.join(f'*{ending}' for ending in maps)}, found neither.")


def find_files(
    folder: Path,
    endings: Iterable[str],
    key: Key = lambda name: name,
    *,
    within: Sequence[str] = ("",),
    but: tuple[str, ...] = (),
    left: Counter[str] | None = None,
    twins: bool = False,
) -> dict[str, Path]:
    """Find files under ``folder`` at any depth, sorted; symbolic links are followed, and a loop is a fault.

    Names with a leading dot are left out: they are a system's or an editor's own.

    Args:
        endings: of the names to take, in any case, such as ``.png``. but: endings not to take.
        key: see ``Key``.
        within: the folders below ``folder`` to look into.
        left: counts the suffixes of files with another ending.
        twins: take both of two files of one name, a.jpg and a.png, the second one's key with its ending; else they are
            a fault.
    """
    files: dict[str, Path] = {}
    for file in (file for name in within for file in _walk(folder / name, ())):
        ending = next((ending for ending in endings if file.name.lower().endswith(ending.lower())), None)
        if ending is None or file.name.endswith(but):
            if left is not None and ending is None:
                left[file.suffix.lower() or file.name] += 1
            continue
        name = key(file.relative_to(folder).as_posix()[: -len(ending)])
        if name is None:
            continue
        if name in files and twins:
            name += ending
        elif name in files:
            reason = (
                f"expected one file of this name, found {files[name]} as well; where one is the label of the other, "
                "`folder` tells them apart by `image_suffix` and `label_suffix`, else move one of them elsewhere."
            )
            report([Fault(str(file), reason)])
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
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _walk(entry, (*above, real))
        else:
            yield entry


@cache
def _tell_once(message: str) -> None:
    """Log a warning that other data sets on the same folder, such as those of evaluation, would repeat."""
    logger.warning("%s", message)
