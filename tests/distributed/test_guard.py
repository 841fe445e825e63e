"""What goes wrong on one rank is undone and told on all."""

import copy

import pytest
import torch

from dalib import Batch, Engine, Stream, hookimpl, ranks
from dalib.core.guard import NonFiniteError
from dalib.errors import DataError
from tests.distributed.launch import on_ranks
from tests.tiny import Supervised, tiny_model


class BadOnOneRank(Supervised):
    """A loss that is NaN on rank 1 in the second step."""

    @hookimpl
    def loss(self, step):
        factor = float("nan") if ranks.rank() == 1 and step.index == 1 and not step.micro else 1.0
        return {"loss": factor * step.segmentation_loss("source")}


def step_on(brightest, strategy):
    """Do a good step, then one whose images on rank 1 reach ``brightest``; return what it said and what has changed."""
    engine = Engine(tiny_model(), [strategy], device="cpu")
    image = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(ranks.rank()))
    label = torch.zeros(2, 16, 16, dtype=torch.int64)
    engine.step(Batch({"source": Stream(image, label)}))
    before = copy.deepcopy(engine.networks.state_dict())
    if ranks.rank() == 1:
        image = image * brightest
    said = ""
    try:
        engine.step(Batch({"source": Stream(image, label)}))
    except (DataError, NonFiniteError) as error:
        said = f"{type(error).__name__}: {error}"
    after = engine.networks.state_dict()
    changed = [key for key, value in before["model"].items() if not torch.equal(value, after["model"][key])]
    return {"said": said, "changed": changed}


def out_of_range():
    return step_on(7.0, Supervised())


def not_finite():
    return step_on(1.0, BadOnOneRank())


@pytest.mark.distributed
def test_images_out_of_range_on_one_rank_are_told_on_all_and_nothing_changes(tmp_path):
    first, second = on_ranks(2, out_of_range, tmp_path)
    assert first == second and not first["changed"]
    assert "DataError: source.image of the batch: expected values in [0, 1]; found" in first["said"]


@pytest.mark.distributed
def test_a_term_that_is_not_finite_on_one_rank_undoes_the_step_on_all(tmp_path):
    first, second = on_ranks(2, not_finite, tmp_path)
    assert first == second and not first["changed"]
    assert "NonFiniteError: step 2 went bad: term 'loss' of strategy" in first["said"]
