"""CamVid: drives through Cambridge (Brostow et al. 2009), in its original layout and in SegNet's."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from dalib.data.decode import Size
from dalib.data.encodings import ColorMap, IdMap
from dalib.data.files import check_split, existing_folder, find_images, find_labels, root_folder
from dalib.data.pairs import PairedFiles
from dalib.data.reframe import Resize
from dalib.errors import DataError
from dalib.labels import CITYSCAPES_CLASSES, IGNORE, Color

# The 11 classes of SegNet (Badrinarayanan et al. 2017) by the colours that the original labels paint them in: several
# of the 32 original classes make one. Void, and whatever colour is not here, is ignored.
_COLORS: dict[str, tuple[Color, ...]] = {
    "sky": ((128, 128, 128),),
    "building": ((128, 0, 0), (192, 0, 128), (0, 128, 64), (64, 0, 64), (64, 192, 0)),  # archway bridge tunnel wall
    "pole": ((192, 192, 128), (0, 0, 64)),  # traffic cone
    "road": ((128, 64, 128), (128, 0, 192), (192, 0, 64)),  # lane markings
    "sidewalk": ((0, 0, 192), (64, 192, 128), (128, 128, 192)),  # parking block, road shoulder
    "vegetation": ((128, 128, 0), (192, 192, 0)),
    "traffic sign": ((192, 128, 128), (128, 128, 64), (0, 64, 64)),  # text, traffic light
    "fence": ((64, 64, 128),),
    "car": ((64, 0, 128), (64, 128, 192), (192, 128, 192), (192, 64, 128), (128, 64, 64)),  # all vehicles
    "person": ((64, 64, 0), (192, 128, 64), (64, 0, 192), (64, 128, 64)),  # child, pram, animal
    "rider": ((0, 128, 192), (192, 0, 192)),  # bicyclist, motorcycle with its rider
}
_TRAIN_IDS = {name: CITYSCAPES_CLASSES.index(name) for name in _COLORS}
_COLOR_MAP = ColorMap({c: _TRAIN_IDS[name] for name, colors in _COLORS.items() for c in colors}, unknown="ignore")
_ID_MAP = IdMap({**dict(enumerate(_TRAIN_IDS.values())), 11: IGNORE})  # SegNet's ids follow the order above


def camvid(
    *,
    root: str,
    split: str | None = None,
    size: Size | None = None,
    resize: Resize = "squeeze",
    labels: Literal["own"] | None = "own",
) -> PairedFiles:
    """Open ``SPLIT/`` and ``SPLITannot/`` (ids), or ``701_StillsRaw_full`` and ``LabeledApproved_full`` (colours).

    Both give the same 11 classes of Cityscapes and the same splits, those of SegNet: 367, 101 and 233 frames.

    Args:
        split: train (default), val or test.
        size: (H, W) to resize to; None keeps 360 x 480, in the original layout 720 x 960. resize: how, where the shape
            differs.
        labels: None: images alone.
    """
    split = check_split(split, "camvid")
    base = root_folder(root, "CamVid with train/ and trainannot/, or with 701_StillsRaw_full/")
    stills = base / "701_StillsRaw_full"
    if stills.is_dir():
        images = _of_split(find_images(stills), split)
        if labels is None:
            return PairedFiles(images, None, label_map=_COLOR_MAP, size=size, resize=resize)
        painted = existing_folder(base / "LabeledApproved_full", "CamVid's painted labels")
        files = _of_split(find_labels(painted, ending="_L.png"), split)
        return PairedFiles(images, files, label_map=_COLOR_MAP, size=size, resize=resize)
    images = find_images(existing_folder(base / split, f"CamVid's {split} images, or 701_StillsRaw_full/ beside it"))
    if labels is None:
        return PairedFiles(images, None, label_map=_ID_MAP, size=size, resize=resize)
    annotations = existing_folder(base / f"{split}annot", f"CamVid's {split} labels")
    return PairedFiles(images, find_labels(annotations), label_map=_ID_MAP, size=size, resize=resize)


def _of_split(files: Mapping[str, Path], split: str) -> dict[str, Path]:
    chosen = {key: file for key, file in files.items() if split_of(file.stem) == split}
    if not chosen:
        raise DataError(f"camvid: expected frames of the split {split!r}, such as 0006R0_f00930.png, found none.")
    return chosen


def split_of(frame: str) -> str:
    """SegNet's split of a frame of the original layout, by its sequence and number, e.g. ``0016E5_07959``."""
    sequence, _, number = frame.removesuffix("_L").rpartition("_")
    count = int("".join(filter(str.isdecimal, number)) or 0)
    if sequence == "0016E5":
        return "val" if 7959 <= count <= 8159 else "train"  # the stretch that is labelled at 15 Hz
    if sequence == "0001TP":
        return "train" if count <= 8520 else "test"
    return "train" if sequence == "0006R0" else "test"
