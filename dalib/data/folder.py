"""Custom data: a folder of images, a folder of labels, and a label map that says what the labels mean."""

from pathlib import Path

from dalib.data.decode import Size
from dalib.data.encodings import TRAIN_IDS
from dalib.data.files import below, existing_folder, find_images, find_labels, root_folder
from dalib.data.label_map import LabelScheme, read_label_map
from dalib.data.lists import find_named, listed
from dalib.data.pairs import PairedFiles
from dalib.data.reframe import Resize
from dalib.errors import DataError
from dalib.labels import CITYSCAPES_CLASSES, CITYSCAPES_PALETTE


def folder(
    *,
    root: str,
    split: str | None = None,
    size: Size | None = None,
    resize: Resize = "squeeze",
    images: str = "images",
    labels: str | None = "labels",
    image_suffix: str | None = None,
    label_suffix: str | None = None,
    list: str | None = None,
    label_map: str | None = None,
) -> PairedFiles:
    """Open ``root/images`` and ``root/labels``, at any depth, matched by path without suffix; or photos in ``root``.

    Without labels every pixel is 255. Labels are PNG of Cityscapes' train ids unless ``label_map`` says otherwise.

    Args:
        split: names a folder below both, ``images/SPLIT`` and ``labels/SPLIT``, or takes ``{split}``'s place in
            ``list``; None is everything.
        size: (H, W) to resize to; None keeps each image's own. resize: how, where the shape differs.
        images: folder of the images below ``root``; ``.`` is ``root`` itself, as is the default where there is neither
            ``images`` nor ``labels``.
        labels: folder of the labels below ``root``, which has to be there unless it is ``labels``; None: images alone,
            whatever labels lie there.
        image_suffix, label_suffix: how the names of images and labels end, as ``_rgb_anon.png`` and
            ``_gt_labelTrainIds.png``; what stands before is the same in both. None: any image, any PNG.
        list: a text file with an image per line, or an image and its label, see ``dalib.data.lists.listed``; its name
            may contain ``{split}``.
        label_map: a YAML file, see ``dalib.data.label_map.read_label_map``.

    In ``root``, ``list`` and ``label_map``, ``~`` and ``$VAR`` are expanded, and a relative path starts at the current
    folder; a ``list`` or ``label_map`` that is not there is looked up from ``root``.
    """
    base = root_folder(root, "a folder of images and labels")
    label_folder = below(base, labels or "labels", "labels")
    alone = images == "images" and not (base / images).is_dir() and not label_folder.is_dir()
    image_folder = base if alone else existing_folder(below(base, images, "images"), "a folder of images")
    if label_suffix is not None and labels is not None and not label_folder.is_dir():
        raise DataError(
            f"{label_folder}: expected the folder of the labels that end in {label_suffix}, found none; name it, such "
            "as `labels: .` where they lie beside the images."
        )
    if label_folder == image_folder:
        label_suffix = label_suffix or ".png"
    if split is not None and below(image_folder, split, "split").is_dir():
        image_folder, label_folder, split = image_folder / split, label_folder / split, None
    if labels not in (None, "labels"):
        existing_folder(label_folder, "a folder of labels")
    found_images = find_images(image_folder, ending=image_suffix)
    there = label_folder.is_dir()
    found_labels = None if labels is None else find_labels(label_folder, ending=label_suffix) if there else {}
    chosen, files = listed(found_images, found_labels, list, root=base, split=split, format_name="folder")
    scheme = _scheme(label_map, base)
    return PairedFiles(
        chosen,
        files if files or there else None,
        label_map=scheme.label_map,
        size=size,
        resize=resize,
        classes=scheme.classes,
        palette=scheme.palette,
    )


def _scheme(label_map: str | None, base: Path) -> LabelScheme:
    if label_map is None:
        return LabelScheme(CITYSCAPES_CLASSES, CITYSCAPES_PALETTE, TRAIN_IDS)
    return read_label_map(find_named(label_map, base))
