"""Fourier domain adaptation: source images take the low-frequency amplitudes of target images (Yang & Soatto 2020)."""

from collections.abc import Iterable, Mapping
from math import floor
from typing import Annotated, Literal, get_args

import torch
from pydantic import Field
from torch import Tensor

from dalib import SetupContext, StackError, Step, Strategy, hookimpl
from dalib_plugins.ranges import Share

Window = Literal["symmetric", "corner"]


def fourier_transfer(source: Tensor, target: Tensor, beta: float | Tensor, window: Window = "symmetric") -> Tensor:
    """Return ``source`` with the amplitudes of ``target`` at low frequencies and its own phases (FDA, eq. 3).

    Args:
        source, target: (B, 3, H, W) or (3, H, W) of one size, in any range; transformed in float32.
        beta: 0..0.5, one for all samples or one per sample, (B,); the window reaches b = floor(beta * min(H, W)).
        window: ``"symmetric"`` replaces frequencies -b..b, as the authors' NumPy code does; ``"corner"`` -b..b-1, as
            their torch code does, which made the paper's numbers and changes nothing where b = 0.

    Returns:
        The source's shape in float32. Not clipped: it leaves the source's range where the target is darker or brighter.

    Raises:
        StackError: no such window.
    """
    if window not in get_args(Window):
        raise StackError(f"fourier_transfer: window is one of {', '.join(get_args(Window))}; got {window!r}.")
    with torch.autocast(source.device.type, enabled=False):
        ours, theirs = torch.fft.rfft2(source.float()), torch.fft.rfft2(target.float())
        amplitude = torch.lerp(ours.abs(), theirs.abs(), _mask(source, beta, window))
        transferred: Tensor = torch.fft.irfft2(torch.polar(amplitude, ours.angle()), s=source.shape[-2:])
        return transferred


def _mask(image: Tensor, beta: float | Tensor, window: Window) -> Tensor:
    """Return the target's share of each amplitude of an ``rfft2``, (1, H, W // 2 + 1) or (B, 1, H, W // 2 + 1)."""
    height, width = image.shape[-2:]
    b = torch.as_tensor(beta, dtype=torch.float64, device=image.device).mul(min(height, width)).floor()
    b = b[..., None, None, None]

    def inside(place: Tensor, size: int) -> Tensor:  # FFT indices, of the frequencies 0, 1, .. -2, -1
        return (place <= b if window == "symmetric" else place < b) | (place >= size - b)

    rows = torch.arange(height, device=image.device)[:, None]
    columns = torch.arange(width // 2 + 1, device=image.device)
    here = inside(rows, height) & inside(columns, width)
    # A real image has no frequency f without -f. Where the corner window holds only one of them, the real part of the
    # official code's inverse transform has the mean of both amplitudes.
    opposite = inside(-rows % height, height) & inside(-columns % width, width)
    return (here.float() + opposite) / 2


class Fda(Strategy):
    """Replace each source image by its transfer to the target image at the same position in the batch.

    The result is clamped to [0, 1], which the authors do not do, since later strategies rely on a stream's range.

    Options:
        beta: reach of the window as a share of the shorter side (0..0.5), or a list to draw from for each sample.
        window: ``"symmetric"``, or ``"corner"``, the official training code's; see ``fourier_transfer``.
    """

    beta: Share | Annotated[list[Share], Field(min_length=1)] = 0.01
    window: Window = "symmetric"

    requires = frozenset({"source.image", "target.image"})
    writes = frozenset({"source.image"})
    same_size = frozenset({"source", "target"})

    def check_sizes(self, sizes: Mapping[str, tuple[int, int]]) -> Iterable[str]:
        if "source" not in sizes:
            return
        height, width = sizes["source"]
        side = min(height, width)
        effect = "changes nothing" if self.window == "corner" else "moves the mean colour and nothing else"
        for beta in self._betas:
            if floor(beta * side) == 0:
                yield (
                    f"strategy {self.name!r}: with beta {beta:g}, images of {height}x{width} (H x W) have a window of "
                    f"b = floor({beta:g} * {side}) = 0, which {effect}; take a beta of at least 1/{side}, such as "
                    f"{2 / side:.2g}."
                )

    @hookimpl
    def setup(self, ctx: SetupContext) -> None:
        self._choices = torch.tensor(self._betas, dtype=torch.float64, device=ctx.device)

    @hookimpl
    def pre_batch(self, step: Step) -> None:
        source, target = step.batch["source"].image, step.batch["target"].image
        drawn = torch.randint(len(self._choices), (len(source),), device=source.device)
        transferred = fourier_transfer(source, target, self._choices[drawn], self.window)
        step.batch.write("source", image=transferred.clamp(0, 1))

    @property
    def _betas(self) -> list[float]:
        return self.beta if isinstance(self.beta, list) else [self.beta]
