"""Fourier domain adaptation: source images take the low-frequency amplitudes of target images (Yang & Soatto 2020)."""

from collections.abc import Mapping
from typing import Annotated, Literal, get_args

import torch
from pydantic import Field
from torch import Tensor

from dalib import OptionGroup, SetupContext, StackError, Step, Strategy, hookimpl
from dalib_plugins.minent import normalized_entropy, refuse_one_class
from dalib_plugins.ranges import NotNegative, Positive, Share

Window = Literal["symmetric", "corner"]


def fourier_transfer(source: Tensor, target: Tensor, beta: float | Tensor, window: Window = "symmetric") -> Tensor:
    """Return ``source`` with the amplitudes of ``target`` at low frequencies and its own phases (FDA, eq. 3).

    The window is a square that reaches b = floor(beta * min(H, W)) frequencies from zero: ``"symmetric"`` replaces
    -b..b, as the authors' NumPy code does; ``"corner"`` -b..b-1, as their torch code, which made the paper's numbers
    and changes nothing where b = 0.

    Args:
        source, target: (B, 3, H, W) or (3, H, W) of one size, in any range; transformed in float32.
        beta: 0..0.5, for all samples or for each, (B,).

    Returns:
        The source's shape in float32. Not clipped: it leaves the source's range where the target is darker or brighter.

    Raises:
        StackError: no such window.
    """
    if window not in get_args(Window):
        raise StackError(f"fourier_transfer: window is one of {', '.join(get_args(Window))}; got {window!r}.")
    with torch.autocast(source.device.type, enabled=False):
        ours, theirs = torch.fft.rfft2(source.float()), torch.fft.rfft2(target.float())
        share = _window_share(source, beta, window)
        amplitude = torch.lerp(ours.abs(), theirs.abs(), share)
        transferred: Tensor = torch.fft.irfft2(torch.polar(amplitude, ours.angle()), s=source.shape[-2:])
        return transferred


def _window_share(source: Tensor, beta: float | Tensor, window: Window) -> Tensor:
    """Return how much of each amplitude is the target's, (..., 1, H, W // 2 + 1) in 0..1.

    A real image has no -b without b. Where the corner window holds one of the two alone, the real part of its inverse
    transform has the mean of both amplitudes: half of the target's.
    """
    height, width = source.shape[-2:]
    reach = torch.as_tensor(beta, dtype=torch.float64, device=source.device).mul(min(height, width)).floor()[..., None]
    rows, columns = (_inside(size, reach, window) for size in (height, width))
    mirrored = _mirror(rows)[..., :, None] & _mirror(columns)[..., None, :]
    share = ((rows[..., :, None] & columns[..., None, :]).float() + mirrored) / 2
    return share[..., None, :, : width // 2 + 1]


def _inside(size: int, reach: Tensor, window: Window) -> Tensor:
    position = torch.arange(size, device=reach.device)  # in FFT order: 0, 1, .. -2, -1
    if window == "symmetric":
        return torch.minimum(position, size - position) <= reach
    return (position < reach) | (position >= size - reach)


def _mirror(inside: Tensor) -> Tensor:
    """Return the entry of frequency -f at the place of f."""
    return inside.flip(-1).roll(1, -1)


def charbonnier(entropy: Tensor, eta: float) -> Tensor:
    """Return the mean of (x^2 + 1e-8)^eta, FDA's penalty, which bears most on uncertain pixels (FDA, eq. 5).

    Args:
        entropy: (B, H, W), normalised to 0..1.
    """
    return entropy.square().add(1e-8).pow(eta).mean()


class TargetEntropy(OptionGroup):
    """Options of FDA's entropy term: its factor, and the exponent of its penalty."""

    weight: NotNegative = 0.005
    eta: Positive = 2.0


class Fda(Strategy):
    """Replace source images by their transfer to the target image at the same place in the batch.

    The result is clamped to [0, 1], which the authors do not do: every later strategy may count on a stream's range.

    Options:
        beta: reach of the window as a share of the shorter side (0..0.5), or several to draw from for each sample.
        window: ``"symmetric"`` or the official training code's ``"corner"``.
        entropy: adds FDA's penalised entropy of the target, on the network's ``low_res`` logits where it gives them.
    """

    beta: Share | Annotated[list[Share], Field(min_length=1)] = 0.01
    window: Window = "symmetric"
    entropy: TargetEntropy | None = None

    requires = frozenset({"source.image", "target.image"})
    writes = frozenset({"source.image"})
    same_size = frozenset({"source", "target"})

    @property
    def forwards(self) -> frozenset[str]:
        return frozenset({"target"} if self.entropy else ())

    @hookimpl
    def setup(self, ctx: SetupContext) -> None:
        if self.entropy is not None:
            refuse_one_class(ctx)
        betas = self.beta if isinstance(self.beta, list) else [self.beta]
        self._betas = torch.tensor(betas, dtype=torch.float64, device=ctx.device)

    @hookimpl
    def pre_batch(self, step: Step) -> None:
        source, target = step.batch["source"].image, step.batch["target"].image
        drawn = torch.randint(len(self._betas), (len(source),), device=source.device)
        transferred = fourier_transfer(source, target, self._betas[drawn], self.window)
        step.batch.write("source", image=transferred.clamp(0, 1))

    @hookimpl
    def loss(self, step: Step) -> Mapping[str, Tensor]:
        if self.entropy is None:
            return {}
        outputs = step.outputs("target")
        entropy = normalized_entropy(outputs.get("low_res", outputs["logits"]))
        return {"entropy": self.entropy.weight * charbonnier(entropy, self.entropy.eta)}
