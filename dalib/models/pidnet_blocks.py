"""Building blocks of PIDNet: residual blocks, PAG, pyramid pooling, the fusions (Bag) and heads."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dalib.resizing import resize

# (kernel, stride) of the average pools of the pyramid; the last is global (Xu et al. 2023, figure 5).
POOLS = ((5, 2), (9, 4), (17, 8))


def conv_bn(in_channels: int, out_channels: int, kernel: int = 1, stride: int = 1) -> nn.Sequential:
    """Return a convolution without bias and its BatchNorm."""
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels))


def bn_conv(in_channels: int, out_channels: int, kernel: int = 1, groups: int = 1) -> nn.Sequential:
    """Return BatchNorm, ReLU and a convolution without bias."""
    conv = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, groups=groups, bias=False)
    return nn.Sequential(nn.BatchNorm2d(in_channels), nn.ReLU(), conv)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; the last block of a stage ends without ReLU, as in the official code."""

    def __init__(self, in_channels: int, channels: int, stride: int = 1, *, last: bool = True) -> None:
        super().__init__()
        self.first = conv_bn(in_channels, channels, 3, stride)
        self.second = conv_bn(channels, channels, 3)
        self.shortcut = _shortcut(in_channels, channels, stride)
        self.last = last

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in_channels, H, W) to (B, channels, ceil(H / stride), ceil(W / stride))."""
        y: Tensor = self.second(F.relu(self.first(x))) + self.shortcut(x)
        return y if self.last else F.relu(y)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions and a shortcut, to twice ``channels``; no ReLU at the end."""

    def __init__(self, in_channels: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.first = conv_bn(in_channels, channels)
        self.second = conv_bn(channels, channels, 3, stride)
        self.third = conv_bn(channels, 2 * channels)
        self.shortcut = _shortcut(in_channels, 2 * channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in_channels, H, W) to (B, 2 * channels, ceil(H / stride), ceil(W / stride))."""
        y: Tensor = self.third(F.relu(self.second(F.relu(self.first(x))))) + self.shortcut(x)
        return y


def basic_stage(in_channels: int, channels: int, blocks: int, stride: int = 1) -> nn.Sequential:
    """Return ``blocks`` basic blocks, the first of which has the stride."""
    first = BasicBlock(in_channels, channels, stride, last=blocks == 1)
    return nn.Sequential(first, *(BasicBlock(channels, channels, last=i == blocks - 1) for i in range(1, blocks)))


class Guide(nn.Module):
    """PAG: take the integral branch's features where they agree with the proportional branch's (section 4.1)."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.proportional = conv_bn(in_channels, channels)
        self.integral = conv_bn(in_channels, channels)

    def forward(self, proportional: Tensor, integral: Tensor) -> Tensor:
        """Map (B, C, H, W) and (B, C, h, w) to (B, C, H, W)."""
        size = (proportional.shape[-2], proportional.shape[-1])
        agreement = (self.proportional(proportional) * resize(self.integral(integral), size)).sum(1, keepdim=True)
        share = torch.sigmoid(agreement)
        return (1 - share) * proportional + share * resize(integral, size)


class PyramidPooling(nn.Module):
    """PAPPM (section 4.2) or, if not ``parallel``, DDRNet's DAPPM, where each scale adds the finer one's output."""

    def __init__(self, in_channels: int, channels: int, out_channels: int, *, parallel: bool) -> None:
        super().__init__()
        pools: list[nn.Module] = [nn.AvgPool2d(kernel, stride, padding=kernel // 2) for kernel, stride in POOLS]
        pools.append(nn.AdaptiveAvgPool2d(1))
        scales = len(pools)
        self.parallel = parallel
        self.pooled = nn.ModuleList(nn.Sequential(pool, *bn_conv(in_channels, channels)) for pool in pools)
        self.direct = bn_conv(in_channels, channels)
        self.smooth: nn.Sequential | nn.ModuleList = (
            bn_conv(channels * scales, channels * scales, 3, groups=scales)
            if parallel
            else nn.ModuleList(bn_conv(channels, channels, 3) for _ in pools)
        )
        self.fuse = bn_conv(channels * (scales + 1), out_channels)
        self.shortcut = bn_conv(in_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in_channels, H, W) to (B, out_channels, H, W)."""
        direct: Tensor = self.direct(x)
        pooled = [resize(pool(x), (x.shape[-2], x.shape[-1])) for pool in self.pooled]
        scales = [direct, *(self._parallel(direct, pooled) if self.parallel else self._in_turn(direct, pooled))]
        fused: Tensor = self.fuse(torch.cat(scales, dim=1)) + self.shortcut(x)
        return fused

    def _parallel(self, direct: Tensor, pooled: list[Tensor]) -> list[Tensor]:
        return [self.smooth(torch.cat([scale + direct for scale in pooled], dim=1))]

    def _in_turn(self, direct: Tensor, pooled: list[Tensor]) -> list[Tensor]:
        assert isinstance(self.smooth, nn.ModuleList)
        smoothed = [direct]
        for smooth, scale in zip(self.smooth, pooled, strict=True):
            smoothed.append(smooth(scale + smoothed[-1]))
        return smoothed[1:]


class LightBag(nn.Module):
    """Light-Bag: detail at the derivative branch's boundaries, context elsewhere (section 4.3)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.proportional = conv_bn(channels, channels)
        self.integral = conv_bn(channels, channels)

    def forward(self, proportional: Tensor, integral: Tensor, derivative: Tensor) -> Tensor:
        """Map three tensors (B, C, H, W) to one."""
        edge = torch.sigmoid(derivative)
        fused: Tensor = self.proportional((1 - edge) * integral + proportional) + self.integral(
            integral + edge * proportional
        )
        return fused


class Bag(nn.Module):
    """Bag: a convex combination of detail and context by the boundary, then a 3x3 convolution (section 4.3)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mix = bn_conv(channels, channels, 3)

    def forward(self, proportional: Tensor, integral: Tensor, derivative: Tensor) -> Tensor:
        """Map three tensors (B, C, H, W) to one."""
        edge = torch.sigmoid(derivative)
        fused: Tensor = self.mix(edge * proportional + (1 - edge) * integral)
        return fused


def head(in_channels: int, channels: int, out_channels: int) -> nn.Sequential:
    """Return a head that maps (B, in_channels, H, W) to logits (B, out_channels, H, W)."""
    return nn.Sequential(
        *bn_conv(in_channels, channels, 3), nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, out_channels, 1)
    )


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    same = stride == 1 and in_channels == out_channels
    return nn.Identity() if same else conv_bn(in_channels, out_channels, 1, stride)
