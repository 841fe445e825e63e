"""Sample panels."""

import numpy
import torch
from PIL import Image

from dalib.data.palette import colorize
from dalib.evaluation.panels import GAP, sample_panel, write_png
from dalib.labels import CITYSCAPES_PALETTE


def scene():
    image = torch.randint(0, 256, (3, 48, 64), dtype=torch.uint8)
    return image, torch.randint(0, 19, (48, 64)), torch.randint(0, 19, (48, 64))


def test_panel_holds_image_truth_and_predictions_in_order_under_captions():
    image, truth, guess = scene()
    panel = sample_panel(image, {"truth": truth, "before": truth, "after": guess}, CITYSCAPES_PALETTE)
    top = panel.shape[1] - 48
    assert panel.shape[2] == 4 * 64 + 3 * GAP
    columns = [panel[:, top:, i * (64 + GAP) : i * (64 + GAP) + 64] for i in range(4)]
    expected = [image, *(colorize(label, CITYSCAPES_PALETTE) for label in (truth, truth, guess))]
    assert all(torch.equal(a, b) for a, b in zip(columns, expected, strict=True))
    captions = [panel[:, :top, i * (64 + GAP) : i * (64 + GAP) + 64] for i in range(4)]
    assert all(caption.min() < 100 for caption in captions)
    assert not torch.equal(captions[2], captions[3])


def test_png_keeps_every_pixel(tmp_path):
    image, truth, _ = scene()
    write_png(tmp_path / "new" / "image.png", image)
    write_png(tmp_path / "label.png", truth[None].to(torch.uint8))
    assert numpy.array_equal(Image.open(tmp_path / "new" / "image.png"), image.movedim(0, -1))
    assert numpy.array_equal(Image.open(tmp_path / "label.png"), truth)
