"""Adversarial adaptation in the output space (AdaptSegNet, Tsai et al. 2018; AdvEnt, Vu et al. 2019)."""

from collections.abc import Mapping
from dataclasses import field
from functools import partial
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from dalib import SetupContext, StackError, Step, Strategy, hookimpl, resize
from dalib.options import Momentum, NotNegative, Positive
from dalib_plugins.minent import self_information
from dalib_plugins.one_class import refuse_one_class

SOURCE, TARGET = 0.0, 1.0
STRIDE = 32


class OutputDiscriminator(nn.Module):
    """AdaptSegNet's fully convolutional discriminator: five 4x4 convolutions of stride 2, LeakyReLU 0.2 between them.

    (B, num_classes, H, W) -> logits (B, 1, H // 32, W // 32), for H and W from 32; 2,781,121 parameters for 19 classes.
    """

    def __init__(self, num_classes: int, channels: int = 64) -> None:
        super().__init__()
        convolution = partial(nn.Conv2d, kernel_size=4, stride=2, padding=1)
        self.conv1 = convolution(num_classes, channels)
        self.conv2 = convolution(channels, channels * 2)
        self.conv3 = convolution(channels * 2, channels * 4)
        self.conv4 = convolution(channels * 4, channels * 8)
        self.classifier = convolution(channels * 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        if min(x.shape[-2:]) < STRIDE:
            raise StackError(
                f"a discriminator needs maps of at least {STRIDE} x {STRIDE} pixels, got {tuple(x.shape[-2:])}."
            )
        for convolution in (self.conv1, self.conv2, self.conv3, self.conv4):
            x = F.leaky_relu(convolution(x), 0.2)
        logits: Tensor = self.classifier(x)
        return logits


class SeedDiscriminator(OutputDiscriminator):
    """The reference study's variant (docs/methods.md): logits upsampled x32, with a sigmoid before the loss's own.

    Its loss cannot fall below 0.693 for the source and 0.313 for the target; kept to reproduce that study's table.
    """

    def forward(self, x: Tensor) -> Tensor:
        logits = super().forward(x).float()
        return F.interpolate(logits, scale_factor=STRIDE, mode="bilinear", align_corners=False).sigmoid()


DISCRIMINATORS = {"adaptsegnet": OutputDiscriminator, "seed": SeedDiscriminator}


def domain_loss(prediction: Tensor, domain: float, objective: Literal["bce", "ls"]) -> Tensor:
    """Return the mean loss of a discriminator's output against one domain: 0 is the source, 1 the target.

    Args:
        prediction: any shape; taken as logits for ``"bce"`` and as it is for least squares, ``"ls"``.
    """
    prediction = prediction.float()
    truth = torch.full_like(prediction, domain)
    if objective == "ls":
        return F.mse_loss(prediction, truth)
    return F.binary_cross_entropy_with_logits(prediction, truth)


class Adversarial(Strategy):
    """Train the model so that a discriminator takes its predictions on the target for predictions on the source.

    Published ``weight``: 0.001 (0.01 with least squares); the reference study has 1.

    Options:
        input: what the discriminator sees of the logits; ``"self_information"`` is AdvEnt's.
        objective: binary cross-entropy on logits, or least squares.
        variant: ``"seed"`` is the reference study's discriminator, see ``SeedDiscriminator``.
        levels: model output -> weight of its adversarial term, each with its own discriminator; the multi-level form is
            ``{logits: 1, aux.16: 0.2}``. All are resized to the image's size first.
        lr, betas: Adam's, for every discriminator; the learning rate follows the run's schedule.
    """

    input: Literal["softmax", "self_information"] = "softmax"
    objective: Literal["bce", "ls"] = "bce"
    variant: Literal["adaptsegnet", "seed"] = "adaptsegnet"
    levels: Annotated[dict[str, NotNegative], Field(min_length=1)] = field(default_factory=lambda: {"logits": 1.0})
    lr: Positive = 1e-4
    betas: tuple[Momentum, Momentum] = (0.9, 0.99)

    requires = frozenset({"source.image", "target.image"})

    @property
    def outputs(self) -> frozenset[str]:
        return frozenset(f"target.{level}" for level in self.levels)

    @property
    def critic_outputs(self) -> frozenset[str]:
        return frozenset(f"{stream}.{level}" for stream in ("source", "target") for level in self.levels)

    @hookimpl
    def setup(self, ctx: SetupContext) -> None:
        refuse_one_class(ctx)
        adam = partial(torch.optim.Adam, lr=self.lr, betas=self.betas)
        discriminator = DISCRIMINATORS[self.variant]
        self._critics = {level: ctx.critic(level, discriminator(ctx.num_classes), adam) for level in self.levels}

    @hookimpl
    def loss(self, step: Step) -> Mapping[str, Tensor]:
        return {
            _term("adversarial", level): factor * self._judge(step, "target", level, SOURCE)
            for level, factor in self.levels.items()
        }

    @hookimpl
    def critic_loss(self, step: Step) -> Mapping[str, Tensor]:
        return {
            _term(stream, level): 0.5 * self._judge(step, stream, level, domain)
            for level in self.levels
            for stream, domain in (("source", SOURCE), ("target", TARGET))
        }

    def _judge(self, step: Step, stream: str, level: str, domain: float) -> Tensor:
        """Return the loss of a level's discriminator on a stream's predictions, with ``domain`` as the label."""
        logits = resize(step.output(stream, level).float(), step.batch[stream].size)
        seen = logits.softmax(1) if self.input == "softmax" else self_information(logits)
        return domain_loss(self._critics[level](seen), domain, self.objective)


def _term(name: str, level: str) -> str:
    return name if level == "logits" else f"{name}.{level}"
