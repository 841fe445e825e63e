"""The segmentation loss against its formulas in float64."""

import math

import pytest
import torch

from dalib import Batch, DalibError, Engine, SegmentationLoss, Strategy, Stream, hookimpl, make_recipe
from dalib.losses import LOCAL, Local, cross_entropy, hard_pixels
from dalib.yaml import parse_yaml
from tests.command import RECIPE
from tests.tiny import Supervised, tiny_batch, tiny_model


def reference(logits, label):
    """-log p of the true class by pixel, 0 where ignored, in float64 and without torch's own loss."""
    log_p = logits.double() - logits.double().logsumexp(1, keepdim=True)
    picked = -log_p.gather(1, label.clamp(max=logits.shape[1] - 1)[:, None])[:, 0]
    return torch.where(label == 255, 0.0, picked)


def sample(seed=0, shape=(2, 5, 6, 7)):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(shape, generator=generator)
    label = torch.randint(0, shape[1], (shape[0], *shape[2:]), generator=generator)
    label[0, :2] = 255
    return logits, label


def test_cross_entropy_equals_float64():
    logits, label = sample()
    torch.testing.assert_close(cross_entropy(logits, label).double(), reference(logits, label), rtol=1e-5, atol=1e-6)


def test_cross_entropy_weighs_by_the_true_class():
    logits, label = sample()
    weights = torch.tensor([1.0, 2.0, 0.0, 0.5, 3.0])
    factor = torch.where(label == 255, 0.0, weights[label.clamp(max=4)])
    expected = reference(logits, label) * factor
    torch.testing.assert_close(cross_entropy(logits, label, weights).double(), expected, rtol=1e-5, atol=1e-6)


def test_smaller_logits_are_resized_and_half_precision_is_not_summed_in_it():
    logits, _ = sample()
    small = cross_entropy(logits.half(), torch.zeros(2, 12, 14, dtype=torch.int64))
    assert small.shape == (2, 12, 14) and small.dtype == torch.float32


@pytest.mark.parametrize(("threshold", "min_kept"), [(0.7, 1), (1e-6, 20), (0.2, 1000), (1e-6, 0)])
def test_hard_pixels_are_those_below_the_threshold_and_at_least_so_many(threshold, min_kept):
    logits, label = sample(3)
    values, valid = cross_entropy(logits, label), label != 255
    kept = hard_pixels(values, valid, threshold, min_kept)
    below = valid & (values > -math.log(threshold))
    hardest = values[valid].sort(descending=True).values[: min(max(min_kept, 1), int(valid.sum()))]
    expected = below | (valid & (values >= hardest[-1]))
    assert torch.equal(kept, expected)
    assert kept.sum() == max(int(below.sum()), len(hardest))


def test_ignored_pixels_are_not_among_the_hardest():
    values, valid = torch.tensor([0.5, 0.4, 0.0]), torch.tensor([True, True, False])
    assert hard_pixels(values, valid, 1e-6, 2).tolist() == [True, True, False]


def test_means_and_cuts_of_the_loss_go_over_what_across_says():
    calls = []

    class Across(Local):
        def mean(self, values, valid, weight=None):
            calls.append("mean")
            return super().mean(values, valid, weight)

        def kth(self, values, k):
            calls.append(f"kth {k}")
            return super().kth(values, k)

    logits, label = sample()
    SegmentationLoss(ohem=0.5, min_kept=3)({"logits": logits, "aux.1": logits}, label, across=Across())
    assert calls == ["kth 3", "mean", "mean"]  # auxiliary heads are not mined


def test_a_weight_by_pixel_and_by_class_count_on_auxiliary_heads_too():
    logits, label = sample()
    weight = torch.rand(label.shape)
    main, both = (
        SegmentationLoss(class_weights=[1, 2, 3, 4, 5], auxiliary=auxiliary)(
            {"logits": logits, "aux.1": logits, "features": logits}, label, weight
        )
        for auxiliary in (0.0, 0.5)
    )
    torch.testing.assert_close(both, 1.5 * main)


def test_the_mean_of_one_pixel_is_its_value():
    valid = torch.tensor([True, False])
    assert LOCAL.mean(torch.tensor([3.0, 5.0]), valid) == 3
    assert LOCAL.mean(torch.tensor([3.0, 5.0]), valid, torch.tensor([0.5, 1.0])) == 1.5


def test_the_defaults_of_the_loss():
    assert SegmentationLoss() == SegmentationLoss(class_weights=None, ohem=None, min_kept=100_000, auxiliary=1.0)


