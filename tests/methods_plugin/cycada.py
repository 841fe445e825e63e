"""CyCADA (Hoffman et al. 2018): train on source images that a generator has given the target's looks."""

from collections.abc import Mapping
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dalib import SetupContext, Step, Strategy, Stream, hookimpl, resize
from dalib.options import Count, Momentum, NotNegative, Positive


class Generator(nn.Module):
    """A small residual generator at half resolution, (B, 3, H, W) in 0..1 -> the same."""

    def __init__(self, channels: int, blocks: int) -> None:
        super().__init__()
        self.down = nn.Sequential(*_block(3, channels), *_block(channels, 2 * channels, stride=2))
        self.blocks = nn.ModuleList(nn.Sequential(*_block(2 * channels, 2 * channels)) for _ in range(blocks))
        self.up = nn.Sequential(*_block(2 * channels, channels), nn.Conv2d(channels, 3, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        features = self.down(x)
        for block in self.blocks:
            features = features + block(features)
        change: Tensor = self.up(resize(features, (x.shape[-2], x.shape[-1]))).float()
        return torch.sigmoid(torch.logit(x, eps=0.01) + change)


class Discriminator(nn.Module):
    """A discriminator of patches, (B, 3, H, W) -> (B, 1, h, w): how real each patch looks, about 0 to 1."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        convolution = partial(nn.Conv2d, kernel_size=4, stride=2, padding=1)
        self.layers = nn.Sequential(
            *(convolution(3, channels), nn.LeakyReLU(0.2)),
            *(convolution(channels, 2 * channels), nn.InstanceNorm2d(2 * channels), nn.LeakyReLU(0.2)),
            nn.Conv2d(2 * channels, 1, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        real: Tensor = self.layers(x)
        return real


def _block(inner: int, outer: int, stride: int = 1) -> tuple[nn.Module, ...]:
    return nn.Conv2d(inner, outer, 3, stride, 1), nn.InstanceNorm2d(outer), nn.ReLU()


def looks(real: Tensor, wanted: float) -> Tensor:
    """Return the least-squares GAN loss (Mao et al. 2017) of a discriminator's output of any shape: 1 real, 0 fake."""
    return (real.float() - wanted).square().mean()


class Cycada(Strategy):
    """Add the stream ``translated``, source images in the target's looks with their labels, and train on it.

    Two generators translate between the domains. Each is trained so that a discriminator of the domain takes its images
    for real (least squares), and so that both in turn give back the image that they began with (L1). Adaptation of
    features, CyCADA's other half, is the bundled ``adversarial``.

    Options:
        channels: of the first layers. blocks: residual blocks of a generator.
        cycle: weight of the cycle's term beside the generators' adversarial one.
        lr, betas: Adam's, for all four modules; the learning rate follows the run's schedule.
    """

    channels: Count = 32
    blocks: Count = 4
    cycle: NotNegative = 10.0
    lr: Positive = 2e-4
    betas: tuple[Momentum, Momentum] = (0.5, 0.999)

    requires = frozenset({"source.image", "source.label", "target.image"})
    provides = frozenset({"translated.image", "translated.label", "translated.weight"})
    outputs = frozenset({"translated.logits"})
    critic_outputs = frozenset()
    same_size = frozenset({"source"})

    @hookimpl
    def setup(self, ctx: SetupContext) -> None:
        adam = partial(torch.optim.Adam, lr=self.lr, betas=self.betas)
        generator, critic = partial(Generator, self.channels, self.blocks), partial(Discriminator, self.channels)
        self._to = {domain: ctx.module(f"to_{domain}", generator, optimizer=adam) for domain in ("source", "target")}
        self._critics = {domain: ctx.critic(f"real_{domain}", critic(), adam) for domain in ("source", "target")}

    @hookimpl
    def pre_batch(self, step: Step) -> None:
        source = step.batch["source"]
        step.batch.add("translated", Stream(self._to["target"](source.image), source.label, source.weight))

    @hookimpl
    def loss(self, step: Step) -> Mapping[str, Tensor]:
        adversarial, cycle = [], []
        for here, there in (("source", "target"), ("target", "source")):
            image = step.batch[here].image
            fake = self._to[there](image)
            adversarial.append(looks(self._critics[there](fake), 1.0))
            cycle.append(F.l1_loss(self._to[here](fake), image))
        return {
            "translated": step.segmentation_loss("translated"),
            "adversarial": torch.stack(adversarial).sum(),
            "cycle": self.cycle * torch.stack(cycle).sum(),
        }

    @hookimpl
    def critic_loss(self, step: Step) -> Mapping[str, Tensor]:
        terms = {}
        for here, there in (("source", "target"), ("target", "source")):
            fake = self._to[there](step.batch[here].image)
            real, faked = self._critics[there](step.batch[there].image), self._critics[there](fake)
            terms[f"real_{there}"] = 0.5 * (looks(real, 1.0) + looks(faked, 0.0))
        return terms
