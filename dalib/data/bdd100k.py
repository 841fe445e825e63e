"""BDD100K: dash cameras all over the United States (Yu et al. 2020), the 10,000 images for segmentation."""

from typing import Literal

from dalib.data.decode import Size
from dalib.data.encodings import TRAIN_IDS
from dalib.data.files import check_split, existing_folder, find_images, find_labels, label_folder, root_folder
from dalib.data.pairs import PairedFiles
from dalib.data.reframe import Resize


def bdd100k(
    *,
    root: str,
    split: str | None = None,
    size: Size | None = None,
    resize: Resize = "squeeze",
    labels: Literal["own"] | None = "own",
) -> PairedFiles:
    """Open ``root/images/10k/SPLIT`` and ``root/labels/sem_seg/masks/SPLIT``, or the first archive's ``root/seg``.

    Its labels are ``root/seg/labels/SPLIT/*_train_id.png``. Both store train ids; the test split is all 255.

    Args:
        split: train (default), val or test.
        size: (H, W) to resize to; None keeps 720 x 1280. resize: how, where the shape differs.
        labels: None: images alone.
    """
    split = check_split(split, "bdd100k")
    base = root_folder(root, "BDD100K with images/10k/ and labels/sem_seg/masks/, or with seg/")
    photos, masks, ending = "images/10k", "labels/sem_seg/masks", ".png"
    if (base / "seg").is_dir():
        photos, masks, ending = "seg/images", "seg/labels", "_train_id.png"
    images = find_images(existing_folder(base / photos / split, f"BDD100K's {split} images"))
    folder = label_folder(base, None if split == "test" else labels and f"{masks}/{split}", f"BDD100K's {split} labels")
    files = None if folder is None else find_labels(folder, ending=ending)
    return PairedFiles(images, files, label_map=TRAIN_IDS, size=size, resize=resize)
