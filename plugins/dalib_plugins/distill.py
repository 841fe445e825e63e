"""Distillation from large adapted networks to the student (Hinton et al. 2015; structured: Liu et al., CVPR 2019)."""

from collections.abc import Mapping, Sequence
from dataclasses import field
from functools import partial
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from dalib import (
    OwnedModule,
    SetupContext,
    StackError,
    Step,
    Strategy,
    create_model,
    hookimpl,
    load_model,
    load_weights,
)
from dalib.options import Count, NotNegative, Positive, Whole
from dalib_plugins.one_class import refuse_one_class
from dalib_plugins.ranges import Streams

Teachers = Annotated[list[str | dict[str, Any]], Field(min_length=1)]


def soft_labels(logits: Sequence[Tensor], temperature: float = 1.0) -> Tensor:
    """Return the mean over teachers of softmax(logits / temperature), (B, K, H, W) in float32.

    Args:
        logits: of each teacher, (B, K, H, W).
    """
    return torch.stack([each.float().div(temperature).softmax(1) for each in logits]).mean(0)


def divergence(logits: Tensor, soft: Tensor, temperature: float = 1.0) -> Tensor:
    """Return T^2 KL(soft || softmax(logits / T)) of each pixel, (B, H, W) in float32 (Hinton et al., section 2).

    The factor keeps gradients alike over temperatures.

    Args:
        logits: the student's, (B, K, H, W).
        soft: probabilities (B, K, H, W), as ``soft_labels`` gives.
    """
    log_q = logits.float().div(temperature).log_softmax(1)
    entropy: Tensor = torch.special.entr(soft).sum(1)
    return temperature * temperature * (-entropy - (soft * log_q).sum(1))


