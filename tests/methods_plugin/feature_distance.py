"""Feature distance: DAFormer's (Hoyer et al. 2022), which holds features near those of a reference."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dalib import SetupContext, StackError, Step, Strategy, create_model, hookimpl, suggest
from dalib.options import Probability
from tests.methods_plugin.labels import one_hot

THINGS = ("traffic light", "traffic sign", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle")


class FeatureDistance(Strategy):
    """Minimise the L2 distance of a layer's features on source images from those of a frozen reference, where one of
    ``things`` fills a share of the pixels that a feature stands for.

    Published ``weight``: 0.005, with a reference that has ImageNet's weights.

    Options:
        reference: a model as a recipe names it, such as ``{use: bisenet, weights: FILE}``.
        layer: path of the layer, in the network and in the reference.
        things: names of classes. share: above which a class counts, in 0..1.
    """

    reference: dict[str, Any]
    layer: str
    things: tuple[str, ...] = THINGS
    share: Probability = 0.75

    requires = frozenset({"source.image", "source.label"})

    @property
    def outputs(self) -> frozenset[str]:
        return frozenset({f"source.{self.layer}"})

    @hookimpl
    def setup(self, ctx: SetupContext) -> None:
        for name in self.things:
            if name not in ctx.classes:
                raise StackError(
                    f"strategy {self.name!r}: things: there is no class {name!r}.{suggest(name, ctx.classes)}"
                )
        ctx.tap(self.layer)
        self._things = torch.tensor([ctx.classes.index(name) for name in self.things], device=ctx.device)
        self._reference = ctx.module(
            "reference", lambda: create_model(**self.reference, num_classes=ctx.num_classes), trains=None
        )

    @hookimpl
    def loss(self, step: Step) -> Mapping[str, Tensor]:
        source = step.batch["source"]
        assert source.label is not None  # the stack has checked `requires`
        features = step.output("source", self.layer).float()
        wanted = self._reference(source.image, outputs=[self.layer])[self.layer].float()
        if features.shape != wanted.shape:
            raise StackError(
                f"strategy {self.name!r}: {self.layer!r} gives features {tuple(features.shape)} in the network and "
                f"{tuple(wanted.shape)} in the reference; give a reference of the same architecture."
            )
        height, width = features.shape[-2:]
        filled = F.adaptive_avg_pool2d(one_hot(source.label, self._things), (height, width)) > self.share
        distance = torch.linalg.vector_norm(features - wanted, dim=1)
        return {"distance": step.mean(distance, filled.any(1))}
