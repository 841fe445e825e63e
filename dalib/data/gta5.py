"""GTA5: frames of a game, labelled with Cityscapes' ids (Richter et al. 2016)."""

from dalib.data.decode import Size, image_size
from dalib.data.encodings import TRAIN_IDS, CityscapesIds
from dalib.data.files import existing_folder, find_encoded, find_images, label_folder, root_folder
from dalib.data.lists import listed
from dalib.data.pairs import PairedFiles
from dalib.data.reframe import Resize

_MISFITS = ("15188", "17705")  # labels of another size than their images in the published archive


def gta5(
    *,
    root: str,
    split: str | None = None,
    size: Size | None = None,
    resize: Resize = "squeeze",
    list: str | None = None,
    labels: str | None = "labels",
) -> PairedFiles:
    """Open ``root/images`` and ``root/labels``: files of the same names, labels as indexed PNG.

    Where these are missing, labels are ``*_labelTrainIds.png``, which the preparation for mmsegmentation and DAFormer
    writes beside them. Of two pairs of the published archive, image and label differ in size: they are left out unless
    repaired.

    Args:
        split: None is everything, as in the adaptation literature; others need ``list``.
        size: (H, W) to resize to; None keeps each frame's own, about 1052 x 1914. resize: how, where the shape differs.
        list: a text file with an image name per line; may contain ``{split}``.
        labels: folder of the labels below ``root``; None: images alone.
    """
    base = root_folder(root, "GTA5 with images/ and labels/")
    images = find_images(existing_folder(base / "images", "GTA5's images"))
    folder = label_folder(base, labels, "GTA5's labels")
    files, label_map = find_encoded(folder, {".png": CityscapesIds(), "_labelTrainIds.png": TRAIN_IDS})
    for key in _MISFITS:
        if files and key in images and key in files and image_size(images[key]) != image_size(files[key]):
            del images[key], files[key]
    pairs = listed(images, files, list, root=base, split=split, format_name="gta5")
    return PairedFiles(*pairs, label_map=label_map, size=size, resize=resize)