def similarity(features: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return the cosine similarity of every two cells of a grid, (B, N, N) in float32 (Liu et al., section 3.1).

    Args:
        features: (B, C, h, w), averaged to the cells.
        grid: (rows, columns), N in all.
    """
    cells = F.normalize(F.adaptive_avg_pool2d(features.float(), grid).flatten(2), dim=1)
    return cells.mT @ cells


class Distill(Strategy):
    """Train the student by the predictions of frozen teachers, on source and target, and by their features.

    Self-training of a light network is bounded by its teacher, which is as light (DUDA, 2504.09814; GKD, 2603.02554).
    Here the teachers are networks that were adapted before, of any size; their softmax is averaged. Each sees the
    images as the student does, after all strategies' ``pre_batch``.

    Published ``weight``: 10 for both terms (Liu et al.), at a temperature of 1.

    Options:
        teachers: runs, by their folder or a checkpoint, with the network that each one's own recipe names; or a network
            with weights from elsewhere, ``{use: deeplabv2, weights: FILE}``. Each has the classes of this run.
        streams: those to distil on; none needs labels.
        temperature: T, which the logits of both are divided by.
        layers: layers of the student, and that of the one teacher whose features each is compared with, by path.
        feature_weight: of their term beside the predictions'.
        grid: most cells, (rows, columns), that features are averaged to; similarities are of all pairs of cells.
        feature_steps: in the first so many steps the features alone are trained (0: both together all the time); from
            then on ``freeze``, paths of the student's modules, is frozen, and the predictions train the rest (GKD's two
            stages). Other strategies' terms stay what their ``weight`` says.
    """

    teachers: Teachers
    streams: Streams = field(default_factory=lambda: ["source", "target"])
    temperature: Positive = 1.0
    layers: dict[str, str] = field(default_factory=dict)
    feature_weight: NotNegative = 1.0
    grid: tuple[Count, Count] = (16, 32)
    feature_steps: Whole = 0
    freeze: list[str] = field(default_factory=list)

    @property
    def requires(self) -> frozenset[str]:
        return frozenset(f"{stream}.image" for stream in self.streams)

    @property
    def outputs(self) -> frozenset[str]:
        return frozenset(f"{stream}.{name}" for stream in self.streams for name in ("logits", *self.layers))

    @hookimpl
    def setup(self, ctx: SetupContext) -> None:
        refuse_one_class(ctx)
        if self.layers and len(self.teachers) > 1:
            raise StackError(f"strategy {self.name!r}: layers compares features with one teacher's; name one teacher.")
        if bool(self.feature_steps) != bool(self.freeze) or (self.feature_steps and not self.layers):
            raise StackError(
                f"strategy {self.name!r}: two stages need feature_steps, the layers to compare and what to freeze "
                "after them; give all three, or neither feature_steps nor freeze."
            )
        for layer in self.layers:
            ctx.tap(layer)
        model: Any = ctx.model
        self._frozen = [model.layer(path) for path in self.freeze]
        self._teachers = [
            ctx.module(f"teacher{number}", partial(self._teacher, given, ctx.num_classes, ctx.classes), trains=None)
            for number, given in enumerate(self.teachers, start=1)
        ]

    def _teacher(self, given: str | dict[str, Any], num_classes: int, classes: tuple[str, ...]) -> nn.Module:
        if isinstance(given, str):
            model = load_model(given)
            if model.classes != classes:
                raise StackError(
                    f"strategy {self.name!r}: {given} was trained on the classes {', '.join(model.classes or ())}, and "
                    f"this run has {', '.join(classes)}; a teacher needs the same ones in the same order."
                )
            return model
        options = dict(given)
        weights = options.pop("weights", None)
        if weights is None:
            raise StackError(f"strategy {self.name!r}: the teacher {given} has no weights; give it `weights: FILE`.")
        network = create_model(**options, num_classes=num_classes)
        if missing := load_weights(network, weights).missing:
            raise StackError(f"strategy {self.name!r}: {weights} lacks {len(missing)} tensors, {missing[0]} first.")
        return network

    @hookimpl
    def pre_batch(self, step: Step) -> None:
        if self.feature_steps and step.index >= self.feature_steps:
            for module in self._frozen:
                module.requires_grad_(False).eval()

    @hookimpl
    def loss(self, step: Step) -> Mapping[str, Tensor]:
        early = step.index < self.feature_steps
        terms = {}
        for stream in self.streams:
            of = step.batch[stream]
            with torch.no_grad():
                taught = [self._taught(teacher, of.image) for teacher in self._teachers]
            if not early:
                soft = soft_labels([each["logits"] for each in taught], self.temperature)
                values = divergence(step.logits(stream), soft, self.temperature)
                terms[stream] = step.mean(values, weight=of.weight)
            if self.layers and (early or not self.feature_steps):
                pairs = [(step.output(stream, mine), taught[0][theirs]) for mine, theirs in self.layers.items()]
                distances = torch.stack([self._distance(*pair) for pair in pairs])
                terms[f"{stream}_features"] = self.feature_weight * step.mean(distances)
        return terms

    def _taught(self, teacher: OwnedModule, image: Tensor) -> dict[str, Tensor]:
        """Return a teacher's logits and features, without what else it gives, which may be large."""
        outputs = teacher(image, outputs=list(self.layers.values()) or True)
        return {name: outputs[name] for name in ("logits", *self.layers.values())}

    def _distance(self, mine: Tensor, theirs: Tensor) -> Tensor:
        """Return the mean squared difference of the similarities of two maps (B, C, h, w), (B,)."""
        if mine.dim() != 4 or theirs.dim() != 4:
            raise StackError(
                f"strategy {self.name!r} compares feature maps (B, C, h, w); it got {tuple(mine.shape)} of the student "
                f"and {tuple(theirs.shape)} of the teacher. Name other layers."
            )
        rows, columns = (min(sides) for sides in zip(self.grid, mine.shape[-2:], theirs.shape[-2:], strict=True))
        return (similarity(mine, (rows, columns)) - similarity(theirs, (rows, columns))).square().mean((1, 2))
