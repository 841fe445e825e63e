"""Loss terms and logged scalars of one step, kept on the device."""

from collections.abc import Mapping

import torch
from torch import Tensor

from dalib import ranks
from dalib.errors import StackError


class Terms:
    """Scalars of a step by ``strategy/name``: loss terms averaged over micro-batches, logged scalars over calls.

    Logging once per micro-batch and logging once per step, in ``post_step``, thus both give a mean.
    """

    def __init__(self, micro_batches: int) -> None:
        self.losses: dict[tuple[str, str], Tensor] = {}  # by strategy and name
        self._logged: dict[str, list[Tensor]] = {}
        self._hooks: dict[str, str] = {}  # "strategy/name" -> the hook that gave it, or "log"
        self._share = 1 / micro_batches

    def add(self, strategy: str, hook: str, scalars: Mapping[str, Tensor]) -> None:
        """Add one micro-batch's terms of a strategy's ``loss`` or ``critic_loss``."""
        for name, value in scalars.items():
            key = (strategy, name)
            self._claim(strategy, name, hook)
            share = value.detach() * self._share
            self.losses[key] = self.losses[key] + share if key in self.losses else share

    def log(self, strategy: str, name: str, value: Tensor) -> None:
        """Add one value that a strategy logged."""
        self._claim(strategy, name, "step.log")
        self._logged.setdefault(f"{strategy}/{name}", []).append(value.detach())

    def listed(self) -> list[str]:
        """Return the scalars so far, for messages, in their order."""
        logged = [f"the logged scalar {name}" for name in self._logged]
        return [f"the term {strategy}/{name}" for strategy, name in self.losses] + logged

    def means(self) -> dict[str, Tensor]:
        """Return the mean of each scalar over micro-batches and ranks, a 0-d tensor."""
        means = {f"{strategy}/{name}": value for (strategy, name), value in self.losses.items()}
        means |= {key: torch.stack(values).float().mean(0) for key, values in self._logged.items()}
        ranks.average(list(means.values()))
        return means

    def _claim(self, strategy: str, name: str, hook: str) -> None:
        """Refuse one name for two scalars, which would be summed, or one of them lost."""
        other = self._hooks.setdefault(f"{strategy}/{name}", hook)
        if other != hook:
            raise StackError(
                f"strategy {strategy!r} gives two scalars the name {name!r}, one by {other} and one by {hook}; "
                "rename one of them."
            )
