"""A plugin of faults: ``plugins: [tests.faulty_plugin]`` brings a strategy and a data set that go wrong where told."""

import os
import signal
import time
from typing import Literal

import torch
from torch.utils.data import get_worker_info

from dalib import DalibError, Registry, Strategy, hookimpl
from tests.tiny import TinyData


class Faulty(Strategy):
    """Counts its steps, and goes wrong in its step number ``at``, from 1."""

    at: int = 3
    how: Literal["code", "user", "after", "nan", "none"] = "code"
    outputs = frozenset({"source.logits"})

    @hookimpl
    def setup(self, ctx):
        self._done = 0

    @hookimpl
    def loss(self, step):
        wrong = step.index + 1 == self.at
        if wrong and self.how == "code":
            raise KeyError("oops")
        if wrong and self.how == "user":
            raise DalibError("the moon is down.")
        return {"x": step.logits("source").mean() * (torch.nan if wrong and self.how == "nan" else 0.0)}

    @hookimpl
    def post_step(self, step):
        self._done += 1
        if step.index + 1 == self.at and self.how == "after":
            raise KeyError("oops")

    def state_dict(self):
        return {"done": self._done}

    def load_state_dict(self, state):
        self._done = state["done"]


class FaultyData(TinyData):
    """Goes wrong at item 5 of 6: in code, by a signal that ends its process, or by taking for ever."""

    def __init__(self, how: str = "none", split: str = "train") -> None:
        super().__init__(6, num_classes=19)
        self.how = how

    def __getitem__(self, index):
        if index == 4 and self.how == "code":
            raise KeyError("oops")
        if index == 4 and self.how == "death" and get_worker_info() is not None:
            time.sleep(2)  # until the batches before have been taken
            os.kill(os.getpid(), signal.SIGKILL)
        if self.how == "slow":
            time.sleep(0.2)
        return super().__getitem__(index)

    def item_name(self, index):
        return f"street_{index}.png"


@hookimpl
def dalib_register(registry: Registry) -> None:
    """Register both."""
    registry.strategy("faulty", Faulty)
    registry.dataset("faulty", FaultyData)
