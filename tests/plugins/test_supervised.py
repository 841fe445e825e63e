"""The supervised strategy's choice of streams and of the loss's options."""

import math

import pytest
import torch
import torch.nn.functional as F

from dalib import Batch, Engine, Strategy, Stream, hookimpl
from dalib.errors import StackError
from dalib.losses import SegmentationLoss, balanced_weights, log_prior
from dalib_plugins.supervised import Supervised
from tests.tiny import TinyData, tiny_batch, tiny_model


def step(strategy: Supervised, batch: Batch, **options) -> dict[str, torch.Tensor]:
    return Engine(tiny_model(), [strategy], device="cpu", **options).step(batch)


def logits_of(batch: Batch) -> torch.Tensor:
    return tiny_model().train()(batch["source"].image).detach()


def test_is_cross_entropy_of_valid_pixels():
    batch = tiny_batch()
    expected = F.cross_entropy(logits_of(batch).double(), batch["source"].label, ignore_index=255)
    assert step(Supervised(auxiliary=0.0), batch)["supervised/source"].item() == pytest.approx(
        expected.item(), rel=1e-6
    )


def test_a_batch_without_valid_pixels_gives_exactly_zero():
    batch = tiny_batch()
    batch.write("source", label=torch.full_like(batch["source"].label, 255))
    assert step(Supervised(ohem=0.7), batch)["supervised/source"].item() == 0.0


def test_class_weights_multiply_and_leave_the_denominator():
    batch = tiny_batch()
    label = batch["source"].label
    values = F.cross_entropy(logits_of(batch).double(), label, ignore_index=255, reduction="none")
    expected = ((label == 2) * values).sum() / (label != 255).sum()
    found = step(Supervised(class_weights=[0.0, 0.0, 1.0, 0.0, 0.0], auxiliary=0.0), batch)["supervised/source"]
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)


def test_ohem_averages_over_hard_pixels_alone():
    batch = tiny_batch()
    label = batch["source"].label
    values = F.cross_entropy(logits_of(batch).double(), label, ignore_index=255, reduction="none")
    hard = (values > -math.log(0.2)) & (label != 255)
    found = step(Supervised(ohem=0.2, min_kept=1, auxiliary=0.0), batch)["supervised/source"].item()
    assert 0 < hard.sum() < (label != 255).sum()
    assert found == pytest.approx(values[hard].mean().item(), rel=1e-6)


def test_options_left_out_are_the_runs():
    batch = tiny_batch()
    run = SegmentationLoss(auxiliary=0.0)
    assert step(Supervised(), batch, loss=run) == step(Supervised(auxiliary=0.0), batch)
    assert step(Supervised(), batch) != step(Supervised(), batch, loss=run)


class Twin(Strategy):
    """Adds a copy of the source."""

    provides = frozenset({"twin.image", "twin.label"})

    @hookimpl
    def pre_batch(self, step):
        step.batch.add("twin", Stream(step.batch["source"].image, step.batch["source"].label))


def test_every_stream_named_has_a_term():
    stack = [Twin(), Supervised(streams=["source", "twin"])]
    terms = Engine(tiny_model(), stack, device="cpu").step(tiny_batch())
    assert terms["supervised/source"] == terms["supervised/twin"] > 0


def test_too_few_class_weights_are_counted():
    with pytest.raises(StackError, match="class_weights has 2 values for 5 classes"):
        step(Supervised(class_weights=[1.0, 2.0]), tiny_batch())


def test_options_that_a_models_own_loss_lacks_are_named():
    with pytest.raises(StackError, match="'supervised' sets ohem, options of the cross-entropy, but the run's"):
        step(Supervised(ohem=0.7), tiny_batch(), loss=lambda step, stream: step.logits(stream).mean())


def fitted(strategy: Supervised, source: TinyData, **streams: TinyData) -> Engine:
    engine = Engine(tiny_model(), [strategy], device="cpu")
    engine.fit(source, streams=streams, steps=1, batch_size=2)
    return engine


def test_weights_by_a_rule_and_the_prior_come_from_the_pixels_of_the_data():
    data = TinyData()
    data.labels[data.labels == 3] = 0
    counts = torch.stack([label.flatten().bincount(minlength=5) for label in data.labels])
    by_numbers = Supervised(class_weights=balanced_weights(counts, "median_frequency"))
    run = SegmentationLoss(logit_adjustment=log_prior(counts, 0.5))
    expected = Engine(tiny_model(), [by_numbers], device="cpu", loss=run)
    expected.fit(data, steps=1, batch_size=2)
    found = fitted(Supervised(class_weights="median_frequency", logit_adjustment=0.5), data)
    plain = fitted(Supervised(), data)
    for name, value in expected.model.state_dict().items():
        assert torch.equal(value, found.model.state_dict()[name])
    assert not torch.equal(found.model.head.weight, plain.model.head.weight)


def test_streams_are_counted_together():
    few = TinyData(2, seed=1)
    few.labels[:] = 4
    labels = [*TinyData().labels, *few.labels]
    counts = torch.stack([label.flatten().bincount(minlength=5) for label in labels])
    numbers = Supervised(streams=["source", "few"], class_weights=balanced_weights(counts, "enet"))
    rule = Supervised(streams=["source", "few"], class_weights="enet")
    expected, found = (fitted(strategy, TinyData(), few=few).model.state_dict() for strategy in (numbers, rule))
    assert all(torch.equal(value, found[name]) for name, value in expected.items())


def test_counts_that_no_data_set_gives_are_asked_for():
    with pytest.raises(
        StackError, match="class_weights and logit_adjustment come from the pixels of each class in the"
    ):
        step(Supervised(class_weights="enet", logit_adjustment=1.0), tiny_batch())


@pytest.mark.parametrize("option", ["class_weights", "logit_adjustment"])
def test_a_loss_has_one_value_per_class(option):
    with pytest.raises(StackError, match=f"{option} of the loss: expected 5 values, one per class, got 1"):
        step(Supervised(), tiny_batch(), loss=SegmentationLoss(**{option: [1.0]}))
