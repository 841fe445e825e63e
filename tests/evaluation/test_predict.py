"""Predictions for images from files."""

import json

import numpy
import pytest
import torch
from PIL import Image
from torch import nn

from dalib.data.decode import resize_image
from dalib.data.palette import blend
from dalib.errors import DataError
from dalib.evaluation.evaluate import evaluate
from dalib.evaluation.predict import predict_images
from dalib.labels import CITYSCAPES_CLASSES, CITYSCAPES_PALETTE


class Brightness(nn.Module):
    """Class 0 where the red channel is dark, class 1 where it is bright."""

    def forward(self, x):
        self.seen = tuple(x.shape)
        red = x[:, :1]
        return torch.cat([0.5 - red, red - 0.5, torch.full_like(red, -9.0)], 1)


class LargerLabels(list):
    labels_at_own_size = True


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


def near(picture, expected):
    """Whether a JPEG shows what is expected, up to its loss, which is largest at edges."""
    return (picture.float() - expected.float()).abs().mean() < 6


def test_folder_gives_blend_and_label_at_each_images_size(tmp_path):
    image = picture(tmp_path / "in" / "rue de l'été" / "a.png", 160, 320)
    picture(tmp_path / "in" / "b.png", 7, 5)
    done = predict(Brightness(), tmp_path / "in", tmp_path / "out")
    assert [str(p.relative_to(tmp_path / "out")) for p in done.blends] == ["b_blend.jpg", "rue de l'été/a_blend.jpg"]
    label = read(tmp_path / "out" / "labels" / "rue de l'été" / "a.png")
    expected = (image[0] > 127).to(torch.uint8)
    assert torch.equal(label, expected) and read(tmp_path / "out" / "labels" / "b.png").shape == (7, 5)
    mixed = read(done.blends[1]).movedim(-1, 0)
    assert near(mixed[:, :160], blend(image, expected, CITYSCAPES_PALETTE))


def test_below_the_blend_stand_the_classes_that_occur_in_their_colours(tmp_path):
    picture(tmp_path / "a.png", 40, 400)
    (path,) = predict(Brightness(), tmp_path / "a.png", tmp_path / "out").blends
    strip = read(path)[40:]
    assert strip.shape[0] > 12 and strip.shape[1] == 400
    for color, occurs in ((CITYSCAPES_PALETTE[0], True), (CITYSCAPES_PALETTE[1], True), (CITYSCAPES_PALETTE[8], False)):
        close = (strip.int() - torch.tensor(color)).abs().amax(-1) < 25
        assert (close.sum() > 50) == occurs


def test_legend_names_every_id(tmp_path):
    picture(tmp_path / "a.png", 4, 4)
    predict(Brightness(), tmp_path / "a.png", tmp_path / "out")
    legend = json.loads((tmp_path / "out" / "classes.json").read_text())
    assert legend[1] == {"id": 1, "name": "sidewalk", "color": [244, 35, 232]}


@pytest.mark.parametrize(
    ("own", "size", "resize", "seen"),
    [
        ((12, 20), (6, 10), "squeeze", (6, 10)),
        ((15, 20), (6, 12), "squeeze", (6, 12)),
        ((40, 20), (5, 10), "squeeze", (10, 5)),
        ((12, 20), (6, 20), "fit", (6, 10)),
        ((12, 20), (6, 20), "crop", (12, 20)),
    ],
    ids=["its shape", "almost its shape", "a portrait", "fitted", "cropped"],
)
def test_network_sees_the_size_given_in_the_images_shape_and_the_output_has_the_images_own(
    own, size, resize, seen, tmp_path
):
    picture(tmp_path / "a.png", *own)
    model = Brightness()
    predict(model, tmp_path / "a.png", tmp_path / "out", size=size, resize=resize)
    assert model.seen == (1, 3, *seen)
    assert read(tmp_path / "out" / "labels" / "a.png").shape == own