@pytest.mark.parametrize("options", [{"auxiliary": 0}, {"class_weights": [0, *[1] * 18]}, {"min_kept": 0}])
def test_the_bounds_of_the_loss_are_zero(options):
    recipe = parse_yaml(RECIPE)
    make_recipe(recipe | {"loss": options})
    below = {name: [-0.1, *value[1:]] if isinstance(value, list) else -1 for name, value in options.items()}
    with pytest.raises(DalibError, match=r"loss\..* at least 0|loss\..*greater than or equal to 0"):
        make_recipe(recipe | {"loss": below})


def test_class_weights_go_to_the_device_of_the_logits():
    with torch.device("meta"):
        logits, label = torch.zeros(1, 3, 4, 4), torch.zeros(1, 4, 4, dtype=torch.int64)
    assert SegmentationLoss(class_weights=[1, 2, 3])({"logits": logits}, label).device.type == "meta"


class Means(Strategy):
    """Runs what a test hands it, as a loss."""

    @hookimpl
    def setup(self, ctx):
        self.function = None

    @hookimpl
    def loss(self, step):
        return {"x": self.function(step)}


def means(function, batch=None):
    strategy = Means()
    engine = Engine(tiny_model(), [strategy], device="cpu")
    strategy.function = function
    return engine.step(batch or tiny_batch())["means/x"]


def test_a_mean_divides_by_the_number_of_valid_pixels_whatever_their_weight():
    values, valid = torch.rand(2, 4, 4), torch.rand(2, 4, 4) > 0.4
    weight = torch.rand(2, 4, 4)
    expected = (values * weight)[valid].sum().double() / valid.sum()
    torch.testing.assert_close(means(lambda step: step.mean(values, valid, weight)).double(), expected)


def test_a_mean_of_nothing_is_0_in_the_graph_even_where_values_are_not_finite():
    values = torch.full((1, 2, 2), math.inf, requires_grad=True)
    nothing = torch.zeros(1, 2, 2, dtype=torch.bool)
    found = []
    assert means(lambda step: found.append(step.mean(values, nothing)) or found[0]) == 0
    assert found[0].requires_grad and torch.equal(values.grad, torch.zeros(1, 2, 2))


def loss_of(loss, batch):
    return Engine(tiny_model(), [Supervised()], device="cpu", loss=loss).step(batch)["supervised/loss"]


def test_the_loss_sums_the_main_and_the_weighted_auxiliary_terms():
    batch = tiny_batch()
    label = batch["source"].label
    outputs = tiny_model()(batch["source"].image, outputs=True)
    valid = label != 255
    main, auxiliary = (reference(outputs[n].detach(), label)[valid].mean() for n in ("logits", "aux.1"))
    for weight in (0.0, 0.4):
        expected = main + weight * auxiliary
        torch.testing.assert_close(loss_of(SegmentationLoss(auxiliary=weight), batch).double(), expected)


@pytest.mark.parametrize("ohem", [0.1, 0.4])
def test_mining_goes_by_the_probability_whatever_the_class_weighs(ohem):
    batch, weights = tiny_batch(), [0.05, 20.0, 1.0, 1.0, 1.0]
    label = batch["source"].label
    plain = reference(tiny_model()(batch["source"].image).detach(), label)
    kept = (label != 255) & (plain > -math.log(ohem))
    assert 0 < kept.sum() < (label != 255).sum()
    expected = (plain * torch.tensor(weights).double()[label.clamp(max=4)])[kept].sum() / kept.sum()
    loss = SegmentationLoss(class_weights=weights, ohem=ohem, min_kept=1, auxiliary=0)
    torch.testing.assert_close(loss_of(loss, batch), expected.float())


def test_a_streams_weight_counts_by_pixel():
    batch = tiny_batch()
    source = batch["source"]
    weight = torch.rand(source.label.shape)
    weighted = Batch({"source": Stream(source.image, source.label, weight)})
    logits = tiny_model()(source.image).detach()
    valid = source.label != 255
    expected = (reference(logits, source.label) * weight)[valid].sum() / valid.sum()
    torch.testing.assert_close(loss_of(SegmentationLoss(auxiliary=0), weighted).double(), expected)


def test_a_network_brings_its_own_loss_unless_the_run_has_one():
    model = tiny_model()
    model.segmentation_loss = lambda outputs, label, weight, across: outputs["logits"].sum() * 0 + 7
    assert Engine(model, [Supervised()], device="cpu").step(tiny_batch())["supervised/loss"] == 7
    given = Engine(model, [Supervised()], device="cpu", loss=SegmentationLoss())
    assert given.step(tiny_batch())["supervised/loss"] != 7
