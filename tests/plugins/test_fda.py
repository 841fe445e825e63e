"""The Fourier transfer against both official implementations and against a plain full transform."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from dalib import Engine
from dalib.errors import StackError
from dalib_plugins.fda import Fda, TargetEntropy, charbonnier, fourier_transfer
from dalib_plugins.minent import MinEnt, normalized_entropy
from dalib_plugins.supervised import Supervised
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
@pytest.mark.parametrize("beta", [0.0, 0.15, 0.3])
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


def test_the_penalty_equals_fdas_number(shared: Path):
    golden = np.load(shared / "golden" / "losses.npz")
    entropy = normalized_entropy(torch.from_numpy(golden["logits"])) * math.log(19) / 2.9444  # its rounded constant
    assert charbonnier(entropy, 2.0).item() == pytest.approx(golden["fda_entropy_eta2"].item(), rel=1e-6)


def test_the_source_changes_within_its_range_and_the_target_stays():
    batch = tiny_batch(size=(24, 32))
    before = batch["source"].image, batch["target"].image
    after = prepared([Fda(beta=0.1)], batch)
    image = after["source"].image
    assert image.min() >= 0 and image.max() <= 1
    torch.testing.assert_close(image, fourier_transfer(*before, 0.1).clamp(0, 1))
    assert torch.equal(after["target"].image, before[1])


def test_samples_draw_from_several_betas():
    batch = tiny_batch(size=(24, 32), batch=16)
    choices = [fourier_transfer(batch["source"].image, batch["target"].image, beta).clamp(0, 1) for beta in (0.05, 0.3)]
    image = prepared([Fda(beta=[0.05, 0.3])], batch)["source"].image
    drawn = [[torch.allclose(one, c[i], atol=1e-6) for c in choices].index(True) for i, one in enumerate(image)]
    assert set(drawn) == {0, 1}


def test_the_entropy_term_carries_its_own_weight():
    stacks = [[Fda(entropy=TargetEntropy(weight=weight))] for weight in (1.0, 0.5)]
    full, half = (Engine(tiny_model(), stack, device="cpu").step(tiny_batch())["fda/entropy"] for stack in stacks)
    assert half == 0.5 * full > 0


def test_without_its_entropy_it_costs_no_backward_pass():
    groups = Engine(tiny_model(), [Fda(), Supervised(), MinEnt()], device="cpu").stack.groups
    assert [[s.name for s in group] for group in groups] == [["fda", "supervised"], ["minent"]]
