"""The Fourier transfer against both official implementations and against a plain full transform."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from dalib import Engine
from dalib.core.plan import make_plan
from dalib.core.stack import Stack
from dalib.errors import StackError
from dalib_plugins.augment import Augment
from dalib_plugins.fda import Fda, fourier_transfer
from tests.plugins.probe import prepared
from tests.tiny import tiny_batch, tiny_model


def plain_transfer(source: np.ndarray, target: np.ndarray, reach: int, corner: bool) -> np.ndarray:
    """Replace amplitudes frequency by frequency in a full float64 transform."""
    ours, theirs = np.fft.fft2(source), np.fft.fft2(target)
    frequencies = [np.round(np.fft.fftfreq(n) * n) for n in source.shape[-2:]]
    for row, vertical in enumerate(frequencies[0]):
        for column, horizontal in enumerate(frequencies[1]):
            low, high = min(vertical, horizontal), max(vertical, horizontal)
            if -reach <= low and (high < reach if corner else high <= reach):
                phase = np.exp(1j * np.angle(ours[..., row, column]))
                ours[..., row, column] = np.abs(theirs[..., row, column]) * phase
    return np.fft.ifft2(ours).real


@pytest.mark.parametrize("size", [(8, 12), (9, 13), (12, 7)])
@pytest.mark.parametrize("beta", [0.0, 0.15, 0.3, 0.5])
@pytest.mark.parametrize("window", ["symmetric", "corner"])
def test_equals_a_plain_transfer_in_float64(size, beta, window):
    generator = np.random.default_rng(0)
    source, target = generator.random((2, 2, 3, *size))
    reach = math.floor(min(size) * beta)
    expected = plain_transfer(source, target, reach, corner=window == "corner")
    found = fourier_transfer(torch.tensor(source).float(), torch.tensor(target).float(), beta, window)
    torch.testing.assert_close(found.double(), torch.from_numpy(expected), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("window", "official"), [("symmetric", "numpy"), ("corner", "torch")])
def test_equals_the_official_code_within_a_twentieth_of_a_grey_level(shared: Path, window, official):
    golden = np.load(shared / "golden" / "fda.npz")
    for pair in range(3):
        source, target = (torch.from_numpy(golden[f"{side}{pair}"]) for side in "st")
        for beta in (0.01, 0.05, 0.09):
            expected = torch.from_numpy(golden[f"{official}{pair}_{beta}"])
            assert (fourier_transfer(source, target, beta, window) - expected).abs().max() < 0.05


def test_each_sample_may_have_a_beta_of_its_own():
    source, target = torch.rand(2, 2, 3, 20, 30, generator=torch.Generator().manual_seed(0))
    betas = [0.05, 0.3]
    expected = [fourier_transfer(s, t, b) for s, t, b in zip(source, target, betas, strict=True)]
    found = fourier_transfer(source, target, torch.tensor(betas, dtype=torch.float64))
    torch.testing.assert_close(found, torch.stack(expected))


def test_a_black_source_takes_the_targets_mean():
    target = torch.full((3, 8, 8), 0.5)
    torch.testing.assert_close(fourier_transfer(torch.zeros(3, 8, 8), target, 0.0), target)


def test_an_unknown_window_is_refused():
    with pytest.raises(StackError, match="window is one of symmetric, corner; got 'round'"):
        fourier_transfer(torch.rand(3, 4, 4), torch.rand(3, 4, 4), 0.1, "round")


def test_half_precision_inputs_are_transformed_in_float32():
    source, target = torch.rand(2, 1, 3, 15, 21, generator=torch.Generator().manual_seed(0)).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = fourier_transfer(source, target, 0.1)
    assert torch.equal(found, fourier_transfer(source.float(), target.float(), 0.1))


def test_the_source_changes_within_its_range_and_the_target_stays():
    batch = tiny_batch(size=(24, 32))
    before = batch["source"].image, batch["target"].image
    after = prepared([Fda(beta=0.1)], batch)
    image = after["source"].image
    assert image.min() >= 0 and image.max() <= 1
    torch.testing.assert_close(image, fourier_transfer(*before, 0.1).clamp(0, 1))
    assert torch.equal(after["target"].image, before[1])


def test_the_strategys_window_is_the_one_asked_for():
    batch = tiny_batch(size=(24, 32))
    before = batch["source"].image, batch["target"].image
    image = prepared([Fda(beta=0.1, window="corner")], batch)["source"].image
    torch.testing.assert_close(image, fourier_transfer(*before, 0.1, "corner").clamp(0, 1))


def test_a_window_reaches_the_floor_in_double_precision():
    """0.29 * 100 is 28.999999999999996 there, and 29 in float32."""
    batch = tiny_batch(size=(100, 100), batch=1)
    before = batch["source"].image, batch["target"].image
    expected = fourier_transfer(*before, 0.285)
    assert torch.equal(fourier_transfer(*before, 0.29), expected)
    torch.testing.assert_close(prepared([Fda(beta=0.29)], batch)["source"].image, expected.clamp(0, 1))


def test_streams_of_two_sizes_are_refused():
    with pytest.raises(StackError, match="'fda' needs streams of one size"):
        make_plan(Stack([Fda(beta=0.1)]), {"source": (64, 128), "target": (96, 128)})


def test_samples_draw_from_several_betas():
    batch = tiny_batch(size=(24, 32), batch=16)
    choices = [fourier_transfer(batch["source"].image, batch["target"].image, beta).clamp(0, 1) for beta in (0.05, 0.3)]
    image = prepared([Fda(beta=[0.05, 0.3])], batch)["source"].image
    drawn = [[torch.allclose(one, c[i], atol=1e-6) for c in choices].index(True) for i, one in enumerate(image)]
    assert set(drawn) == {0, 1}


def test_a_window_without_frequencies_is_a_warning_with_its_numbers_and_a_way_out():
    plan = lambda fda, **sizes: make_plan(Stack([fda]), sizes).warnings  # noqa: E731
    both = {"source": (64, 128), "target": (64, 128)}
    assert plan(Fda(beta=0.01), **both) == (
        "strategy 'fda': with beta 0.01, images of 64x128 (H x W) have a window of b = floor(0.01 * 64) = 0, which "
        "moves the mean colour and nothing else; take a beta of at least 1/64, such as 0.031.",
    )
    assert plan(Fda(beta=0.031), **both) == plan(Fda(beta=1 / 64), **both) == ()
    (corner,) = plan(Fda(beta=[0.05, 0.01], window="corner"), **both)
    assert "beta 0.01," in corner and "= 0, which changes nothing;" in corner
    assert plan(Fda(beta=0.01), source=None, target=None) == ()


def test_the_plan_warns_by_the_size_after_a_crop():
    streams = {"source": (180, 240), "target": (180, 240)}
    assert make_plan(Stack([Fda(beta=0.01)]), streams).warnings == ()
    crop = Augment(streams=["source", "target"], crop=(96, 96))
    (warning,) = make_plan(Stack([crop, Fda(beta=0.01)]), streams).warnings
    assert "images of 96x96" in warning


def test_the_first_step_warns_of_a_window_without_frequencies():
    engine = Engine(tiny_model(), [Fda(beta=0.01)], device="cpu")
    with pytest.warns(UserWarning, match=r"images of 12x16 \(H x W\) have a window of b = floor\(0\.01 \* 12\) = 0"):
        engine.step(tiny_batch())
    engine.step(tiny_batch())  # a second warning would be an error


def test_the_corner_window_without_frequencies_changes_nothing():
    source, target = torch.rand(2, 3, 16, 20, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(fourier_transfer(source, target, 0.05, "corner"), source)
    assert not torch.allclose(fourier_transfer(source, target, 0.05), source, atol=0.01)
