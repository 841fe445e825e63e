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
    """Hooks that a strategy may implement; the engine calls each in the order of the stack."""

    @hookspec
    def setup(self, ctx: "SetupContext") -> None:
        """Create critics, ask for the teacher, read classes and device; no data yet."""

    @hookspec
    def sampler(self, stream: str, dataset: "SegmentationDataset") -> "Draw | None":
        """Return a pure function from the position in this stream to the index of the item to load, or None."""

    @hookspec
    def pre_batch(self, step: "Step") -> None:
        """Change or add streams, without gradients, by ``step.batch.write`` and ``step.batch.add``."""

    @hookspec
    def loss(self, step: "Step") -> "Mapping[str, Tensor]":
        """Return named 0-d tensors whose weighted sum trains the model."""

    @hookspec
    def critic_loss(self, step: "Step") -> "Mapping[str, Tensor]":
        """Return named 0-d tensors that train this strategy's critics; student outputs are detached."""

    @hookspec
    def post_step(self, step: "Step") -> None:
        """Update counters and log (``step.log``) after the optimiser step."""

    @hookspec
    def predictor(self, model: "nn.Module", predict: Predict) -> Predict:
        """Return a new ``predict(images) -> logits`` around the given one."""

    @hookspec
    def teardown(self) -> None:
        """Release what ``setup`` took; called in reverse order."""


HOOKS: tuple[str, ...] = tuple(n for n in vars(StrategySpecs) if not n.startswith("_"))
