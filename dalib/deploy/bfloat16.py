"""Inference in bfloat16, with half the memory traffic; logits are still interpolated in float32."""

from copy import deepcopy

import torch
from torch import Tensor, nn

from dalib.models.wrapper import SegmentationModel


def in_bfloat16(model: SegmentationModel) -> SegmentationModel:
    """Return a copy of ``model`` whose network has bfloat16 weights and activations.

    Images are normalised and logits are interpolated in float32, since neighbouring logits would tie in bfloat16's 8
    bits of precision.
    """
    lowered = deepcopy(model)
    lowered.network = BFloat16(lowered.network)
    return lowered


class BFloat16(nn.Module):
    """A network in bfloat16 that takes float32 images and gives float32 outputs."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.bfloat16()

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Map normalised images (B, 3, H, W) to the network's outputs."""
        found = self.network(x.to(torch.bfloat16))
        named = {"logits": found} if isinstance(found, Tensor) else found
        return {name: output.float() for name, output in named.items()}