@pytest.mark.parametrize("protocol", ["full", "advent"])
def test_predictions_are_those_that_the_model_is_scored_by(protocol, tmp_path):
    random = torch.randint(0, 256, (3, 90, 170), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    Image.fromarray(random.movedim(0, -1).numpy()).save(tmp_path / "a.png")
    torch.manual_seed(0)
    model = nn.Conv2d(3, 19, 3, padding=1)
    predict(model, tmp_path / "a.png", tmp_path / "out", size=(45, 85), protocol=protocol)
    label = read(tmp_path / "out" / "labels" / "a.png")
    scored = evaluate(model, LargerLabels([(resize_image(random, (45, 85)), label)]), protocol=protocol)
    assert scored.miou == 1.0


def test_a_large_image_is_seen_in_windows(tmp_path, monkeypatch):
    monkeypatch.setattr("dalib.evaluation.predict.LARGE", 100 * 100)
    monkeypatch.setattr("dalib.evaluation.predict.WINDOW", (64, 64))
    monkeypatch.setattr("dalib.evaluation.predict.STRIDE", (48, 48))
    image = picture(tmp_path / "a.png", 110, 120)
    model = Brightness()
    predict(model, tmp_path / "a.png", tmp_path / "out")
    assert model.seen == (1, 3, 64, 64)
    assert torch.equal(read(tmp_path / "out" / "labels" / "a.png"), (image[0] > 127).to(torch.uint8))
    predict(model, tmp_path / "a.png", tmp_path / "out", size=(110, 120))  # as large as those it was trained on
    assert model.seen == (1, 3, 110, 120)


def test_of_several_inputs_each_folder_has_one_of_its_own(tmp_path):
    for name in ("one/a.png", "two/a.png", "b.png"):
        picture(tmp_path / name, 4, 4)
    inputs = [tmp_path / name for name in ("one", "two", "b.png")]
    assert len(predict(Brightness(), inputs, tmp_path / "out").blends) == 3
    labels = tmp_path / "out" / "labels"
    assert all((labels / name).is_file() for name in ("one/a.png", "two/a.png", "b.png"))


@pytest.mark.parametrize(
    ("files", "inputs", "names"),
    [
        (["a.png", "a.jpg", "b.png"], ["a.png", "a.jpg", "b.png"], ["a_png", "a_jpg", "b"]),
        (["a.png", "a.jpg", "b.png"], ["."], ["a_jpg", "a_png", "b"]),
        (["one/a.png", "two/a.png"], ["one/a.png", "two/../two/a.png"], ["one/a", "two/a"]),
        (["a.png", "a.jpg", "two/a.png"], ["a.png", "a.jpg", "two/a.png"], ["in/a", "a_jpg", "two/a"]),
        (["a.png", "a.jpg", "a_png.jpg"], ["."], ["a_jpg", "a_png", "a_png_jpg"]),
        (["a.png", "b.png"], ["a.png", ".", "a.png"], ["a", "in/b"]),
    ],
    ids=["two types", "in a folder", "two folders", "both", "a name that is taken", "one twice"],
)
def test_images_of_one_name_get_names_of_their_own_and_one_given_twice_is_done_once(
    files, inputs, names, tmp_path, caplog
):
    heights = {}
    for height, name in enumerate(files, start=4):
        picture(tmp_path / "in" / name, height, 4)
        heights[name] = height
    done = predict(Brightness(), [tmp_path / "in" / name for name in inputs], tmp_path / "out")
    assert [str(path.relative_to(tmp_path / "out")) for path in done.blends] == [f"{name}_blend.jpg" for name in names]
    labels = tmp_path / "out" / "labels"
    assert sorted(p for p in labels.rglob("*.png")) == sorted(labels / f"{name}.png" for name in names)
    assert sorted(read(labels / f"{name}.png").shape[0] for name in names) == sorted(heights.values())
    twice = [f"given more than once, predicted once: {tmp_path / 'in' / 'a.png'}"] if "." in inputs[1:] else []
    assert caplog.messages == twice


def test_images_that_no_name_tells_apart_are_both_named_before_anything_is_written(tmp_path):
    inputs = [tmp_path / name for name in ("x/one/a.png", "y/one/a.png")]
    for path in inputs:
        picture(path, 4, 4)
    said = r"y/one/a\.png: its files would be named one/a_png, as those of .*x/one/a\.png are; predict one of them into"
    for given in (inputs, [path.parent for path in inputs]):
        with pytest.raises(DataError, match=said):
            predict(Brightness(), given, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_what_cannot_be_read_is_skipped_and_named(tmp_path):
    picture(tmp_path / "in" / "b.png", 4, 4)
    (tmp_path / "in" / "a.png").write_text("not an image")
    calls = []
    done = predict(Brightness(), tmp_path / "in", tmp_path / "out", progress=lambda *counts: calls.append(counts))
    assert [path.name for path in done.blends] == ["b_blend.jpg"] and calls == [(1, 2), (2, 2)]
    assert list(done.skipped) == [tmp_path / "in" / "a.png"]
    assert done.skipped[tmp_path / "in" / "a.png"].startswith(f"{tmp_path / 'in' / 'a.png'}: expected a whole ")


def test_labels_that_somebody_made_are_not_replaced(tmp_path):
    for part in ("images", "labels"):
        picture(tmp_path / part / "a.png", 4, 4)
    with pytest.raises(DataError, match=r"labels holds files that are no predictions"):
        predict(Brightness(), tmp_path / "images", tmp_path)
    predict(Brightness(), tmp_path / "images", tmp_path / "out")
    assert len(predict(Brightness(), tmp_path / "images", tmp_path / "out").blends) == 1  # over those of its own


def test_a_second_run_into_a_subfolder_leaves_its_own_output_out(tmp_path):
    picture(tmp_path / "a.png", 4, 4)
    first = predict(Brightness(), tmp_path, tmp_path / "out")
    assert predict(Brightness(), tmp_path, tmp_path / "out") == first


def test_what_is_no_image_is_an_error(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.png").write_text("not an image")
    for inputs, message in {"empty": "found none", "missing": "found nothing", "text.png": r"text\.png"}.items():
        with pytest.raises(DataError, match=message):
            predict(Brightness(), tmp_path / inputs, tmp_path / "out")
    with pytest.raises(DataError, match="among their own inputs"):
        predict(Brightness(), tmp_path, tmp_path)
    assert not list((tmp_path).glob("out/*"))
