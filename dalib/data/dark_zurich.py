"""Dark Zurich: drives through Zurich by night, at twilight and by day (Sakaridis et al. 2019)."""

from typing import Literal

from dalib.data.decode import Size
from dalib.data.encodings import TRAIN_IDS
from dalib.data.files import check_split, existing_folder, find_images, find_labels, root_folder
from dalib.data.pairs import PairedFiles
from dalib.data.reframe import Resize


def dark_zurich(
    *,
    root: str,
    split: str | None = None,
    size: Size | None = None,
    resize: Resize = "squeeze",
    time: Literal["night", "twilight", "day"] = "night",
) -> PairedFiles:
    """Open ``root/rgb_anon/SPLIT/TIME``; of val there are labels, ``root/gt/val/night/*/*_gt_labelTrainIds.png``.

    Train and test are all 255.

    Args:
        split: train (default), val or test.
        size: (H, W) to resize to; None keeps 1080 x 1920. resize: how, where the shape differs.
        time: of day; val and test are of the night alone.
    """
    split = check_split(split, "dark_zurich")
    base = root_folder(root, "Dark Zurich with rgb_anon/ and gt/")
    folder = existing_folder(base / "rgb_anon" / split / time, "Dark Zurich's images")
    images = find_images(folder, ending="_rgb_anon.png")
    label_folder = base / "gt" / split / time
    labels = find_labels(label_folder, ending="_gt_labelTrainIds.png") if split == "val" else None
    return PairedFiles(images, labels, label_map=TRAIN_IDS, size=size, resize=resize)
