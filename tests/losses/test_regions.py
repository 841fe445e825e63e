"""Dice and Lovász-Softmax against their definitions in float64."""

import itertools

import pytest
import torch

from dalib import Engine
from dalib.losses import DiceLoss, Local, LovaszLoss, dice, lovasz_softmax
from tests.losses.test_cross_entropy import sample
from tests.tiny import Supervised, tiny_batch, tiny_model

LOSSES = [dice, lovasz_softmax]


def counted(logits, label, weight):
    """Return probabilities (N, K), labels (N,) and weights (N,) of the valid pixels, in float64."""
    valid = label != 255
    weight = torch.ones(label.shape) if weight is None else weight
    return logits.double().softmax(1).movedim(1, -1)[valid], label[valid], weight.double()[valid]


def dice_of_class(probability, is_true, weight):
    """V-Net's, written out; the square of a label is the label."""
    return 1 - 2 * (weight * probability * is_true).sum() / (weight * (probability**2 + is_true)).sum()


def lovasz_of_class(probability, is_true, weight):
    """The Lovász extension, by its definition: errors in falling order times what each adds to the Jaccard loss."""

    def jaccard_loss(wrong):
        union = weight[is_true | wrong].sum()
        return 1 - weight[is_true & ~wrong].sum() / union if union else torch.zeros(())

    errors = (is_true.double() - probability).abs()
    wrong, value, total = torch.zeros_like(is_true), torch.zeros(()), 0.0
    for pixel in errors.argsort(descending=True):
        wrong[pixel] = True
        grown = jaccard_loss(wrong)
        total, value = total + errors[pixel] * (grown - value), grown
    return total


def reference(loss, logits, label, weight=None):
    probability, label, weight = counted(logits, label, weight)
    of_class = {dice: dice_of_class, lovasz_softmax: lovasz_of_class}[loss]
    present = [k for k in range(logits.shape[1]) if weight[label == k].sum() > 0]
    mean = sum(of_class(probability[:, k], label == k, weight) for k in present) / len(present)
    return mean * weight.mean()


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("absent", [False, True])
def test_the_loss_equals_its_definition_in_float64(loss, weighted, absent):
    logits, label = sample()
    if absent:
        label[label == 3] = 2
    weight = torch.rand(label.shape, generator=torch.Generator().manual_seed(1)) if weighted else None
    torch.testing.assert_close(loss(logits, label, weight).double(), reference(loss, logits, label, weight).double())


@pytest.mark.parametrize("loss", LOSSES)
def test_a_class_counts_as_present_by_its_pixels_of_any_weight(loss):
    logits, label = sample()
    weight = (label != 1).float()
    valid_weight = weight[label != 255].mean()
    alone = reference(loss, logits, torch.where(label == 1, 255, label))
    torch.testing.assert_close(loss(logits, label, weight).double(), (alone * valid_weight).double())


@pytest.mark.parametrize("loss", LOSSES)
def test_a_weight_that_is_the_same_everywhere_multiplies_the_loss(loss):
    logits, label = sample()
    torch.testing.assert_close(loss(logits, label, torch.full(label.shape, 0.3)), 0.3 * loss(logits, label))


@pytest.mark.parametrize("loss", LOSSES)
def test_certainty_gives_0_where_right_and_1_where_wrong(loss):
    label = torch.tensor([[[0, 1], [1, 255]]])
    right = 200 * torch.nn.functional.one_hot(label.clamp(max=1), 2).movedim(-1, 1).float()
    torch.testing.assert_close(loss(right, label), torch.tensor(0.0))
    torch.testing.assert_close(loss(-right, label), torch.tensor(1.0))


def test_lovasz_of_certain_predictions_is_the_jaccard_loss():
    """Which is what it extends: for all predictions of four pixels."""
    label = torch.tensor([[[0, 0], [0, 1]]])
    for predicted in itertools.product((0, 1), repeat=4):
        found = torch.tensor(predicted).view(1, 2, 2)
        logits = 200 * torch.nn.functional.one_hot(found, 2).movedim(-1, 1).float()
        iou = [((found == k) & (label == k)).sum() / ((found == k) | (label == k)).sum() for k in (0, 1)]
        torch.testing.assert_close(lovasz_softmax(logits, label), 1 - sum(iou) / 2)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("weight", [None, torch.ones(1, 2, 3)])
