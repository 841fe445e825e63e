"""A model around any other, as a plugin that a recipe names: ``plugins: [tests.wrapper_plugin]``, public names only."""

from typing import Any

import torch
from torch import Tensor, nn

from dalib import Registry, create_model, hookimpl, resize


class TwoScales(nn.Module):
    """A network on the image and on half of it, mixed by what it learns to attend to."""

    training_heads = ("unused",)

    def __init__(self, num_classes: int, *, inner: dict[str, Any]) -> None:
        super().__init__()
        options = dict(inner)
        model: Any = create_model(options.pop("use"), num_classes, **options)
        self.inner: nn.Module = model.network  # bare: the model around this one normalises
        self.mean, self.std = model.mean, model.std
        self.attention = nn.Conv2d(num_classes, 1, 1)
        self.unused = nn.Conv2d(num_classes, 1, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Map normalised images (B, 3, H, W) to the inner network's outputs, with mixed logits."""
        size = (x.shape[-2], x.shape[-1])
        outputs = self.inner(x)
        context = self.inner(resize(x, (size[0] // 2, size[1] // 2)))["logits"]
        fine, context = resize(outputs["logits"], size), resize(context, size)
        share = torch.sigmoid(self.attention(context))
        return {**outputs, "logits": share * fine + (1 - share) * context}


@hookimpl
def dalib_register(registry: Registry) -> None:
    """Register ``two_scales``."""
    registry.model("two_scales", TwoScales)
