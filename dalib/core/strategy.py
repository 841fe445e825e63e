"""The base class of strategies, the units of a stack."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, dataclass_transform

from dalib.core.ramp import Ramp
from dalib.errors import StackError
from dalib.losses import SegmentationLossFunction
from dalib.options import NotNegative

DECLARATIONS = ("requires", "provides", "writes", "outputs", "critic_outputs", "same_size")


@dataclass_transform(kw_only_default=True, eq_default=False)
class Strategy:
    """One stackable unit of adaptation: annotated options, and methods marked ``@hookimpl``.

    Every subclass becomes a keyword-only dataclass compared by identity; its fields are its options and nothing else.
    Run-time state is set in ``setup``. A complete strategy::

        class Entropy(Strategy):
            power: float = 1.0
            outputs = frozenset({"target.logits"})

            @hookimpl
            def loss(self, step):
                p = step.logits("target").softmax(1)
                return {"entropy": -(p * p.log()).sum(1).pow(self.power).mean()}

    Options of every strategy:
        name: the key in logs and checkpoints, unique in a stack; default: the registered name.
        weight: factor of all its loss terms (>= 0), not of its critics' terms, or a ramp over the optimiser steps,
            ``{from: 0, to: 0.1, steps: 1000, start: 500}``. At 0 its ``loss`` is not called.

    Declarations: class attributes without annotation, or properties where options decide; sets of ``"stream.field"``.
        requires: fields it reads. provides: fields it adds. writes: fields it replaces in ``pre_batch``.
        outputs: what ``loss`` reads of student or teacher, and ``pre_batch`` of the teacher beside its logits, such as
            ``"target.logits"``; None = any, which joins all losses into one graph. critic_outputs: likewise for
            ``critic_loss``.
        same_size: streams, by name alone, that must have the same (H, W) when its ``pre_batch`` runs.
        adapts: True where its ``predictor`` changes the model from image to image. It then gets a copy, and the images
            of an evaluation come in order, in one process.
    """

    name: str = ""
    weight: NotNegative | Ramp = 1.0

    registered_name: ClassVar[str] = "strategy"

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.registered_name = cls.__name__.lower()
        try:
            dataclass(eq=False, kw_only=True)(cls)
        except ValueError as error:  # a mutable default
            raise StackError(
                f"{cls.__name__}: {error}. Write a list as a tuple, `sizes: tuple[float, ...] = (0.5, 1.0)`, which a "
                "recipe gives as a list; or use dataclasses.field."
            ) from None
        options = [option.name for option in fields(cls)]  # type: ignore[arg-type]
        if annotated := [name for name in options if name in (*DECLARATIONS, "adapts")]:
            value = "True" if annotated[0] == "adapts" else "frozenset(...)"
            raise StackError(
                f"{cls.__name__}.{annotated[0]} is annotated, which makes it an option of the recipe; write it without "
                f"annotation: {annotated[0]} = {value}."
            )

    def __post_init__(self) -> None:
        self.name = self.name or self.registered_name

    # Properties, so that a subclass may override each with a class attribute or with a property.
    @property
    def requires(self) -> frozenset[str]:
        return frozenset()

    @property
    def provides(self) -> frozenset[str]:
        return frozenset()

    @property
    def writes(self) -> frozenset[str]:
        return frozenset()

    @property
    def outputs(self) -> frozenset[str] | None:
        return None

    @property
    def critic_outputs(self) -> frozenset[str] | None:
        return None

    @property
    def same_size(self) -> frozenset[str]:
        return frozenset()

    @property
    def adapts(self) -> bool:
        return False

    def sizes(self, before: Mapping[str, tuple[int, int]]) -> Mapping[str, tuple[int, int]]:
        """Return the (H, W) of the streams that ``pre_batch`` resizes or adds; ``before``: the known sizes before it.

        An added stream without a size here is taken to be as large as the streams of ``same_size``.
        """
        return {}

    def check_sizes(self, sizes: Mapping[str, tuple[int, int]]) -> Iterable[str]:
        """Return warnings about the streams' (H, W), where known.

        The sizes are those before this strategy's ``pre_batch`` or, if it has none, after the whole stack's.
        """
        return ()

    def segmentation_loss(self, run: SegmentationLossFunction) -> SegmentationLossFunction:
        """Return the segmentation loss that it takes of labelled streams, by default the run's.

        One that trains on no class of a stream's labels is refused before the first step.
        """
        return run

    def state_dict(self) -> Mapping[str, Any]:
        """Return what a resumed run needs: tensors and primitives."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""


dataclass(eq=False, kw_only=True)(Strategy)


def declared_streams(strategy: Strategy) -> frozenset[str] | None:
    """Return the streams that a strategy declares; None if it declares no ``requires``: then it may read any."""
    if type(strategy).requires is Strategy.requires:
        return None
    declared = strategy.requires | strategy.provides | strategy.writes
    declared |= (strategy.outputs or frozenset()) | (strategy.critic_outputs or frozenset())
    return frozenset(entry.split(".")[0] for entry in declared)
