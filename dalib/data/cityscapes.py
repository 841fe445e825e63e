"""Cityscapes: streets of 50 cities (Cordts et al. 2016)."""

from pathlib import Path

from dalib.data.decode import LABEL_SUFFIXES, Size
from dalib.data.encodings import CITYSCAPES_IDS, IdMap, LabelMap, identity
from dalib.data.files import below, existing_folder, find_files, find_images
from dalib.data.pairs import PairedFiles
from dalib.errors import DataError, suggest
from dalib.labels import CITYSCAPES_CLASSES

SPLITS = ("train", "val", "test")

_LABEL_MAPS: dict[str, LabelMap] = {
    "labelIds": IdMap(CITYSCAPES_IDS, unknown="ignore"),
    "labelTrainIds": identity(len(CITYSCAPES_CLASSES), unknown="ignore"),
}


def cityscapes(
    *, root: str, split: str | None = None, size: Size | None = None, labels: str | None = "gtFine"
) -> PairedFiles:
    """Open the official tree, ``leftImg8bit/SPLIT`` and ``gtFine/SPLIT``, or a copy with ``images/SPLIT``.

    Images may lie in city folders or directly in the split's. Labels are the shipped ``*_gtFine_labelIds.png``, or
    ``*_gtFine_labelTrainIds.png`` where those are missing. A test split without labels is all 255.

    Args:
        split: train (default), val or test.
        size: (H, W) to resize to; None keeps 1024 x 2048.
        labels: folder of the labels below ``root``; None: images alone.
    """
    split = split or "train"
    if split not in SPLITS:
        raise DataError(
            f"cityscapes: expected a split of {', '.join(SPLITS)}, found {split!r}.{suggest(split, SPLITS)}"
        )
    base = existing_folder(Path(root), "Cityscapes with leftImg8bit/ (or images/) and gtFine/")
    photographs = base / "leftImg8bit"
    folder = (photographs if photographs.is_dir() else base / "images") / split
    images = find_images(existing_folder(folder, f"Cityscapes' {split} images"), _frame)
    label_folder = None if labels is None else below(base, labels, "labels") / split
    if label_folder is None or (split == "test" and not label_folder.is_dir()):
        return PairedFiles(images, None, label_map=_LABEL_MAPS["labelIds"], size=size)
    kind, files = _labels(label_folder)
    return PairedFiles(images, files, label_map=_LABEL_MAPS[kind], size=size)


def _labels(folder: Path) -> tuple[str, dict[str, Path]]:
    existing_folder(folder, "Cityscapes' labels (for images alone: `labels: null`)")
    for kind in _LABEL_MAPS:
        ending = f"_gtFine_{kind}"
        labels = find_files(folder, LABEL_SUFFIXES, lambda name, ending=ending: _cut(name, ending))  # type: ignore[misc]
        if labels:
            return kind, labels
    raise DataError(f"{folder}: expected *_gtFine_labelIds.png or *_gtFine_labelTrainIds.png, found neither.")


def _frame(name: str) -> str:
    """The frame's name, city_sequence_number, wherever its folder is."""
    return name.rpartition("/")[2].removesuffix("_leftImg8bit")


def _cut(name: str, ending: str) -> str | None:
    return _frame(name).removesuffix(ending) if name.endswith(ending) else None
