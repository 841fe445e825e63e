"""ACDC: streets in fog, at night, in rain and in snow (Sakaridis et al. 2021)."""

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

CONDITIONS = ("fog", "night", "rain", "snow")


def acdc(
    *,
    root: str,
    split: str | None = None,
    size: Size | None = None,
    resize: Resize = "squeeze",
    labels: str | None = "gt",
    condition: Literal["fog", "night", "rain", "snow"] | None = None,
) -> PairedFiles:
    """Open ``root/rgb_anon/CONDITION/SPLIT`` and ``root/gt``, whose labels are ``*_gt_labelTrainIds.png``.

    The same places in clear weather, ``*_ref``, are not among them; ``folder`` reads those. The test split is all 255.

    Args:
        split: train (default), val or test.
        size: (H, W) to resize to; None keeps 1080 x 1920. resize: how, where the shape differs.
        labels: folder of the labels below ``root``; None: images alone.
        condition: one of the four; None is all.
    """
    if split and split.endswith("_ref"):
        raise no_reference("acdc", split, f"{root}/rgb_anon/{condition or 'fog'}/{split}")
    split = check_split(split, "acdc")
    base = root_folder(root, "ACDC with rgb_anon/ and gt/")
    within = [f"{each}/{split}" for each in ([condition] if condition else CONDITIONS)]
    folder = existing_folder(base / "rgb_anon", "ACDC's images")
    for each in within:
        existing_folder(folder / each, "ACDC's images", "`root`, or name the one `condition` that is there")
    images = find_images(folder, ending="_rgb_anon.png", within=within)
    gt = label_folder(base, None if split == "test" else labels, "ACDC's labels")
    files = None if gt is None else find_labels(gt, ending="_gt_labelTrainIds.png", within=within)
    return PairedFiles(images, files, label_map=TRAIN_IDS, size=size, resize=resize)
