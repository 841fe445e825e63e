"""Rare classes on several ranks: draws, class balance and the feature distance are those of one process."""

import copy

import pytest
import torch
from torch import nn

from dalib import Engine, SegmentationLoss, create_strategy, ranks
from dalib.models.batchnorm import synchronised
from tests.distributed.launch import on_ranks
from tests.distributed.test_equal import batch_norm_of_all_ranks, differences, tensors
from tests.plugins.probe import Probe
from tests.tiny import TinyData, tappable_model

STEPS, BATCH = 3, 4


class Uneven(TinyData):
    """Images of which each has one class more than the last, so that ranks have different numbers of full cells."""

    def __init__(self):
        super().__init__(8)
        for index, label in enumerate(self.labels):
            label[label > index % 5] = 0
            label[: index % 4] = 255


def train():
    """Return which images each step saw, its terms, and the networks' state after the first step and the last."""
    nn.SyncBatchNorm.forward = batch_norm_of_all_ranks
    probe = Probe()
    stack = [
        create_strategy("rare_class_sampling", temperature=0.3, min_pixels=10),
        create_strategy("supervised", class_weights="enet", logit_adjustment=1.0),
        create_strategy("feature_distance", layer="body", things=["1", "3"], weight=0.5),
        probe,
    ]
    with pytest.MonkeyPatch.context() as patch:
        for module in ("engine", "context"):
            patch.setattr(
                f"dalib.core.{module}.synchronised", lambda network, _: synchronised(network, torch.device("meta"))
            )
        engine = Engine(
            tappable_model(ranks.rank()),  # the ranks' networks differ before the engine
            stack,
            optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9),
            loss=SegmentationLoss(auxiliary=0.4),
            sync_batch_norm=True,
            device="cpu",
        )
    terms, states, indices = [], [], []
    for found in engine.iterate(Uneven(), steps=STEPS, batch_size=BATCH):
        terms.append({name: value.clone() for name, value in found.items()})
        states.append(copy.deepcopy(engine.networks.state_dict()))
        indices.append(probe.batch["source"].index)
    return {"indices": torch.stack(indices), "terms": terms, "first": states[0], "last": states[-1]}


@pytest.mark.distributed
@pytest.mark.parametrize("world", [2, 4])
def test_ranks_draw_and_train_as_one_process_does(world, tmp_path):
    alone = train()
    found = on_ranks(world, train, tmp_path)
    assert torch.equal(torch.cat([part.pop("indices") for part in found], 1), alone.pop("indices"))
    assert all(terms["feature_distance/distance"] > 0 for terms in alone["terms"][1:])
    for path, difference in differences(alone, found[0]).items():
        assert difference < 1e-5, path
    first = [each["first"]["modules"]["feature_distance/reference"] for each in (alone, *found)]
    assert all(reference == first[0] for reference in first)
    for other in found[1:]:
        pairs = zip(tensors(found[0]), tensors(other), strict=True)
        assert all(torch.equal(one, its) for (_, one), (_, its) in pairs)
