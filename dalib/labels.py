"""Conventions for labels (train ids): 255 = ignore; Cityscapes' class names and colours are the default."""

Color = tuple[int, int, int]
"""Red, green and blue in 0..255."""

IGNORE = 255

# fmt: off
CITYSCAPES_CLASSES = (
    "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation", "terrain",
    "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle",
)
CITYSCAPES_PALETTE: tuple[Color, ...] = (
    (128, 64, 128), (244, 35, 232), (70, 70, 70), (102, 102, 156), (190, 153, 153), (153, 153, 153), (250, 170, 30),
    (220, 220, 0), (107, 142, 35), (152, 251, 152), (70, 130, 180), (220, 20, 60), (255, 0, 0), (0, 0, 142),
    (0, 0, 70), (0, 60, 100), (0, 80, 100), (0, 0, 230), (119, 11, 32),
)
# fmt: on


def default_classes(num_classes: int) -> tuple[str, ...]:
    """Return Cityscapes' names for its 19 classes, numbers for any other count."""
    return CITYSCAPES_CLASSES if num_classes == len(CITYSCAPES_CLASSES) else tuple(map(str, range(num_classes)))
