"""A network on two scales around any registered one: HRDA's fusion (Hoyer et al. 2022), without its crops."""

from typing import Any

import torch
from torch import Tensor, nn

from dalib import create_model, resize


class TwoScales(nn.Module):
    """The inner network on the image (detail) and on half of it (context), fused class by class by learned attention.

    With a = attention(features of the context) in 0..1 and both logits at the image's size:
    ``logits = a * detail + (1 - a) * context``. Other outputs are those of the context.

    Args:
        num_classes: K.
        inner: a network as a recipe names it, ``{use: name, ...}``, that gives ``features``.
    """

    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)  # the inner model normalises

    def __init__(self, num_classes: int, *, inner: dict[str, Any]) -> None:
        super().__init__()
        self.inner = create_model(**inner, num_classes=num_classes)
        with torch.no_grad():
            features = self.inner.eval()(torch.zeros(1, 3, 64, 64), outputs=True)["features"]
        self.context = nn.Identity()  # for taps: a layer of the inner network runs twice
        self.attention = nn.Conv2d(features.shape[1], num_classes, 1)
        self.train()

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Map images (B, 3, H, W) to ``logits`` (B, K, H, W), the context's outputs; ``aux.detail`` in training."""
        height, width = x.shape[-2:]
        context = self.inner(resize(x, (height // 2, width // 2)), outputs=True)
        detail = self.inner(x)
        attention = self.attention(self.context(context["features"])).float().sigmoid()
        share = resize(attention, (height, width))
        logits = share * detail + (1 - share) * resize(context["logits"], (height, width))
        return {**context, "logits": logits} | ({"aux.detail": detail} if self.training else {})
