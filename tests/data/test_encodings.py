"""From stored ids and colours to train ids."""

from pathlib import Path

import pytest
import torch
from cityscapesscripts.helpers.labels import labels as official_labels

from dalib.data.encodings import CITYSCAPES_IDS, CityscapesIds, ColorMap, IdMap, identity
from dalib.errors import DataError
from dalib.labels import CITYSCAPES_CLASSES, CITYSCAPES_PALETTE

FILE = Path("a label.png")


def test_cityscapes_table_equals_the_official_one():
    scored = sorted((label for label in official_labels if 0 <= label.trainId < 255), key=lambda label: label.trainId)
    assert tuple(label.name for label in scored) == CITYSCAPES_CLASSES
    assert tuple(label.color for label in scored) == CITYSCAPES_PALETTE
    assert {label.id: label.trainId for label in scored} == CITYSCAPES_IDS


def test_every_id_goes_where_the_map_says_and_the_rest_is_ignored():
    stored = torch.arange(256, dtype=torch.uint8)[None, None]
    label = IdMap(CITYSCAPES_IDS, unknown="ignore")(stored, FILE)
    assert label.dtype == torch.uint8
    assert label[0].tolist() == [CITYSCAPES_IDS.get(i, 255) for i in range(256)]


def test_ids_are_not_doubted_where_a_class_beyond_pole_occurs_or_most_pixels_have_one():
    pixels = torch.zeros(256, dtype=torch.int64)
    pixels[0], pixels[255] = 40, 60
    assert "60 % of the pixels ignored" in str(CityscapesIds().doubt(pixels))
    for train_id, ignored in ((10, 60), (0, 40)):
        likely = pixels.clone()
        likely[train_id] += 1
        likely[255] = ignored
        assert CityscapesIds().doubt(likely) is None
    pixels[0] = 0
    assert CityscapesIds().doubt(pixels) is None  # nothing is labelled


def test_id_in_a_channel_and_sixteen_bits():
    stored = torch.tensor([[[3]], [[300]], [[1]]]).to(torch.uint16)
    assert IdMap({300: 7}, channel="green", bits=16)(stored, FILE).tolist() == [[7]]


def test_painted_labels_equal_a_lookup_pixel_by_pixel():
    colors = {(0, 0, 0): 255, (255, 255, 255): 3, (1, 2, 3): 0, (3, 2, 1): 18}
    generator = torch.Generator().manual_seed(0)
    palette = torch.tensor([*colors, (9, 9, 9)], dtype=torch.uint8)
    stored = palette[torch.randint(5, (12, 10), generator=generator)].permute(2, 0, 1)
    expected = [[colors.get(tuple(pixel.tolist()), 255) for pixel in row] for row in stored.permute(1, 2, 0)]
    assert ColorMap(colors, unknown="ignore")(stored, FILE).tolist() == expected
    with_alpha = torch.cat([stored, stored[:1]])
    assert ColorMap(colors, unknown="ignore")(with_alpha, FILE).tolist() == expected


GREY = torch.tensor([[[0, 19, 20, 255]]], dtype=torch.uint8)
MISFITS = {
    "unknown id": (identity(19), GREY, "only class ids that the label map names, or 255; found 19, 20"),
    "16 bits": (identity(19), GREY.to(torch.uint16), "a label of 8 bits, found 16 bits; use the dataset `folder`"),
    "rgb": (identity(19), GREY.expand(3, 1, 4), "class ids in one channel, found RGB; use the dataset `folder`"),
    "rgba": (identity(19), GREY.expand(4, 1, 4), "class ids in one channel, found RGBA"),
    "one channel": (IdMap({0: 0}, channel="red"), GREY, "in the red channel of an RGB image, found one channel"),
    "unknown colour": (ColorMap({(0, 0, 0): 1}), GREY.expand(3, 1, 4), "found 19,19,19; 20,20,20; 255,255,255"),
    "no colours": (ColorMap({(0, 0, 0): 1}), GREY, "painted in 8-bit RGB colours, found one channel of 8 bits"),
}


@pytest.mark.parametrize(("label_map", "stored", "text"), MISFITS.values(), ids=MISFITS)
def test_label_that_does_not_fit_the_map_is_an_error(label_map, stored, text):
    with pytest.raises(DataError) as caught:
        label_map(stored, FILE)
    assert text in str(caught.value)
    assert str(caught.value).startswith("a label.png: expected ")
