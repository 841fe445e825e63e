"""GTA5: frames of a game, labelled with Cityscapes' ids (Richter et al. 2016)."""

from pathlib import Path

from dalib.data.decode import LABEL_SUFFIXES, Size, png_size
from dalib.data.encodings import CITYSCAPES_IDS, IdMap
from dalib.data.files import below, existing_folder, find_files, find_images
from dalib.data.lists import listed
from dalib.data.pairs import PairedFiles

_MISFITS = ("15188", "17705")  # labels of another size than their images in the published archive


def gta5(
    *,
    root: str,
    split: str | None = None,
    size: Size | None = None,
    list: str | None = None,
    labels: str | None = "labels",
) -> PairedFiles:
    """Open ``root/images`` and ``root/labels``: files of the same names, labels as indexed PNG.

    Of two pairs of the published archive, image and label differ in size: they are left out unless repaired.

    Args:
        split: None is everything, as in the adaptation literature; others need ``list``.
        size: (H, W) to resize to; None keeps each frame's own, about 1052 x 1914.
        list: a text file with an image name per line; may contain ``{split}``.
        labels: folder of the labels below ``root``; None: images alone.
    """
    base = existing_folder(Path(root), "GTA5 with images/ and labels/")
    images = find_images(existing_folder(base / "images", "GTA5's images"))
    label_map = IdMap(CITYSCAPES_IDS, unknown="ignore")
    if labels is None:
        chosen = listed(images, list, root=base, split=split, format_name="gta5")
        return PairedFiles(chosen, None, label_map=label_map, size=size)
    label_folder = existing_folder(below(base, labels, "labels"), "GTA5's labels")
    files = find_files(label_folder, LABEL_SUFFIXES)
    for key in _MISFITS:
        pair = images.get(key), files.get(key)
        if pair[0] and pair[1] and png_size(pair[0]) != png_size(pair[1]):
            del images[key], files[key]
    chosen = listed(images, list, root=base, split=split, format_name="gta5")
    if list is not None:
        files = {key: file for key, file in files.items() if key in chosen}
    return PairedFiles(chosen, files, label_map=label_map, size=size)
