"""Custom data: a folder of images, a folder of labels, and a label map that says what the labels mean."""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from dalib.data.decode import LABEL_SUFFIXES, Size, in_color
from dalib.data.encodings import TRAIN_IDS
from dalib.data.faults import Fault, report
from dalib.data.files import Key, below, existing_folder, find_images, find_labels, root_folder
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
    bare = images == "images" and not (base / images).is_dir() and not label_folder.is_dir()
    check = "`root` and the dataset's layout"
    if images == "images" and label_folder.is_dir():
        check = f"`root`, or give `images: .` where the photographs lie in {base} itself, beside {label_folder.name}"
    image_folder = base if bare else existing_folder(below(base, images, "images"), "a folder of images", check)
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
    there = label_folder.is_dir()
    alone = labels is None or not there
    found_images = find_images(
        image_folder,
        _outside(label_folder, image_folder),
        ending=image_suffix,
        but=(label_suffix,) if label_suffix and image_suffix is None and label_suffix[0] != "." else (),
        twins=alone,
    )
    if alone and image_suffix is None and list is None:
        report([*_labels_among(found_images.values())])
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


def _outside(label_folder: Path, image_folder: Path) -> Key:
    """Return the key of images: the path below their folder, None for what lies in a folder of labels within it."""
    within = image_folder in label_folder.parents
    start = f"{label_folder.relative_to(image_folder).as_posix()}/" if within else None
    return lambda name: None if start and name.startswith(start) else name


def _labels_among(images: Iterable[Path]) -> Iterator[Fault]:
    """Yield the images that look like labels: PNG without colour, named as a picture in colour beside them.

    That is ``1.png`` beside ``1.jpg``, or ``1_mask.png`` beside ``1.png``.
    """
    named: defaultdict[Path, list[Path]] = defaultdict(list)
    for file in images:
        named[file.with_suffix("")].append(file)
    for name, files in named.items():
        parts = re.split(r"([_\-. ])", name.name)
        stems = [name.parent / "".join(parts[:end]) for end in range(1, len(parts), 2)]
        pictures = [*files, *(file for stem in stems for file in named.get(stem, ()))]
        if len(pictures) < 2:
            continue
        for file in files:
            with suppress(DataError):  # it is told where it is read
                photo = next((other for other in pictures if other != file and in_color(other)), None)
                if photo and file.suffix.lower() in LABEL_SUFFIXES and not in_color(file):
                    ending = photo.suffix if photo.suffix != file.suffix else "_rgb.png"
                    reason = (
                        f"expected a photograph, found a picture without colour that is named as {photo.name} beside "
                        f"it, as a label is. Tell them apart by `image_suffix`, such as `image_suffix: {ending}`, by "
                        "`label_suffix`, or by a `list`."
                    )
                    yield Fault(str(file), reason, "labels among the images")


def _scheme(label_map: str | None, base: Path) -> LabelScheme:
    if label_map is None:
        return LabelScheme(CITYSCAPES_CLASSES, CITYSCAPES_PALETTE, TRAIN_IDS)
    return read_label_map(find_named(label_map, base))
