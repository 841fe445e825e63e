"""Class balance from counts of pixels, by number."""

import math

import pytest
import torch
import torch.nn.functional as F

from dalib.errors import DataError
from dalib.losses import LOCAL, SegmentationLoss, balanced_weights, log_prior

COUNTS = torch.tensor([[60, 20, 0, 0], [30, 0, 20, 0]])  # 90, 20, 20 and 0 of 130 pixels


def mean_is_one(weights):
    """Return weights over their mean over the pixels of COUNTS."""
    mean = (90 * weights[0] + 20 * weights[1] + 20 * weights[2]) / 130
    return [weight / mean for weight in weights]


def test_enets_weights_are_by_the_logarithm_of_the_share():
    expected = [1 / math.log(1.02 + pixels / 130) for pixels in (90, 20, 20, 0)]
    assert balanced_weights(COUNTS, "enet") == pytest.approx(mean_is_one(expected), rel=1e-12)


def test_median_frequencies_are_of_the_images_that_have_the_class():
    frequencies = (90 / 130, 20 / 80, 20 / 50)
    expected = [0.4 / frequency for frequency in frequencies] + [1.0]
    assert balanced_weights(COUNTS, "median_frequency") == pytest.approx(mean_is_one(expected), rel=1e-12)


@pytest.mark.parametrize("rule", ["enet", "median_frequency"])
def test_rarer_classes_weigh_more_and_a_mean_pixel_one(rule):
    counts = torch.tensor([[1_000, 100, 10], [900, 0, 3]])
    weights = balanced_weights(counts, rule)
    assert weights[0] < 1 < weights[1] < weights[2]
    pixels = counts.sum(0).tolist()
    mean = sum(weight * n for weight, n in zip(weights, pixels, strict=True)) / sum(pixels)
    assert mean == pytest.approx(1, rel=1e-12)


def test_an_unknown_rule_is_named():
    with pytest.raises(ValueError, match="expected one of enet, median_frequency, got 'inverse'"):
        balanced_weights(COUNTS, "inverse")


def test_the_prior_is_the_logarithm_of_the_share_times_tau_and_of_one_pixel_where_there_is_none():
    expected = [math.log(count / 130) for count in (90, 20, 20, 1)]
    assert log_prior(COUNTS) == pytest.approx(expected, rel=1e-12)
    assert log_prior(COUNTS, 0.5) == pytest.approx([value / 2 for value in expected], rel=1e-12)


@pytest.mark.parametrize("function", [lambda counts: balanced_weights(counts, "enet"), log_prior])
def test_counts_of_nothing_are_refused(function):
    with pytest.raises(DataError, match="no image has a labelled pixel"):
        function(torch.zeros(3, 4, dtype=torch.int64))


def test_the_adjusted_loss_is_the_cross_entropy_of_logits_plus_prior_at_every_head():
    generator = torch.Generator().manual_seed(0)
    logits, auxiliary = (3 * torch.randn(2, 4, side, side, generator=generator) for side in (8, 4))
    label = torch.randint(4, (2, 8, 8), generator=generator)
    label[0, 0] = 255
    prior = log_prior(COUNTS)
    adjusted = [F.interpolate(x.double(), (8, 8), mode="bilinear") for x in (logits, auxiliary)]
    terms = [
        F.cross_entropy(x + torch.tensor(prior).double().view(-1, 1, 1), label, ignore_index=255) for x in adjusted
    ]
    loss = SegmentationLoss(logit_adjustment=prior, auxiliary=0.4)
    found = loss({"logits": logits, "aux.1": auxiliary}, label, across=LOCAL)
    assert found.item() == pytest.approx((terms[0] + 0.4 * terms[1]).item(), rel=1e-6)


def test_equal_logits_are_best_where_nothing_but_the_prior_is_known():
    label = torch.tensor([0] * 9 + [1]).view(1, 2, 5)
    logits = torch.zeros(1, 2, 1, 1, requires_grad=True)
    prior = log_prior(torch.tensor([[9, 1]]))
    loss = SegmentationLoss(logit_adjustment=prior)({"logits": logits.expand(1, 2, 2, 5)}, label)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert gradient.abs().max() < 1e-7
