"""SYNTHIA-RAND-CITYSCAPES: rendered streets from anywhere above them (Ros et al. 2016)."""

from dalib.data.decode import Size
from dalib.data.encodings import TRAIN_IDS, IdMap
from dalib.data.files import existing_folder, find_encoded, find_images, label_folder, root_folder
from dalib.data.lists import listed
from dalib.data.pairs import PairedFiles
from dalib.data.reframe import Resize

# fmt: off
SYNTHIA_IDS = {
    3: 0, 4: 1, 2: 2, 21: 3, 5: 4, 7: 5, 15: 6, 9: 7, 6: 8, 16: 9, 1: 10, 10: 11, 17: 12, 8: 13, 18: 14, 19: 15, 20: 16,
    12: 17, 11: 18,
}
# fmt: on
"""SYNTHIA's ids to Cityscapes' train ids. No frame has terrain (16), truck (18) or train (20); void, parking slot, road
work and lane marking are ignored."""


def synthia(
    *,
    root: str,
    split: str | None = None,
    size: Size | None = None,
    resize: Resize = "squeeze",
    list: str | None = None,
    labels: str | None = "GT/LABELS",
) -> PairedFiles:
    """Open ``root/RGB`` and ``root/GT/LABELS``: files of the same names, the id in the first of 3 channels of 16 bits.

    They take ``pip install 'dalib-seg[png16]'``. Where they are missing, labels are ``*_labelTrainIds.png``.

    Args:
        split: None is everything; others need ``list``.
        size: (H, W) to resize to; None keeps 760 x 1280. resize: how, where the shape differs.
        list: a text file with an image name per line; may contain ``{split}``.
        labels: folder of the labels below ``root``; None: images alone.
    """
    base = root_folder(root, "SYNTHIA-RAND-CITYSCAPES with RGB/ and GT/LABELS/")
    images = find_images(existing_folder(base / "RGB", "SYNTHIA's images"))
    ids = IdMap(SYNTHIA_IDS, unknown="ignore", channel="red", bits=16)
    folder = label_folder(base, labels, "SYNTHIA's labels")
    files, label_map = find_encoded(folder, {".png": ids, "_labelTrainIds.png": TRAIN_IDS})
    pairs = listed(images, files, list, root=base, split=split, format_name="synthia")
    return PairedFiles(*pairs, label_map=label_map, size=size, resize=resize)
