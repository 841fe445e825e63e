"""Self-training on several ranks is self-training in one process with the same batch, given the same masks."""

import copy

import pytest
import torch
from torch import nn

from dalib import Batch, Engine, Stream
from dalib.models.batchnorm import synchronised
from dalib_plugins.dacs import Dacs
from dalib_plugins.masked_consistency import MaskedConsistency
from dalib_plugins.supervised import Supervised
from tests.distributed.launch import on_ranks
from tests.distributed.test_equal import (
    CLASSES,
    SIZE,
    STEPS,
    batch_norm_of_all_ranks,
    differences,
    own_part,
    streams,
    tensors,
)
from tests.tiny import tiny_model

PLAIN = {"threshold": 0.3, "jitter_p": 0.0, "blur_p": 0.0}  # about half of the pixels; each rank draws for itself
STACKS = {
    "classmix": lambda: [Supervised(), Dacs(**PLAIN)],
    "cutmix": lambda: [Supervised(), Dacs(**PLAIN, mask="cutmix")],
    "cowmask": lambda: [Supervised(), Dacs(**PLAIN, mask="cowmask", teacher_start=1)],
    "masked": lambda: [Supervised(), MaskedConsistency(name="masked", **PLAIN, block=8)],
    "complementary": lambda: [Dacs(**PLAIN), MaskedConsistency(name="masked", **PLAIN, block=8, complementary=True)],
}


def chequers(count, *_):
    """Return a mask that takes no draw: squares of eight pixels."""
    rows, columns = (torch.arange(side) // 8 for side in SIZE)
    return ((rows[:, None] + columns) % 2 == 0).expand(count, *SIZE)


def batch_of(index, images):
    """Return this rank's part of a batch whose target becomes darker from image to image, and the teacher less sure."""
    given = streams(index, 0, images)
    target = given["target"].image * torch.linspace(1, 0.4, images).view(-1, 1, 1, 1)
    return Batch({"source": own_part(given["source"]), "target": own_part(Stream(target))})


def train(stack, images=8):
    """Return each step's terms and the networks' last state."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.SyncBatchNorm, "forward", batch_norm_of_all_ranks)
        patch.setattr("dalib_plugins.dacs.classmix_mask", lambda label, **_: label % 2 == 0)
        for place in ("dacs.cutmix_mask", "dacs.cow_mask", "masked_consistency.block_mask"):
            patch.setattr(f"dalib_plugins.{place}", chequers)
        patch.setattr("dalib.core.engine.synchronised", lambda network, _: synchronised(network, torch.device("meta")))
        engine = Engine(
            tiny_model(num_classes=CLASSES),
            STACKS[stack](),
            optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.01, momentum=0.9),
            sync_batch_norm=True,
            device="cpu",
        )
        terms = []
        for index in range(STEPS):
            terms.append({name: value.clone() for name, value in engine.step(batch_of(index, images)).items()})
    return {"terms": terms, "last": copy.deepcopy(engine.networks.state_dict())}


@pytest.mark.distributed
@pytest.mark.parametrize("stack", STACKS)
def test_two_ranks_train_themselves_as_one_process_does(stack, tmp_path):
    alone = train(stack)
    found = on_ranks(2, train, tmp_path, stack=stack)
    confident = [value for terms in alone["terms"] for name, value in terms.items() if name.endswith("/confident")]
    assert confident and all(0.05 < value < 0.95 for value in confident)
    for path, difference in differences(alone, found[0]).items():
        assert difference < (1e-4 if "/optimizer" in path else 1e-5), path  # gradients near 0 are sums that cancel
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(tensors(found[0]), tensors(found[1]), strict=True))
