"""Cityscapes: streets of 50 cities (Cordts et al. 2016)."""

from dalib.data.decode import Size
from dalib.data.encodings import CityscapesIds, identity
from dalib.data.files import SPLITS, below, check_split, existing_folder, find_encoded, find_images, root_folder
from dalib.data.pairs import PairedFiles
from dalib.data.reframe import Resize
from dalib.labels import CITYSCAPES_CLASSES

_CITIES = {
    **dict.fromkeys(("frankfurt", "lindau", "munster"), "val"),
    **dict.fromkeys(("berlin", "bielefeld", "bonn", "leverkusen", "mainz", "munich"), "test"),
}
"""The split of each city that is not of train."""


def cityscapes(
    *,
    root: str,
    split: str | None = None,
    size: Size | None = None,
    resize: Resize = "squeeze",
    labels: str | None = "gtFine",
) -> PairedFiles:
    """Open the official tree, ``leftImg8bit/SPLIT`` and ``gtFine/SPLIT``, or a copy with ``images/SPLIT``.

    Files may lie in city folders, directly in the split's, or all in one folder, where a frame's city tells its split.
    Labels are the shipped ``*_gtFine_labelIds.png``, or ``*_gtFine_labelTrainIds.png`` where those are missing. A test
    split without labels is all 255.

    Args:
        split: train (default), val or test.
        size: (H, W) to resize to; None keeps 1024 x 2048. resize: how, where the shape differs.
        labels: folder of the labels below ``root``; None: images alone.
    """
    split = check_split(split, "cityscapes")
    base = root_folder(root, "Cityscapes with leftImg8bit/ (or images/) and gtFine/")
    images_top = next((base / name for name in ("leftImg8bit", "images") if (base / name).is_dir()), base)
    labels_top = below(base, labels or "gtFine", "labels")
    if images_top == base and not labels_top.is_dir():
        labels_top = base
    flat = not any((images_top / each).is_dir() for each in SPLITS)
    image_folder, label_folder = (top if flat else top / split for top in (images_top, labels_top))

    def frame(name: str) -> str | None:
        """The frame's name, city_sequence_number, wherever its folder is; None for one of another split."""
        stem = name.rpartition("/")[2].removesuffix("_leftImg8bit")
        return stem if not flat or _CITIES.get(stem.partition("_")[0], "train") == split else None

    existing_folder(image_folder, f"Cityscapes' {split} images")
    ending = "_leftImg8bit.png" if image_folder == label_folder else None
    images = find_images(image_folder, frame, ending=ending)
    if labels is None or (split == "test" and (flat or not label_folder.is_dir())):
        return PairedFiles(images, None, label_map=CityscapesIds(), size=size, resize=resize)
    existing_folder(label_folder, "Cityscapes' labels (for images alone: `labels: null`)")
    train_ids = identity(len(CITYSCAPES_CLASSES), unknown="ignore")
    maps = {"_gtFine_labelIds.png": CityscapesIds(), "_gtFine_labelTrainIds.png": train_ids}
    files, label_map = find_encoded(label_folder, maps, frame)
    return PairedFiles(images, files, label_map=label_map, size=size, resize=resize)
