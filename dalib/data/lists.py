"""Text files that name the images of a split, one per line, alone or with their labels."""

import os
import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

from dalib.data.decode import IMAGE_SUFFIXES
from dalib.data.faults import Fault, report
from dalib.data.files import expanded
from dalib.errors import DataError, suggest

_Files = dict[str, Path]


def listed(
    images: Mapping[str, Path],
    labels: Mapping[str, Path] | None,
    list_file: str | None,
    *,
    root: Path,
    split: str | None,
    format_name: str,
) -> tuple[_Files, _Files | None]:
    """Return the images that a list names, in its order, and their labels; all where neither list nor split is given.

    Args:
        images, labels: files by key: the path below their folder, without ending; labels None: those of the list are
            left out, too.
        list_file: a text file. A line is an image, or an image and its label with a blank, tab or comma between: keys,
            with or without suffix, or paths below ``root``, relative to it or absolute. ``#`` at a line's start or
            after a blank starts a comment. ``{split}`` in the list's own name stands for the split.

    Raises:
        DataError: no such list, a name that is no image or occurs twice, or a split without its own list.
    """
    if list_file is None:
        if split is None:
            return dict(images), None if labels is None else dict(labels)
        raise DataError(
            f"{format_name}: split {split!r} was asked for, but this format has no splits of its own; give "
            "`list: FILE`, one image name per line, with {split} in the file's name if it serves several splits."
        )
    if split is not None and "{split}" not in list_file:
        raise DataError(
            f"{format_name}: the list {list_file} is the same for every split, but split {split!r} was asked for; "
            "write {split} in its name, or name the data of this split on its own (`data.eval`)."
        )
    return _List(find_named(list_file.replace("{split}", split or ""), root), root, images, labels).read()


def find_named(path: str, root: Path) -> Path:
    """Return a file given relative to the current folder or to ``root``; DataError where both have one, or none."""
    path = str(expanded(path))
    found = {candidate.resolve(): candidate for candidate in (Path(path), root / path) if candidate.is_file()}
    if not found:
        raise DataError(f"{path}: expected a file in the current folder or in {root}, found none; check the path.")
    if len(found) > 1:
        raise DataError(
            f"{path}: expected one file, found {' and '.join(map(str, found))}; say which by its whole path, or take "
            "one away."
        )
    return next(iter(found.values()))


class _List:
    """A list and the files that its lines may name by key."""

    def __init__(self, path: Path, root: Path, images: Mapping[str, Path], labels: Mapping[str, Path] | None) -> None:
        self.path = path
        self.root = _normal(root)
        self.images = images
        self.labels = labels

    def read(self) -> tuple[_Files, _Files | None]:
        chosen: _Files = {}
        paired: _Files = {}
        for line in _lines(self.path):
            found = self._image(line)
            parts = [line] if found else _parts(line)
            found = found or self._image(parts[0])
            label = self._file(parts[1], self.labels or {}) if len(parts) == 2 else None
            if found is None or len(parts) > 2:
                near = "" if len(parts) > 1 else self._near(line)
                reason = f"expected names of images, found {line!r}, which is not there.{near}"
                report([Fault(str(self.path), reason)])
            elif len(parts) == 2 and label is None and self.labels is not None:
                report(
                    [Fault(str(self.path), f"expected the label of an image, found {parts[1]!r}, which is not there.")]
                )
            elif found[0] in chosen:
                report([Fault(str(self.path), f"expected each image once, found {parts[0]!r} twice; remove one.")])
            else:
                chosen[found[0]] = found[1]
                if label := label or (self.labels or {}).get(found[0]):
                    paired[found[0]] = label
        if not chosen:
            raise DataError(f"{self.path}: expected names of images, one per line, found none.")
        return chosen, None if self.labels is None else paired

    def _image(self, name: str) -> tuple[str, Path] | None:
        file = self._file(name, self.images)
        if file is None or file.suffix.lower() not in IMAGE_SUFFIXES:
            return None
        return self._keys.get(_normal(file), name), file

    def _file(self, name: str, files: Mapping[str, Path]) -> Path | None:
        stem, dot, suffix = name.rpartition(".")
        short = stem if dot + suffix.lower() in IMAGE_SUFFIXES else name
        path = _normal(self.root / name)
        below = path.is_relative_to(self.root) and path.is_file()
        return files.get(name) or files.get(short) or (path if below else None)

    @cached_property
    def _keys(self) -> dict[Path, str]:
        return {_normal(file): key for key, file in self.images.items()}

    def _near(self, name: str) -> str:
        if len(self.images) > 5000:  # fuzzy matching with each takes long
            return f" Names look like {next(iter(self.images))!r}."
        return suggest(name, self.images)


def _normal(path: Path) -> Path:
    """Return the absolute path without ``..``; links are not followed."""
    return Path(os.path.normpath(path.absolute()))


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path}: expected a list of images in UTF-8, found a file that cannot be read ({error})."
        ) from None
    lines = (re.sub(r"(^|\s)#.*", "", line).strip() for line in text.splitlines())
    return [line for line in lines if line]


def _parts(line: str) -> list[str]:
    return [part.strip() for part in re.split(r"[\t,]" if re.search(r"[\t,]", line) else r"\s+", line)]
