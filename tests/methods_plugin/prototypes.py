"""Prototypes of classes: features are drawn to that of their class and from the others (SePiCo, Xie et al. 2023)."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dalib import IGNORE, SetupContext, Step, Strategy, hookimpl
from dalib.options import Count, Momentum, Positive, Probability
from tests.methods_plugin.labels import nearest, one_hot


def make_head(channels: int, dimensions: int) -> nn.Module:
    """Return a projection head: two 1x1 convolutions, (B, channels, h, w) -> (B, dimensions, h, w)."""
    return nn.Sequential(nn.Conv2d(channels, channels, 1), nn.ReLU(), nn.Conv2d(channels, dimensions, 1))


def class_sums(features: Tensor, label: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Return the sum of the features of each class (K, D) and their number (K,).

    Args:
        features: (B, D, h, w) float32. label: (B, h, w) int64, 255 = ignore.
    """
    of_class = one_hot(label, torch.arange(num_classes, device=label.device))
    return torch.einsum("bkhw,bdhw->kd", of_class, features), of_class.sum((0, 2, 3))


def contrast(features: Tensor, label: Tensor, prototypes: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return the cross-entropy of classifying features by their cosine similarity to prototypes over ``temperature``.

    Args:
        features: (B, D, h, w) float32. label: (B, h, w) int64, 255 = ignore.
        prototypes: (K, D), zeros for a class that is not known yet, which is no choice and whose pixels are ignored.

    Returns:
        values: (B, h, w), 0 where ignored. valid: (B, h, w) bool.
    """
    known = prototypes.any(1)
    label = label.masked_fill(~known[label.clamp(max=len(known) - 1)], IGNORE)
    similarity = torch.einsum("bdhw,kd->bkhw", F.normalize(features, dim=1), F.normalize(prototypes, dim=1))
    logits = (similarity / temperature).masked_fill(~known.view(1, -1, 1, 1), -1e4)
    return F.cross_entropy(logits, label, ignore_index=IGNORE, reduction="none"), label != IGNORE


class Prototypes(Strategy):
    """Classify projected features of a layer by their nearness to prototypes of the classes, SePiCo's contrast with
    centroids: on the source by its labels, on the target by what the teacher is sure of.

    A prototype is the moving average of the teacher's projected source features of its class. It is kept up while the
    ``weight`` is 0, so that a ramp begins with known ones.

    Options:
        layer: path of the layer in the network. dimensions: of the projected features.
        momentum: of the moving average. temperature: what similarities are divided by.
        threshold: probability below which the teacher's label of a target pixel is ignored.
    """

    layer: str
    dimensions: Count = 256
    momentum: Momentum = 0.999
    temperature: Positive = 0.1
    threshold: Probability = 0.968

    requires = frozenset({"source.image", "source.label", "target.image"})

    @property
    def outputs(self) -> frozenset[str]:
        return frozenset({f"source.{self.layer}", f"target.{self.layer}", "target.logits"})

    @hookimpl
    def setup(self, ctx: SetupContext) -> None:
        channels = ctx.tap(self.layer)
        self._head = ctx.module("head", lambda: make_head(channels, self.dimensions), averaged=True)
        self._prototypes = torch.zeros(ctx.num_classes, self.dimensions, device=ctx.device)
        self._sums: tuple[Tensor, Tensor]  # of features and pixels by class, over this step's micro-batches

    @hookimpl
    def pre_batch(self, step: Step) -> None:
        label = step.batch["source"].label
        assert label is not None  # the stack has checked `requires`
        projected = self._head.teacher(step.output("source", self.layer, teacher=True))
        features = F.normalize(projected.float(), dim=1)
        sums, counts = class_sums(features, nearest(label, features.shape[-2:]), len(self._prototypes))
        self._sums = (self._sums[0] + sums, self._sums[1] + counts) if step.micro else (sums, counts)

    @hookimpl
    def loss(self, step: Step) -> Mapping[str, Tensor]:
        probability, pseudo = step.teacher_logits("target").softmax(1).max(1)
        source, target = step.batch["source"], step.batch["target"]
        unsure = probability < self.threshold
        if target.weight is not None:  # where a crop went beyond the image
            unsure |= target.weight == 0
        assert source.label is not None
        labels = {"source": source.label, "target": pseudo.masked_fill(unsure, IGNORE)}
        return {stream: self._contrast(step, stream, label) for stream, label in labels.items()}

    @hookimpl
    def post_step(self, step: Step) -> None:
        sums, counts = self._sums
        known, seen = self._prototypes.any(1, keepdim=True), (counts > 0) & step.finite
        means = sums / counts.clamp(min=1)[:, None]
        moved = torch.lerp(self._prototypes, means, torch.where(known, 1 - self.momentum, 1.0))
        self._prototypes = torch.where(seen[:, None], moved, self._prototypes)
        step.log("known", self._prototypes.any(1).float().mean())

    def state_dict(self) -> Mapping[str, Any]:
        return {"prototypes": self._prototypes}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._prototypes = state["prototypes"].to(self._prototypes.device)

    def _contrast(self, step: Step, stream: str, label: Tensor) -> Tensor:
        features = self._head(step.output(stream, self.layer)).float()
        label = nearest(label, features.shape[-2:])
        return step.mean(*contrast(features, label, self._prototypes, self.temperature))
