"""The segmentation loss on labelled streams."""

import dataclasses
from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from dalib import SegmentationLoss, SetupContext, StackError, Step, Strategy, hookimpl
from dalib.data import Draw, SegmentationDataset, label_counts
from dalib.losses import SegmentationLossFunction, WeightRule, balanced_weights, log_prior
from dalib.options import NotNegative, Whole
from dalib_plugins.one_class import refuse_one_class
from dalib_plugins.ranges import Streams

OVERRIDES = ("class_weights", "logit_adjustment", "ohem", "min_kept", "auxiliary")


class Supervised(Strategy):
    """Train on labels: the run's segmentation loss of each stream, weighted per pixel by the stream's ``weight``.

    Options:
        streams: the labelled streams.
        class_weights: a factor per class, or a rule that gives them from the pixels of each class in the data sets of
            ``streams``, see ``dalib.losses.balanced_weights``.
        logit_adjustment: tau of logit adjustment by the same pixels, see ``dalib.losses.log_prior``; published: 1.
        ohem, min_kept, auxiliary: as of ``dalib.SegmentationLoss``. All override the options of the run's loss.
    """

    streams: Streams = field(default_factory=lambda: ["source"])
    class_weights: list[NotNegative] | WeightRule | None = None
    logit_adjustment: NotNegative | None = None
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
        if isinstance(self.class_weights, list) and len(self.class_weights) != ctx.num_classes:
            raise StackError(
                f"strategy {self.name!r}: class_weights has {len(self.class_weights)} values for "
                f"{ctx.num_classes} classes; give one per class."
            )
        self._run, self._num_classes = ctx.loss, ctx.num_classes
        self._counts: dict[str, Tensor] = {}  # by stream: pixels of each class in each image
        self._balance: dict[str, list[float]] = {}  # options of the loss that come from them
        self._loss = self.segmentation_loss(ctx.loss)

    @hookimpl
    def sampler(self, stream: str, dataset: SegmentationDataset) -> Draw | None:
        """Draw nothing, but count the pixels of the classes where the loss needs them."""
        if self._by_counts and stream in self.streams:
            self._counts[stream] = label_counts(dataset)[:, : self._num_classes]
            counts = torch.cat(list(self._counts.values()))
            if isinstance(self.class_weights, str):
                self._balance["class_weights"] = balanced_weights(counts, self.class_weights)
            if self.logit_adjustment is not None:
                self._balance["logit_adjustment"] = log_prior(counts, self.logit_adjustment)
            self._loss = self.segmentation_loss(self._run)
        return None

    def segmentation_loss(self, run: SegmentationLossFunction) -> SegmentationLossFunction:
        """Return the run's loss with this strategy's options, those by counts as far as these are known."""
        overrides = {name: getattr(self, name) for name in OVERRIDES if getattr(self, name) is not None}
        if not overrides:
            return run
        if not isinstance(run, SegmentationLoss):
            raise StackError(
                f"strategy {self.name!r} sets {', '.join(overrides)}, options of the cross-entropy, but the run's "
                f"segmentation loss is {type(run).__name__}; drop them here, or give the run another `loss:`."
            )
        known: dict[str, Any] = {name: value for name, value in overrides.items() if name not in self._by_counts}
        return dataclasses.replace(run, **known, **getattr(self, "_balance", {}))

    @hookimpl
    def loss(self, step: Step) -> Mapping[str, Tensor]:
        if self._by_counts and not self._counts:
            raise StackError(
                f"strategy {self.name!r}: {' and '.join(self._by_counts)} come from the pixels of each class in the "
                f"data sets that `fit` or `iterate` is given for {', '.join(self.streams)}, and there is none. Give "
                "numbers, class_weights here or logit_adjustment in the run's `loss:`."
            )
        return {stream: step.segmentation_loss(stream, self._loss) for stream in self.streams}

    @property
    def _by_counts(self) -> tuple[str, ...]:
        """The options that need the pixels of each class."""
        rule = ("class_weights",) if isinstance(self.class_weights, str) else ()
        return rule if self.logit_adjustment is None else (*rule, "logit_adjustment")
