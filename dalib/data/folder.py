"""Custom data: a folder of images, a folder of labels, and a label map that says what the labels mean."""

from pathlib import Path

from dalib.data.decode import LABEL_SUFFIXES, Size
from dalib.data.encodings import identity
from dalib.data.files import below, existing_folder, find_files, find_images
from dalib.data.label_map import LabelScheme, read_label_map
from dalib.data.lists import find_named, listed
from dalib.data.pairs import PairedFiles
from dalib.labels import CITYSCAPES_CLASSES, CITYSCAPES_PALETTE


def folder(
    *,
    root: str,
    split: str | None = None,
    size: Size | None = None,
    images: str = "images",
    labels: str | None = "labels",
    list: str | None = None,
    label_map: str | None = None,
) -> PairedFiles:
    """Open ``root/images`` and ``root/labels``, at any depth, matched by path without suffix; or photos in ``root``.

    Without labels every pixel is 255. Labels are PNG of Cityscapes' train ids unless ``label_map`` says otherwise.

    Args:
        split: names a folder below both, ``images/SPLIT`` and ``labels/SPLIT``, or takes ``{split}``'s place in
            ``list``; None is everything.
        size: (H, W) to resize to; None keeps each image's own.
        images: folder of the images below ``root``. Where there is neither ``images`` nor ``labels``, the photos lie in
            ``root`` itself.
        labels: folder of the labels below ``root``, which has to be there unless it is ``labels``; None: images alone,
            whatever labels lie there.
        list: a text file with an image name per line; may contain ``{split}``.
        label_map: a YAML file, see ``dalib.data.label_map.read_label_map``.

    Relative paths of ``list`` and ``label_map`` are looked up from the current folder, then from ``root``.
    """
    base = existing_folder(Path(root), "a folder of images and labels")
    label_folder = below(base, labels or "labels", "labels")
    alone = images == "images" and not (base / images).is_dir() and not label_folder.is_dir()
    image_folder = base if alone else existing_folder(below(base, images, "images"), "a folder of images")
    if split is not None and below(image_folder, split, "split").is_dir():
        image_folder, label_folder, split = image_folder / split, label_folder / split, None
    if labels not in (None, "labels"):
        existing_folder(label_folder, "a folder of labels")
    chosen = listed(find_images(image_folder), list, root=base, split=split, format_name="folder")
    scheme = _scheme(label_map, base)
    return PairedFiles(
        chosen,
        None if labels is None else _labels(label_folder, chosen, listed_only=list is not None),
        label_map=scheme.label_map,
        size=size,
        classes=scheme.classes,
        palette=scheme.palette,
    )


def _labels(label_folder: Path, chosen: dict[str, Path], *, listed_only: bool) -> dict[str, Path] | None:
    if not label_folder.is_dir():
        return None
    found = find_files(label_folder, LABEL_SUFFIXES)
    return {key: file for key, file in found.items() if key in chosen} if listed_only else found


def _scheme(label_map: str | None, base: Path) -> LabelScheme:
    if label_map is None:
        return LabelScheme(CITYSCAPES_CLASSES, CITYSCAPES_PALETTE, identity(len(CITYSCAPES_CLASSES)))
    return read_label_map(find_named(label_map, base))
