"""The CRF: equal to inference over all pairs of pixels, close to it where it approximates, around any network."""

import re

import pytest
import torch
from torch import Tensor

from dalib import Engine, create_strategy
from dalib.errors import DalibError
from dalib_plugins.crf import Crf
from tests.tiny import Supervised, tiny_batch, tiny_model


def dense_mean_field(crf: Crf, logits: Tensor, image: Tensor) -> Tensor:
    """Mean-field inference with both kernels as matrices; logits (K, H, W) and image (3, H, W) to beliefs (K, H, W)."""
    classes, height, width = logits.shape
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    position = torch.stack([rows, columns], -1).view(-1, 2).to(logits.dtype)
    color = 255 * image.reshape(3, -1).T

    def kernel(*features: tuple[Tensor, float]) -> Tensor:
        exponent = sum(((f[:, None] - f[None]) ** 2).sum(-1) / (2 * deviation**2) for f, deviation in features)
        k = torch.exp(-exponent)
        scale = k.sum(1) ** -0.5
        return scale[:, None] * k * scale[None]

    appearance = kernel((position, crf.appearance_position), (color, crf.appearance_color))
    smoothness = kernel((position, crf.smoothness_position))
    unary = logits.reshape(classes, -1).T.softmax(1).log()
    beliefs = unary.exp()
    for _ in range(crf.iterations):
        messages = crf.appearance_weight * appearance @ beliefs + crf.smoothness_weight * smoothness @ beliefs
        beliefs = (unary + messages).softmax(1)
    return beliefs.T.view(classes, height, width)


def scene(height: int, width: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """A smooth image of three areas with noise, its classes, and noisy logits that are right more often than not."""
    generator = torch.Generator().manual_seed(seed)
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    label = (columns > 0.4 * width).long() + (rows > 0.55 * height).long() * (columns > 0.4 * width)
    colors = torch.tensor([[0.2, 0.3, 0.6], [0.5, 0.5, 0.4], [0.3, 0.6, 0.2]], dtype=torch.float64)
    image = colors[label].permute(2, 0, 1) + 0.02 * torch.randn(3, height, width, generator=generator).double()
    logits = torch.randn(3, height, width, generator=generator).double()
    return image, label, logits + torch.nn.functional.one_hot(label, 3).permute(2, 0, 1)


def noise(height: int, width: int) -> Tensor:
    """An image of colours of which none is like another, so that pixels hear little but themselves."""
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(0)).double()


@pytest.mark.parametrize("image", [scene(13, 18)[0], noise(13, 18)], ids=["scene", "noise"])
def test_equals_inference_over_all_pairs_when_cells_are_pixels(image: Tensor) -> None:
    logits = scene(13, 18)[2]
    crf = Crf(appearance_position=5.0, appearance_color=10.0, smoothness_position=4.5, cell=1, reach=18, heard=None)
    found = crf.refine(logits[None], image[None])[0].exp()
    torch.testing.assert_close(found, dense_mean_field(crf, logits, image), rtol=0, atol=1e-9)


def test_smoothness_reaches_four_standard_deviations() -> None:
    image, _, logits = scene(1, 12)
    crf = Crf(iterations=1, appearance_weight=0.0, smoothness_position=1.0, cell=1, reach=1)
    before = crf.refine(logits[None], image[None])
    logits[:, :, 0] = torch.tensor([9.0, 0.0, 0.0]).double()[:, None]
    changed = (crf.refine(logits[None], image[None]) != before).any(1)[0, 0]
    assert changed.tolist() == [True] * 5 + [False] * 7


def test_cells_stay_close_to_inference_over_all_pairs() -> None:
    image, label, logits = scene(45, 61)
    crf = Crf(appearance_position=12.0, appearance_color=13.0, smoothness_position=1.5, cell=4, reach=6)
    found, exact = crf.refine(logits[None], image[None])[0].exp(), dense_mean_field(crf, logits, image)
    assert (found - exact).abs().mean() < 0.01
    assert (found.argmax(0) == exact.argmax(0)).double().mean() > 0.99
    accuracy = [(beliefs.argmax(0) == label).double().mean() for beliefs in (logits, found)]
    assert accuracy[0] < 0.75 < 0.97 < accuracy[1]


def test_is_computed_in_float32_whatever_the_precision() -> None:
    image, _, logits = scene(20, 33)
    crf = Crf(cell=4, reach=3)
    exact = crf.refine(logits[None], image[None])
    with torch.autocast("cpu", torch.bfloat16):
        found = crf.refine(logits[None].float(), image[None].float())
    torch.testing.assert_close(found, exact.float(), rtol=0, atol=1e-3)
    assert torch.equal(found, crf.refine(logits[None].float(), image[None].float()))
    half = logits[None].bfloat16(), image[None].bfloat16()
    assert torch.equal(crf.refine(*half), crf.refine(half[0].float(), half[1].float()))


def test_each_image_of_a_batch_is_its_own() -> None:
    scenes = [scene(20, 33, seed) for seed in (0, 1)]
    image, logits = torch.stack([s[0] for s in scenes]), torch.stack([s[2] for s in scenes])
    crf = Crf(cell=4, reach=3)
    together = crf.refine(logits, image)
    for i in range(2):
        torch.testing.assert_close(together[i], crf.refine(logits[i : i + 1], image[i : i + 1])[0])
    torch.testing.assert_close(together.exp().sum(1), torch.ones(2, 20, 33, dtype=torch.float64))


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("cell", 0, "at least 1, got 0"),
        ("cell", 2.5, "a whole number, got 2.5"),
        ("heard", 0, "at least 1, got 0"),
        ("reach", -1, "at least 0, got -1"),
        ("smoothness_weight", float("nan"), "a finite number, got NaN"),
        ("appearance_color", 0.0, "more than 0, got 0.0"),
    ],
)
def test_an_option_out_of_its_range_is_refused_by_name(name: str, value: float, expected: str) -> None:
    with pytest.raises(DalibError, match=re.escape(f"{name}: expected {expected}.")):
        create_strategy("crf", **{name: value})


def test_refines_what_the_engine_predicts() -> None:
    engine = Engine(
        tiny_model(), [Supervised(), Crf(iterations=2, smoothness_position=1.0, cell=4, reach=2)], device="cpu"
    )
    images = torch.rand(2, 3, 21, 30, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = engine.model.eval()(images)
        found = engine.predictor(engine.model)(images)
    expected = Crf(iterations=2, smoothness_position=1.0, cell=4, reach=2).refine(logits, images)
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(found, logits.log_softmax(1), atol=0.1)


def test_training_does_not_see_it() -> None:
    terms = [
        Engine(tiny_model(), stack, device="cpu").step(tiny_batch())
        for stack in ([Supervised()], [Supervised(), Crf()])
    ]
    assert terms[0].keys() == terms[1].keys()
    torch.testing.assert_close(terms[0]["supervised/loss"], terms[1]["supervised/loss"], rtol=0, atol=0)
