"""BDD100K: dash cameras all over the United States (Yu et al. 2020), the 10,000 images for segmentation."""

from dalib.data.decode import Size
from dalib.data.encodings import TRAIN_IDS
from dalib.data.files import check_split, existing_folder, find_images, find_labels, root_folder
from dalib.data.pairs import PairedFiles
from dalib.data.reframe import Resize


def bdd100k(
    *, root: str, split: str | None = None, size: Size | None = None, resize: Resize = "squeeze"
) -> PairedFiles:
    """Open ``root/images/10k/SPLIT`` and ``root/labels/sem_seg/masks/SPLIT``, or the first archive's ``root/seg``.

    Its labels are ``root/seg/labels/SPLIT/*_train_id.png``. Both store train ids; the test split is all 255.

    Args:
        split: train (default), val or test.
        size: (H, W) to resize to; None keeps 720 x 1280. resize: how, where the shape differs.
    """
    split = check_split(split, "bdd100k")
    base = root_folder(root, "BDD100K with images/10k/ and labels/sem_seg/masks/, or with seg/")
    first = base / "seg"
    if first.is_dir():
        image_folder, label_folder, ending = first / "images" / split, first / "labels" / split, "_train_id.png"
    else:
        image_folder, ending = base / "images" / "10k" / split, ".png"
        label_folder = base / "labels" / "sem_seg" / "masks" / split
    images = find_images(existing_folder(image_folder, f"BDD100K's {split} images"))
    if split != "test":
        existing_folder(label_folder, f"BDD100K's {split} labels")
    labels = None if split == "test" else find_labels(label_folder, ending=ending)
    return PairedFiles(images, labels, label_map=TRAIN_IDS, size=size, resize=resize)
