"""Pictures and labels of another shape than the size that is asked for."""

import numpy as np
import pytest
import torch
from PIL import Image

from dalib.data.encodings import identity
from dalib.data.folder import folder
from dalib.data.pairs import PairedFiles
from dalib.data.reframe import frame, native_size

WIDE = np.zeros((10, 40, 3), np.uint8)  # four squares of one colour each
for number in range(4):
    WIDE[:, 10 * number : 10 * number + 10] = 10 + 60 * number
IDS = (WIDE[..., 0] // 60).astype(np.uint8)  # 0 1 2 3


@pytest.fixture
def pair(save):
    return {"a": save("images/a.png", WIDE)}, {"a": save("labels/a.png", IDS)}


def opened(pair, how, size):
    return PairedFiles(*pair, label_map=identity(4), size=size, resize=how)


def test_squeeze_keeps_all_of_the_picture_and_changes_its_shape(pair):
    image, label = opened(pair, "squeeze", (20, 20))[0]
    assert label[0].tolist() == [0] * 5 + [1] * 5 + [2] * 5 + [3] * 5
    assert image.shape == (3, 20, 20)


def test_fit_keeps_the_shape_in_a_margin_of_the_edges_colour_that_is_ignored(pair):
    image, label = opened(pair, "fit", (20, 20))[0]
    assert label[0].unique().tolist() == label[-1].unique().tolist() == [255]
    inside = label != 255
    assert inside.sum(0).unique().tolist() == [5] and inside[7:12].all()
    assert label[9].tolist() == [0] * 5 + [1] * 5 + [2] * 5 + [3] * 5
    assert torch.equal(image[:, 0], image[:, 7]) and torch.equal(image[:, -1], image[:, 11])


def test_crop_takes_the_middle_in_the_sizes_shape(pair):
    image, label = opened(pair, "crop", (20, 20))[0]
    assert label[0].tolist() == [1] * 10 + [2] * 10
    assert image[0, 0, :9].unique().tolist() == [70]


@pytest.mark.parametrize("size", [(20, 20), (8, 30), (64, 16), (7, 11), (1, 1)])
@pytest.mark.parametrize("how", ["squeeze", "fit", "crop"])
def test_image_and_label_stay_on_one_another_at_any_size(pair, how, size):
    image, label = opened(pair, how, size)[0]
    assert image.shape == (3, *size) and label.shape == size
    sure = torch.stack([(image[0].int() - 10 - 60 * i).abs() < 4 for i in range(4)]) & (label != 255)
    for i in range(4):
        assert (label[sure[i]] == i).all()


@pytest.mark.parametrize(("how", "size"), [("fit", (20, 20)), ("crop", (20, 20)), ("fit", (5, 40)), ("crop", (5, 40))])
def test_evaluation_has_labels_of_the_files_own_pixels_in_the_shape_of_the_images(pair, how, size):
    image, label = opened(pair, how, size).for_evaluation()[0]
    assert image.shape[1:] == size
    assert label.shape[0] * size[1] == label.shape[1] * size[0]
    own = torch.from_numpy(IDS)
    if how == "fit":
        assert torch.equal(label[label != 255], own.flatten()) and label.shape in ((40, 40), (10, 80))
    else:
        assert torch.equal(label, own[:, 15:25] if size == (20, 20) else own[2:7])


def test_a_margin_has_no_id_so_that_a_map_of_255_or_of_colours_does_not_see_it(save, tmp_path):
    save("images/a.png", WIDE)
    save("labels/a.png", np.where(IDS == 3, 255, 0).astype(np.uint8))
    (tmp_path / "map.yaml").write_text("{classes: [background, crack], ids: {0: background, 255: crack}}")
    label = folder(root=str(tmp_path), label_map=str(tmp_path / "map.yaml"), size=(20, 20), resize="fit")[0][1]
    assert [(label == i).sum().item() for i in (0, 1, 255)] == [75, 25, 300]


def test_the_sizes_own_shape_is_neither_cut_nor_framed():
    for how in ("squeeze", "fit", "crop"):
        made = frame((1052, 1914), (526, 957), how)
        assert (made.window, made.inner) == ((1052, 1914), (526, 957))
        assert native_size((1052, 1914), (526, 957), how) == (1052, 1914)


def test_photographs_that_lie_on_their_side_are_framed_upright(save):
    exif = Image.Exif()
    exif[0x0112] = 6
    files = {"a": save("phone.jpg", WIDE, exif=exif)}
    dataset = PairedFiles(files, None, label_map=identity(4), size=(20, 20), resize="crop")
    assert dataset[0][0].shape == (3, 20, 20) and dataset.own_size(0) == (40, 10)
