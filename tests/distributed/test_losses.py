"""Losses and DACS's draws see the whole batch: parts of it on two ranks give what one process gives for all of it."""

import torch

from dalib import SegmentationLoss, ranks
from dalib.losses import DiceLoss, whole_batch
from dalib.models.pidnet_loss import PIDNetLoss
from dalib_plugins.dacs import classmix_mask, pseudo_label
from tests.distributed.launch import on_ranks

CLASSES, IMAGES = 4, 4
LOSSES = {
    "plain": SegmentationLoss(class_weights=[1, 2, 0.5, 1]),
    "ohem": SegmentationLoss(ohem=0.2, min_kept=300),
    "few hard": SegmentationLoss(ohem=1e-3, min_kept=10**6),
    "dice": DiceLoss(),
    "pidnet": PIDNetLoss(min_kept=200, boundary_threshold=0.5),
}


def computed():
    """Return the mean over the ranks of each loss, the gradient at this rank's logits, and DACS's share and classes."""
    generator = torch.Generator().manual_seed(3)
    logits = 3 * torch.randn(IMAGES, CLASSES, 24, 32, generator=generator)
    label = torch.randint(CLASSES, (IMAGES, 24, 32), generator=generator)
    label[0], label[1, :20], label[2, :3] = 255, 255, 255
    weight = torch.rand(IMAGES, 24, 32, generator=generator)
    part = slice(*(IMAGES // ranks.world() * (ranks.rank() + end) for end in (0, 1)))
    told = {}
    for name, loss in LOSSES.items():
        own = logits[part].clone().requires_grad_()
        outputs = {"logits": own, "aux.p": own * 0.5, "boundary": own[:, :1]}
        value = loss(outputs, label[part], weight[part], across=whole_batch())
        value.backward()
        gradient = own.grad / ranks.world()  # the engine takes the mean of the ranks' gradients
        told[name] = {"value": ranks.total(value.detach()) / ranks.world(), "gradient": gradient}
    _, told["share"] = pseudo_label(logits[part], 0.9, across=whole_batch())
    constant = torch.arange(IMAGES).view(-1, 1, 1).expand(-1, 24, 32)[part].contiguous()  # a class of its own per image
    draws = [
        classmix_mask(constant, torch.Generator().manual_seed(seed), "batch", across=whole_batch())
        for seed in range(16)
    ]
    told["drawn"] = torch.stack([draw[:2, 0, 0] for draw in draws])
    return told


def test_parts_of_a_batch_on_two_ranks_count_as_the_batch_does_in_one_process(tmp_path):
    alone, parts = computed(), on_ranks(2, computed, tmp_path)
    for name in LOSSES:
        for part in parts:
            torch.testing.assert_close(part[name]["value"], alone[name]["value"], rtol=1e-6, atol=1e-6)
        gradient = torch.cat([part[name]["gradient"] for part in parts])
        torch.testing.assert_close(gradient, alone[name]["gradient"], rtol=1e-4, atol=1e-8)
        assert alone[name]["value"] > 0.1
    for part in parts:
        torch.testing.assert_close(part["share"], alone["share"][:2])
    assert torch.equal(parts[0]["drawn"], alone["drawn"])  # rank 0 draws as one process does, from all four classes
