"""The hooks of a stack: what a strategy may implement."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

from dalib.hooks import Predict, hookspec

if TYPE_CHECKING:
    from torch import Tensor, nn

    from dalib.core.context import SetupContext
    from dalib.core.step import Step
    from dalib.data.dataset import Draw, SegmentationDataset


class StrategySpecs(Protocol):
    """What a strategy may implement; an engine calls each in the order of its list."""

    @hookspec
    def setup(self, ctx: "SetupContext") -> None:
        """Create critics, ask for the teacher, read classes and device; no data yet."""

    @hookspec
    def sampler(self, stream: str, dataset: "SegmentationDataset") -> "Draw | None":
        """Return what the loader draws from for this stream: a pure function from position to index."""

    @hookspec
    def pre_batch(self, step: "Step") -> None:
        """Change or add streams, without gradients: ``step.batch.write``, ``step.batch.add``."""

    @hookspec
    def loss(self, step: "Step") -> "Mapping[str, Tensor]":
        """Return named scalars that train the model."""

    @hookspec
    def critic_loss(self, step: "Step") -> "Mapping[str, Tensor]":
        """Return named scalars that train this strategy's critics; student outputs come detached."""

    @hookspec
    def post_step(self, step: "Step") -> None:
        """Counters, schedules and ``step.log`` after the update."""

    @hookspec
    def predictor(self, model: "nn.Module", predict: Predict) -> Predict:
        """Return a new ``predict(images) -> logits`` around the given one."""

    @hookspec
    def teardown(self) -> None:
        """Release what ``setup`` took; called in reverse order."""


HOOKS: tuple[str, ...] = tuple(n for n in vars(StrategySpecs) if not n.startswith("_"))
