"""Methods around predictions, as a plugin that a recipe names: ``plugins: [tests.around_plugin]``."""

import copy
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dalib import Registry, Strategy, create_model, hookimpl


class Noisy(Strategy):
    """Predict with noise in the images, as a method with dropout at test time does."""

    amount: float = 0.5

    @hookimpl
    def predictor(self, model, predict):
        return lambda images: predict(images + self.amount * torch.rand_like(images))


class Constant(Strategy):
    """Predict one class everywhere; it counts its calls, as state."""

    number: int = 0

    @hookimpl
    def setup(self, ctx):
        self.calls = 0

    @hookimpl
    def predictor(self, model, predict):
        return lambda images: predict(images) * 0 + torch.eye(19)[self.number].view(1, -1, 1, 1)

    def state_dict(self):
        return {"calls": self.calls}

    def load_state_dict(self, state):
        self.calls = state["calls"]


class Keeps(Strategy):
    """Predict with the model that ``setup`` saw, itself or a copy of it."""

    copied: bool = False

    @hookimpl
    def setup(self, ctx):
        self._model = copy.deepcopy(ctx.model).eval() if self.copied else ctx.model

    @hookimpl
    def predictor(self, model, predict):
        return lambda images: self._model(images)


class Ensemble(Strategy):
    """Predict the mean with another model, ``other: {use: name, **options}``."""

    other: dict[str, Any]

    @hookimpl
    def setup(self, ctx):
        options = dict(self.other)
        self._other = create_model(options.pop("use"), ctx.num_classes, **options).eval().to(ctx.device)

    @hookimpl
    def predictor(self, model, predict):
        return lambda images: (predict(images) + self._other(images)) / 2


class Distil(Strategy):
    """Train towards another model, ``other: {use: name, **options}``."""

    other: dict[str, Any]

    requires = frozenset({"target.image"})
    outputs = frozenset({"target.logits"})

    @hookimpl
    def setup(self, ctx):
        options = dict(self.other)
        self._other = create_model(options.pop("use"), ctx.num_classes, **options).eval().to(ctx.device)

    @hookimpl
    def loss(self, step):
        with torch.no_grad():
            wanted = self._other(step.batch["target"].image)
        return {"distance": (step.logits("target") - wanted).square().mean()}


class Owns(Strategy):
    """Has a module that the model's optimiser trains, and leaves a file behind at its end."""

    file: str = ""

    requires = frozenset({"source.image"})
    outputs = frozenset({"source.logits"})

    @hookimpl
    def setup(self, ctx):
        self.head = ctx.module("head", lambda: nn.Conv2d(ctx.num_classes, 1, 1))

    @hookimpl
    def loss(self, step):
        return {"head": self.head(step.logits("source")).pow(2).mean()}

    @hookimpl
    def teardown(self):
        with Path(self.file or "/dev/null").open("a") as file:
            file.write("torn down\n")


@hookimpl
def dalib_register(registry: Registry) -> None:
    """Register them."""
    registry.strategy("distil", Distil)
    registry.strategy("ensemble", Ensemble)
    registry.strategy("noisy", Noisy)
    registry.strategy("constant", Constant)
    registry.strategy("keeps", Keeps)
    registry.strategy("owns", Owns)
