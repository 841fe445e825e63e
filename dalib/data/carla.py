"""CARLA's own camera folders: CameraRGB and CameraSeg, as simulator versions up to 0.8 write them."""

from pathlib import Path

from torch import Tensor

from dalib.data.decode import Size
from dalib.data.encodings import IdMap
from dalib.data.files import existing_folder, find_images, find_labels, label_folder, root_folder
from dalib.data.lists import listed
from dalib.data.pairs import PairedFiles
from dalib.data.reframe import Resize
from dalib.labels import CITYSCAPES_CLASSES, IGNORE

# fmt: off
CARLA_IDS = {
    0: IGNORE, 3: IGNORE,  # none (sky and grass too) and other
    1: 2, 2: 4, 4: 11, 5: 5, 6: 0, 7: 0, 8: 1, 9: 8, 10: 13, 11: 2, 12: 7,
}
# fmt: on
"""CARLA 0.8's ids to Cityscapes' train ids: walls are building, lane markings road, all vehicles car."""


def carla(
    *,
    root: str,
    split: str | None = None,
    size: Size | None = None,
    resize: Resize = "squeeze",
    list: str | None = None,
    labels: str | None = "CameraSeg",
    sky_from_top: bool = False,
    ignore_hood: bool = False,
) -> PairedFiles:
    """Open ``root/CameraRGB`` and ``root/CameraSeg``: files of the same names, the id in the labels' red channel.

    Later versions of CARLA number other classes: an id above 12 is an error. They are read by ``folder`` with a label
    map of their own that says ``channel: red``.

    Args:
        split: None is everything; others need ``list``.
        size: (H, W) to resize to; None keeps the camera's own. resize: how, where the shape differs.
        list: a text file with an image name per line; may contain ``{split}``.
        labels: folder of the labels below ``root``; None: images alone.
        sky_from_top: CARLA 0.8 has no id for sky; label as sky the pixels without id between the top of each column
            and its first labelled pixel. By default they are ignored.
        ignore_hood: a camera on the roof sees the ego vehicle's hood, which CARLA labels car; ignore the car pixels
            between the bottom of each column and its first pixel of another class.
    """
    base = root_folder(root, "CARLA recordings with CameraRGB/ and CameraSeg/")
    images = find_images(existing_folder(base / "CameraRGB", "CARLA's images"))
    folder = label_folder(base, labels, "CARLA's labels")
    files = None if folder is None else find_labels(folder)
    pairs = listed(images, files, list, root=base, split=split, format_name="carla")
    return PairedFiles(*pairs, label_map=_CarlaMap(sky_from_top, ignore_hood), size=size, resize=resize)


class _CarlaMap(IdMap):
    """CARLA's ids, with the sky and the ego vehicle's hood told apart by their position."""

    def __init__(self, sky_from_top: bool, ignore_hood: bool) -> None:
        super().__init__(CARLA_IDS, channel="red")
        self.sky_from_top = sky_from_top
        self.ignore_hood = ignore_hood

    def __call__(self, stored: Tensor, file: Path) -> Tensor:
        label = super().__call__(stored, file)
        if self.sky_from_top:
            label = label.masked_fill(_from_top(stored[0] == 0), CITYSCAPES_CLASSES.index("sky"))
        if self.ignore_hood:
            label = label.masked_fill(_from_top(stored[0].flip(0) == 10).flip(0), IGNORE)
        return label


def _from_top(mask: Tensor) -> Tensor:
    """Return the unbroken run of true pixels at the top of each column, (H, W) bool."""
    return mask.logical_not().cummax(dim=0).values.logical_not()
