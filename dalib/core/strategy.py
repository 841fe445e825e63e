"""The base class of strategies, the units of a stack."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, dataclass_transform

from dalib.options import NotNegative


@dataclass_transform(kw_only_default=True, eq_default=False)
class Strategy:
    """One stackable unit of adaptation: annotated options, and methods marked ``@hookimpl``.

    Every subclass becomes a keyword-only dataclass compared by identity; its fields are its options and nothing else.
    Run-time state is set in ``setup``. A complete strategy::

        class Entropy(Strategy):
            power: float = 1.0
            forwards = frozenset({"target"})

            @hookimpl
            def loss(self, step):
                p = step.logits("target").softmax(1)
                return {"entropy": -(p * p.log()).sum(1).pow(self.power).mean()}

    Options of every strategy:
        name: the key in logs and checkpoints, unique in a stack; default: the registered name.
        weight: factor of all its loss terms (>= 0), not of its critics' terms.

    Declarations: class attributes, or properties where options decide. The first three hold ``"stream.field"``.
        requires: fields it reads. provides: fields it adds. writes: fields it replaces in ``pre_batch``.
        forwards: streams whose student outputs ``loss`` reads; None = any, which joins all losses into one graph.
        same_size: streams that must have the same (H, W) when its ``pre_batch`` runs.
    """

    name: str = ""
    weight: NotNegative = 1.0

    registered_name: ClassVar[str] = "strategy"

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.registered_name = cls.__name__.lower()
        dataclass(eq=False, kw_only=True)(cls)

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
    def forwards(self) -> frozenset[str] | None:
        return None

    @property
    def same_size(self) -> frozenset[str]:
        return frozenset()

    def resized(self, stream: str, size: tuple[int, int]) -> tuple[int, int]:
        """Return the (H, W) of ``stream`` after this strategy's ``pre_batch``, given the one before."""
        return size

    def check_sizes(self, sizes: Mapping[str, tuple[int, int]]) -> Iterable[str]:
        """Return warnings about the streams' (H, W), where known.

        The sizes are those before this strategy's ``pre_batch`` or, if it has none, after the whole stack's.
        """
        return ()

    def state_dict(self) -> Mapping[str, Any]:
        """Return what a resumed run needs: tensors and primitives."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""


dataclass(eq=False, kw_only=True)(Strategy)
