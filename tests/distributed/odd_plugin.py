"""A plugin of ranks that go wrong: ``plugins: [tests.distributed.odd_plugin]`` brings a strategy and a data set."""

import time
from typing import Literal

from dalib import DalibError, Registry, Strategy, hookimpl
from dalib.ranks import rank
from tests.tiny import TinyData


class Odd(Strategy):
    """Takes ``seconds`` for its loss, and on rank ``on`` goes wrong in step ``at``, from 1."""

    how: Literal["hang", "code", "user", "none"] = "none"
    at: int = 3
    on: int = 1
    seconds: float = 0.0
    outputs = frozenset({"source.logits"})

    @hookimpl
    def loss(self, step):
        time.sleep(self.seconds)
        if step.index + 1 == self.at and rank() == self.on:
            if self.how == "hang":
                time.sleep(1000)
            if self.how == "code":
                raise KeyError("oops")
            if self.how == "user":
                raise DalibError("the moon is down.")
        return {"x": step.logits("source").mean() * 0}


class OddData(TinyData):
    """The items 2 and 5 of 6 cannot be read."""

    def __init__(self, split: str = "train") -> None:
        super().__init__(6, num_classes=19)

    def __getitem__(self, index):
        if index in (2, 5):
            raise DalibError(f"street_{index}.png is torn.")
        return super().__getitem__(index)

    def item_name(self, index):
        return f"street_{index}.png"


@hookimpl
def dalib_register(registry: Registry) -> None:
    """Register both."""
    registry.strategy("odd", Odd)
    registry.dataset("odd", OddData)
