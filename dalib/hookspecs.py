"""The hooks of dalib: one of the process (plugins register their names) and those of an engine's stack."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol, TypeVar

import pluggy

if TYPE_CHECKING:
    from torch import Tensor, nn

    from dalib.data import Draw, SegmentationDataset
    from dalib.registry import Registry
    from dalib.setup import SetupContext
    from dalib.step import Step

F = TypeVar("F", bound=Callable[..., object])

PROJECT = "dalib"
hookspec = pluggy.HookspecMarker(PROJECT)
_mark = pluggy.HookimplMarker(PROJECT)

Predict = Callable[["Tensor"], "Tensor"]


def hookimpl(function: F) -> F:
    """Mark a method of a strategy as an implementation of the hook that it is named after.

    The order of a stack is the order of the user's list, so pluggy's ordering and wrapper options do not exist here.
    """
    return _mark(function)


class PluginSpecs:
    """What a plugin package implements."""

    @hookspec
    def dalib_register(self, registry: "Registry") -> None:
        """Register strategies, models and datasets: ``registry.strategy("name", cls)`` and so on."""


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
