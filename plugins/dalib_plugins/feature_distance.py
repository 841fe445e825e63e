"""Feature distance: DAFormer's (Hoyer et al. 2022, section 3.4), which holds features near those of the start."""

import copy
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dalib import Ramp, SetupContext, StackError, Step, Strategy, create_model, hookimpl, suggest
from dalib.options import NotNegative, Probability

THINGS = ("traffic light", "traffic sign", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle")


def full_cells(label: Tensor, things: Tensor, size: tuple[int, int], ratio: float) -> Tensor:
    """Return the cells (B, h, w) of a grid of ``size`` of which one of the things fills at least ``ratio``, bool.

    Args:
        label: (B, H, W) int64. things: (C,) their train ids.
    """
    one_hot = (label[:, None] == things.view(1, -1, 1, 1)).float()
    return (F.adaptive_avg_pool2d(one_hot, size) >= ratio).any(1)


class FeatureDistance(Strategy):
    """Minimise the L2 distance of a layer's features on source images from those of a frozen reference, the mean over
    the cells that one of ``things`` fills; exactly 0 where there is none.

    The reference is in eval mode. It helps as far as it knows more than the source teaches, as ImageNet's weights do.

    Options:
        layer: path of the layer; None: the deepest of the backbone.
        reference: a model as a recipe names it, such as ``{use: bisenet, weights: FILE}``; None: the network itself as
            it was when the run started.
        things: names of classes; None: those of Cityscapes' things that the data have.
        ratio: least share of a cell's pixels, in 0..1.
    """

    weight: NotNegative | Ramp = 0.005
    layer: str | None = None
    reference: dict[str, Any] | None = None
    things: tuple[str, ...] | None = None
    ratio: Probability = 0.75

    requires = frozenset({"source.image", "source.label"})

    @property
    def outputs(self) -> frozenset[str]:
        # Before setup has found the layer, what counts is the stream, by which losses are grouped.
        return frozenset({f"source.{getattr(self, '_path', self.layer or 'logits')}"})

    @hookimpl
    def setup(self, ctx: SetupContext) -> None:
        wanted = self.things or [name for name in THINGS if name in ctx.classes]
        for name in wanted:
            if name not in ctx.classes:
                raise StackError(
                    f"strategy {self.name!r}: things: there is no class {name!r}.{suggest(name, ctx.classes)}"
                )
        if not wanted:
            raise StackError(
                f"strategy {self.name!r}: none of Cityscapes' things is among the classes {', '.join(ctx.classes)}; "
                "name the ones to hold as `things`."
            )
        self._things = torch.tensor([ctx.classes.index(name) for name in wanted], device=ctx.device)
        self._path = self.layer or self._deepest(ctx)
        ctx.tap(self._path)
        self._reference = ctx.module("reference", lambda: self._make(ctx), trains=None)

    @hookimpl
    def loss(self, step: Step) -> Mapping[str, Tensor]:
        source = step.batch["source"]
        assert source.label is not None  # the stack has checked `requires`
        features = step.output("source", self._path).float()
        start = self._reference(source.image, outputs=[self._path])[self._path].float()
        if features.shape != start.shape:
            raise StackError(
                f"strategy {self.name!r}: {self._path!r} gives features {tuple(features.shape)} in the network and "
                f"{tuple(start.shape)} in the reference; give a reference of the same architecture."
            )
        cells = full_cells(source.label, self._things, (features.shape[-2], features.shape[-1]), self.ratio)
        return {"distance": step.mean(torch.linalg.vector_norm(features - start, dim=1), cells)}

    def _make(self, ctx: SetupContext) -> nn.Module:
        if self.reference is not None:
            return create_model(**self.reference, num_classes=ctx.num_classes)
        return copy.deepcopy(getattr(ctx.model, "_orig_mod", ctx.model))  # a copy of what torch.compile wraps

    def _deepest(self, ctx: SetupContext) -> str:
        """Return the path of the last layer of the network's backbone that gives its deepest features."""
        network = getattr(getattr(ctx.model, "_orig_mod", ctx.model), "network", ctx.model)
        for path, module in network.named_modules():
            if path.rpartition(".")[2] == "backbone" and hasattr(module, "levels"):
                for last in _last_layers(module, path):
                    with suppress(StackError):  # not every module gives one tensor
                        if ctx.tap(last) == module.levels[-1][1]:
                            return last
        raise StackError(
            f"strategy {self.name!r} cannot tell which layer of {type(network).__name__} gives its deepest features; "
            "name it as `layer`."
        )


def _last_layers(module: nn.Module, path: str) -> Iterator[str]:
    """Yield the path of a module's last child, that of this one's last, and so on."""
    while children := list(module.named_children()):
        name, module = children[-1]
        path = f"{path}.{name}"
        yield path
