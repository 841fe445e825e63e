"""What a dataset of pairs gives, and what it refuses."""

import numpy as np
import pytest
import torch

from dalib.data.encodings import IdMap, identity
from dalib.data.faults import Fault, collecting
from dalib.data.pairs import PairedFiles
from dalib.errors import DataError


def test_labels_are_mapped_after_the_resize_and_unnamed_ids_never_become_class_0(save, rgb, ids):
    image, label = save("a.png", rgb), save("l.png", ids)
    dataset = PairedFiles({"a": image}, {"a": label}, label_map=IdMap({1: 0, 18: 5}, unknown="ignore"), size=(12, 16))
    pixels, train_ids = dataset[0]
    expected = np.full_like(ids, 255)
    expected[ids == 1], expected[ids == 18] = 0, 5
    assert torch.equal(train_ids, torch.from_numpy(expected.repeat(2, 0).repeat(2, 1)))
    assert (pixels.shape, pixels.dtype, train_ids.dtype) == ((3, 12, 16), torch.uint8, torch.uint8)
    assert dataset.item_name(0) == str(image)


def test_images_alone_have_labels_of_255(save, rgb):
    dataset = PairedFiles({"a": save("a.png", rgb)}, None, label_map=identity(19))
    assert dataset[0][1].unique().tolist() == [255]
    assert dataset[0][1].shape == (6, 8)


def test_label_of_another_size_than_its_image_names_both(save, rgb, ids):
    files = {"a": save("a.png", rgb)}, {"a": save("l.png", ids[:5])}
    with pytest.raises(DataError, match=r"l\.png: expected the size of its image, 6 x 8, found 5 x 8; image: .*a\.png"):
        PairedFiles(*files, label_map=identity(19))[0]


def test_every_file_without_partner_is_named_and_the_rest_can_be_read(save, rgb, ids):
    images = {key: save(f"i/{key}.png", rgb) for key in "abcdefgh"}
    labels = {key: save(f"l/{key}.png", ids) for key in "hi"}
    with pytest.raises(DataError, match=r"8 files have no partner: .*a\.png: image without label; .*and 3 more\."):
        PairedFiles(images, labels, label_map=identity(19))
    with collecting() as faults:
        assert len(PairedFiles(images, labels, label_map=identity(19))) == 1
    assert len(faults) == 8 and Fault(str(labels["i"]), "label without image") in faults


@pytest.mark.parametrize("size", [(0, 8), (-1, 8), (8,)])
def test_impossible_size_is_refused(save, rgb, size):
    with pytest.raises(DataError, match=r"size: expected \(H, W\) in pixels, both at least 1"):
        PairedFiles({"a": save("a.png", rgb)}, None, label_map=identity(19), size=size)


def test_evaluation_gets_images_at_size_and_labels_at_their_own(save, rgb, ids):
    dataset = PairedFiles({"a": save("a.png", rgb)}, {"a": save("l.png", ids)}, label_map=identity(19), size=(3, 4))
    image, label = dataset.for_evaluation()[0]
    assert image.shape == (3, 3, 4)
    assert torch.equal(label, torch.from_numpy(ids))
    assert dataset[0][1].shape == (3, 4)


@pytest.mark.parametrize("size", [None, (3, 4), (12, 16)])
def test_the_label_alone_is_that_of_the_item_and_needs_no_image(save, rgb, ids, size):
    image = save("a.png", rgb)
    dataset = PairedFiles({"a": image}, {"a": save("l.png", ids)}, label_map=identity(19), size=size)
    label, scored = dataset[0][1], dataset.for_evaluation()[0][1]
    image.unlink()
    assert torch.equal(dataset.label(0), label) and torch.equal(dataset.for_evaluation().label(0), scored)
    assert PairedFiles({"a": image}, None, label_map=identity(19)).label(0) is None