def test_without_a_valid_pixel_the_loss_is_0_and_in_the_graph(loss, weight):
    logits = torch.randn(1, 4, 2, 3, requires_grad=True)
    value = loss(logits, torch.full((1, 2, 3), 255), weight)
    value.backward()
    assert value == 0 and torch.equal(logits.grad, torch.zeros_like(logits))


@pytest.mark.parametrize("loss", LOSSES)
def test_ignored_pixels_get_no_gradient_and_the_others_one_that_lowers_the_loss(loss):
    logits, label = sample()
    logits.requires_grad_()
    value = loss(logits, label)
    value.backward()
    assert not logits.grad.movedim(1, -1)[label == 255].any() and logits.grad.any()
    assert loss(logits - logits.grad, label) < value


@pytest.mark.parametrize("loss", LOSSES)
def test_smaller_logits_are_resized_and_half_precision_is_not_summed_in_it(loss):
    logits, _ = sample()
    value = loss(logits.half(), torch.zeros(2, 12, 14, dtype=torch.int64))
    assert value.dtype == torch.float32 and value.isfinite()


def test_dice_sums_over_the_whole_batch():
    """Over two processes as over both halves of the batch in one."""
    logits, label = sample()
    parts = []

    class Recording(Local):
        def sum(self, x, dim=None):
            parts[-1].append(super().sum(x, dim))
            return parts[-1][-1]

    for half in (slice(0, 1), slice(1, 2)):
        parts.append([])
        dice(logits[half], label[half], across=Recording())
    totals = iter([sum(pair) for pair in zip(*parts, strict=True)])

    class Summed(Local):
        def sum(self, x, dim=None):
            return next(totals)

    torch.testing.assert_close(dice(logits[:1], label[:1], across=Summed()), dice(logits, label))


@pytest.mark.parametrize("loss", LOSSES)
def test_a_single_class_is_its_own_mean(loss):
    logits, label = sample()
    label = torch.where(label == 3, 3, 255)
    torch.testing.assert_close(loss(logits, label).double(), reference(loss, logits, label).double())


@pytest.mark.parametrize(("kind", "function"), [(DiceLoss, dice), (LovaszLoss, lovasz_softmax)])
def test_auxiliary_heads_count_by_their_weight_and_pixels_by_theirs(kind, function):
    logits, label = sample()
    outputs = {"logits": logits, "aux.1": logits.flip(1), "features": logits}
    weight = torch.rand(label.shape)
    main, auxiliary = function(logits, label, weight), function(logits.flip(1), label, weight)
    torch.testing.assert_close(kind()(outputs, label, weight), main + auxiliary)
    torch.testing.assert_close(kind(auxiliary=0.5)(outputs, label, weight), main + 0.5 * auxiliary)
    assert torch.equal(kind(auxiliary=0)(outputs, label, weight), main)

    class Doubled(Local):
        def mean(self, values, valid, weight=None):
            return 2 * super().mean(values, valid, weight)

    torch.testing.assert_close(kind(auxiliary=0)(outputs, label, weight, across=Doubled()), 2 * main)


@pytest.mark.parametrize("kind", [DiceLoss, LovaszLoss])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_trains_with_it(kind, precision):
    engine = Engine(tiny_model(), [Supervised()], device="cpu", loss=kind(), precision=precision)
    for group in engine.optimizer.param_groups:
        group["initial_lr"] = 0.1
    losses = [engine.step(tiny_batch())["supervised/loss"].item() for _ in range(20)]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("loss", LOSSES)
def test_nothing_waits_for_the_device(loss):
    """The meta device has no values to wait for."""
    logits = torch.zeros(1, 3, 4, 4, requires_grad=True, device="meta")
    label = torch.zeros(1, 4, 4, dtype=torch.int64, device="meta")
    loss(logits, label, torch.ones(1, 4, 4, device="meta")).backward()
    assert loss(logits, label).device.type == "meta"
    assert logits.grad.device.type == "meta"
