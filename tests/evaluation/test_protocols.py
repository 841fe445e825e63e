"""Each published protocol does what sets it apart."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from dalib.errors import DataError
from dalib.evaluation.protocols import PROTOCOLS, get_protocol, sliding


def test_published_sizes_are_height_by_width():
    sizes = {name: (p.input_size, p.score_size) for name, p in PROTOCOLS.items()}
    assert sizes == {
        "full": (None, None),
        "adaptsegnet": ((512, 1024), None),
        "advent": ((512, 1024), None),
        "fda": ((576, 1344), None),
        "dacs": ((512, 1024), (512, 1024)),
        "daformer": ((512, 1024), None),
        "hrda": ((1024, 2048), None),
        "pidnet": ((1024, 2048), None),
        "mldl2024": ((1024, 512), (1024, 512)),
    }
    assert {name for name, p in PROTOCOLS.items() if p.align_corners} == {"adaptsegnet", "advent", "fda", "dacs"}


def test_published_images_windows_and_means():
    classic = {"adaptsegnet", "advent", "fda", "dacs"}
    assert {name for name, p in PROTOCOLS.items() if p.resample == "bicubic"} == classic
    assert {name for name, p in PROTOCOLS.items() if p.antialias} == {"full", *classic, "mldl2024"}
    assert {p.name: (p.window, p.stride) for p in PROTOCOLS.values() if p.window} == {
        "hrda": ((1024, 1024), (512, 512))
    }
    assert {p.name: p.epsilon for p in PROTOCOLS.values() if p.epsilon} == {"mldl2024": 1e-5}


def test_what_has_its_size_already_is_not_resized():
    protocol = dataclasses.replace(PROTOCOLS["mldl2024"], input_size=(6, 4), score_size=(6, 4))
    image, label, logits = torch.rand(1, 3, 6, 4), torch.zeros(1, 6, 4, dtype=torch.uint8), torch.rand(1, 19, 6, 4)
    assert protocol.resize_image(image) is image
    assert protocol.resize_label(label) is label
    assert protocol.resize_logits(logits, (6, 4)) is logits


def test_unknown_protocol_suggests_the_nearest():
    with pytest.raises(DataError, match=r"no evaluation protocol is called 'daforme'\. Did you mean 'daformer'"):
        get_protocol("daforme")
    own = dataclasses.replace(PROTOCOLS["full"], input_size=(8, 16))
    assert get_protocol(own) is own


def test_labels_shrink_by_nearest_to_the_pixel_under_the_centre():
    label = torch.arange(16, dtype=torch.uint8).view(1, 4, 4)
    shrunk = dataclasses.replace(PROTOCOLS["dacs"], score_size=(2, 2)).resize_label(label)
    assert shrunk.dtype == torch.uint8
    assert shrunk.tolist() == [[[5, 7], [13, 15]]]
    assert PROTOCOLS["full"].resize_label(label) is label


def test_logits_keep_their_corners_only_where_published():
    logits = torch.tensor([[[[0.0, 1.0]]]])
    classic = PROTOCOLS["adaptsegnet"].resize_logits(logits, (1, 4)).flatten()
    full = PROTOCOLS["full"].resize_logits(logits, (1, 4)).flatten()
    assert classic.tolist() == pytest.approx([0, 1 / 3, 2 / 3, 1])
    assert full.tolist() == pytest.approx([0, 0.25, 0.75, 1])


def test_bicubic_input_stays_in_range():
    image = torch.rand(1, 3, 8, 8).round()
    resized = dataclasses.replace(PROTOCOLS["fda"], input_size=(5, 13)).resize_image(image)
    assert resized.shape == (1, 3, 5, 13)
    assert resized.min() >= 0
    assert resized.max() <= 1


@pytest.mark.parametrize("size", [(8, 16), (9, 13), (3, 5)])
def test_sliding_windows_of_a_pixelwise_network_give_its_own_logits(size):
    weight = torch.randn(4, 3, 1, 1)
    images = torch.rand(2, 3, *size)
    seen = []

    def predict(x):
        seen.append(tuple(x.shape[-2:]))
        return F.conv2d(x, weight)

    torch.testing.assert_close(sliding(predict, (4, 6), (2, 3))(images), F.conv2d(images, weight))
    assert set(seen) == {(min(4, size[0]), min(6, size[1]))}


def test_windows_start_at_every_stride_and_the_last_ends_with_the_image():
    rows, columns = torch.arange(10.0)[:, None].expand(10, 13), torch.arange(13.0).expand(10, 13)
    corners = []

    def predict(x):
        corners.append(tuple(x[0, :, 0, 0].tolist()))
        return x

    sliding(predict, (4, 6), (2, 5))(torch.stack([rows, columns])[None])
    assert corners == [(row, column) for row in (0, 2, 4, 6) for column in (0, 5, 7)]


def test_hrda_averages_three_overlapping_windows():
    small = dataclasses.replace(PROTOCOLS["hrda"], input_size=(4, 8), window=(4, 4), stride=(2, 2))
    calls = iter([1.0, 2.0, 4.0])

    def predict(x):
        return torch.full((1, 1, *x.shape[-2:]), next(calls))

    logits = small.predictor(predict)(torch.zeros(1, 3, 4, 8))
    assert logits.shape == (1, 1, 4, 8)
    assert logits[0, 0, 0].tolist() == [1, 1, 1.5, 1.5, 3, 3, 4, 4]
