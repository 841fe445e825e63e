"""Predictions for images from files."""

import json

import numpy
import pytest
import torch
from PIL import Image
from torch import nn

from dalib.data.palette import blend, colorize
from dalib.errors import DataError
from dalib.evaluation.predict import predict_images
from dalib.labels import CITYSCAPES_CLASSES, CITYSCAPES_PALETTE


class Brightness(nn.Module):
    """Class 0 where the red channel is dark, class 1 where it is bright."""

    def forward(self, x):
        self.seen = tuple(x.shape)
        red = x[:, :1]
        return torch.cat([0.5 - red, red - 0.5, torch.full_like(red, -9.0)], 1)


def picture(path, height, width):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    image[:, :, width // 2 :] = 255
    Image.fromarray(image.movedim(0, -1).numpy()).save(path)
    return image


def read(path):
    return torch.from_numpy(numpy.array(Image.open(path)))


def predict(model, inputs, out, **options):
    return predict_images(model, inputs, out, palette=CITYSCAPES_PALETTE, classes=CITYSCAPES_CLASSES, **options)


def test_folder_gives_label_colour_and_blend_at_each_images_size(tmp_path):
    image = picture(tmp_path / "in" / "rue de l'été" / "a.png", 10, 16)
    picture(tmp_path / "in" / "b.png", 7, 5)
    written = predict(Brightness(), tmp_path / "in", tmp_path / "out")
    assert [str(p.relative_to(tmp_path / "out")) for p in written] == [
        *("b_label.png", "b_color.png", "b_blend.png"),
        *(f"rue de l'été/a_{kind}.png" for kind in ("label", "color", "blend")),
    ]
    label, color, mixed = (read(p) for p in written[3:])
    expected = (image[0] > 127).to(torch.uint8)
    assert torch.equal(label, expected)
    assert torch.equal(color.movedim(-1, 0), colorize(expected, CITYSCAPES_PALETTE))
    assert torch.equal(mixed.movedim(-1, 0), blend(image, expected, CITYSCAPES_PALETTE))
    assert read(written[0]).shape == (7, 5)


def test_legend_names_every_id(tmp_path):
    picture(tmp_path / "a.png", 4, 4)
    predict(Brightness(), tmp_path / "a.png", tmp_path / "out")
    legend = json.loads((tmp_path / "out" / "classes.json").read_text())
    assert legend[1] == {"id": 1, "name": "sidewalk", "color": [244, 35, 232]}


def test_network_sees_the_size_given_and_the_output_has_the_images_own(tmp_path):
    picture(tmp_path / "a.png", 12, 20)
    model = Brightness()
    written = predict(model, tmp_path / "a.png", tmp_path / "out", size=(6, 10))
    assert model.seen == (1, 3, 6, 10)
    assert read(written[0]).shape == (12, 20)


def test_a_second_run_into_a_subfolder_leaves_its_own_output_out(tmp_path):
    picture(tmp_path / "a.png", 4, 4)
    first = predict(Brightness(), tmp_path, tmp_path / "out")
    assert predict(Brightness(), tmp_path, tmp_path / "out") == first


def test_two_images_of_one_name_are_an_error_before_anything_is_written(tmp_path):
    picture(tmp_path / "in" / "a.png", 4, 4)
    picture(tmp_path / "in" / "a.jpg", 4, 4)
    with pytest.raises(DataError, match=r"a\.png.*one file of this name.*a\.jpg"):
        predict(Brightness(), tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_is_no_image_is_an_error(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.png").write_text("not an image")
    for inputs, message in {"empty": "found none", "missing": "found nothing", "text.png": r"text\.png"}.items():
        with pytest.raises(DataError, match=message):
            predict(Brightness(), tmp_path / inputs, tmp_path / "out")
    with pytest.raises(DataError, match="among their own inputs"):
        predict(Brightness(), tmp_path, tmp_path)
    assert not list((tmp_path).glob("out/*"))
