"""The segmentation loss on labelled streams."""

import dataclasses
from collections.abc import Mapping
from dataclasses import field
from typing import Annotated

from pydantic import Field
from torch import Tensor

from dalib import SegmentationLoss, SetupContext, StackError, Step, Strategy, hookimpl
from dalib.losses import SegmentationLossFunction
from dalib.options import NotNegative, Whole
from dalib_plugins.one_class import refuse_one_class
from dalib_plugins.ranges import Streams

OVERRIDES = ("class_weights", "ohem", "min_kept", "auxiliary")


class Supervised(Strategy):
    """Train on labels: the run's segmentation loss of each stream, weighted per pixel by the stream's ``weight``.

    Options:
        streams: the labelled streams.
        class_weights, ohem, min_kept, auxiliary: override the run's loss options (see ``dalib.SegmentationLoss``).
    """

    streams: Streams = field(default_factory=lambda: ["source"])
    class_weights: list[NotNegative] | None = None
    ohem: Annotated[float, Field(gt=0, le=1)] | None = None
    min_kept: Whole | None = None
    auxiliary: NotNegative | None = None

    @property
    def requires(self) -> frozenset[str]:
        return frozenset(f"{stream}.{part}" for stream in self.streams for part in ("image", "label"))

    @property
    def outputs(self) -> frozenset[str]:
        return frozenset(f"{stream}.logits" for stream in self.streams)

    @hookimpl
    def setup(self, ctx: SetupContext) -> None:
        refuse_one_class(ctx)
        if self.class_weights is not None and len(self.class_weights) != ctx.num_classes:
            raise StackError(
                f"strategy {self.name!r}: class_weights has {len(self.class_weights)} values for "
                f"{ctx.num_classes} classes; give one per class."
            )
        self._loss = self.segmentation_loss(ctx.loss)

    def segmentation_loss(self, run: SegmentationLossFunction) -> SegmentationLossFunction:
        """Return the run's loss with this strategy's options."""
        overrides = {name: getattr(self, name) for name in OVERRIDES if getattr(self, name) is not None}
        if not overrides:
            return run
        if not isinstance(run, SegmentationLoss):
            raise StackError(
                f"strategy {self.name!r} sets {', '.join(overrides)}, options of the cross-entropy, but the run's "
                f"segmentation loss is {type(run).__name__}; drop them here, or give the run another `loss:`."
            )
        return dataclasses.replace(run, **overrides)

    @hookimpl
    def loss(self, step: Step) -> Mapping[str, Tensor]:
        return {stream: step.segmentation_loss(stream, self._loss) for stream in self.streams}
