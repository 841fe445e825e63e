"""Dark Zurich: drives through Zurich by night, at twilight and by day (Sakaridis et al. 2019)."""

from typing import Literal

from dalib.data.decode import Size
from dalib.data.encodings import TRAIN_IDS
from dalib.data.files import (
    check_split,
    existing_folder,
    find_images,
    find_labels,
    label_folder,
    no_reference,
    root_folder,
)
from dalib.data.pairs import PairedFiles
from dalib.data.reframe import Resize
from dalib.errors import DataError


def dark_zurich(
    *,
    root: str,
    split: str | None = None,
    size: Size | None = None,
    resize: Resize = "squeeze",
    labels: str | None = "gt",
    time: Literal["night", "twilight", "day"] = "night",
) -> PairedFiles:
    """Open ``root/rgb_anon/SPLIT/TIME``; of val there are labels, ``root/gt/val/night/*/*_gt_labelTrainIds.png``.

    Train and test are all 255.

    Args:
        split: train (default), val or test.
        size: (H, W) to resize to; None keeps 1080 x 1920. resize: how, where the shape differs.
        labels: folder of the labels below ``root``; None: images alone.
        time: of day; val and test are of the night alone.
    """
    if split and split.endswith("_ref"):
        raise no_reference("dark_zurich", split, f"{root}/rgb_anon/{split}/day")
    split = check_split(split, "dark_zurich")
    base = root_folder(root, "Dark Zurich with rgb_anon/ and gt/")
    if split != "train" and time != "night":
        raise DataError(
            f"dark_zurich: expected `time: night` with the split {split!r}, which has no other, found {time!r}. Frames "
            "at twilight and by day are in `split: train`, without labels; to score, give data.eval `time: night`."
        )
    folder = existing_folder(base / "rgb_anon" / split / time, "Dark Zurich's images")
    images = find_images(folder, ending="_rgb_anon.png")
    gt = label_folder(base, labels if split == "val" else None, "Dark Zurich's labels")
    files = None if gt is None else find_labels(gt / split / time, ending="_gt_labelTrainIds.png")
    return PairedFiles(images, files, label_map=TRAIN_IDS, size=size, resize=resize)
