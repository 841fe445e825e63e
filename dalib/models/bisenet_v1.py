"""BiSeNet V1 as published: a narrow spatial path beside a context path that is refined from coarse to fine."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dalib.models.backbones import create_backbone
from dalib.models.layers import ConvBlock

CHANNELS = 128  # of each path; fused they have twice as many


class ChannelGate(nn.Module):
    """A gate per channel, computed from the channels' means."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 1, bias=False)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, 1, 1) in 0..1."""
        gate: Tensor = self.bn(self.conv(F.adaptive_avg_pool2d(x, 1)))
        return gate.sigmoid()


class AttentionRefinement(nn.Module):
    """Reduce to 128 channels and scale them by gates (Yu et al. 2018, section 3.2)."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.block = ConvBlock(in_channels, CHANNELS)
        self.gate = ChannelGate(CHANNELS)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in_channels, H, W) to (B, 128, H, W)."""
        reduced: Tensor = self.block(x)
        gate: Tensor = self.gate(reduced)
        return reduced * gate


class ContextPath(nn.Module):
    """Refine the levels of stride 32 and 16, each with the context of the coarser one."""

    def __init__(self, channels16: int, channels32: int) -> None:
        super().__init__()
        self.refine16, self.refine32 = AttentionRefinement(channels16), AttentionRefinement(channels32)
        self.pooled = ConvBlock(channels32, CHANNELS, kernel=1)
        self.smooth16, self.smooth32 = ConvBlock(CHANNELS, CHANNELS), ConvBlock(CHANNELS, CHANNELS)

    def forward(self, level16: Tensor, level32: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Return the context at ``size``, of stride 8, and at the size of ``level16``, each with 128 channels."""
        context32 = self.refine32(level32) + self.pooled(F.adaptive_avg_pool2d(level32, 1))
        context16 = self.smooth32(F.interpolate(context32, (level16.shape[-2], level16.shape[-1])))
        context8 = self.smooth16(F.interpolate(self.refine16(level16) + context16, size))
        return context8, context16


class FeatureFusion(nn.Module):
    """Fuse the two paths and scale the channels by gates (Yu et al. 2018, section 3.2)."""

    def __init__(self) -> None:
        super().__init__()
        self.block = ConvBlock(2 * CHANNELS, 2 * CHANNELS, kernel=1)
        self.gate = ChannelGate(2 * CHANNELS)

    def forward(self, spatial: Tensor, context: Tensor) -> Tensor:
        """Map two tensors (B, 128, H, W) to (B, 256, H, W)."""
        fused: Tensor = self.block(torch.cat((spatial, context), dim=1))
        gate: Tensor = self.gate(fused)
        return fused * gate + fused


class BiSeNetV1(nn.Module):
    """BiSeNet (Yu et al., ECCV 2018) as published.

    With ``resnet18`` and 19 classes it has 13,425,721 parameters, 13,275,539 of them in inference. ``mean`` and ``std``
    are its backbone's.

    Args:
        num_classes: K.
        backbone: name of a timm backbone that gives features at strides 16 and 32.
        pretrained: start the backbone from timm's published weights, which timm downloads.
        backbone_weights: a file of weights for that backbone, in its place.
    """

    training_heads = ("head8", "head16")

    def __init__(
        self,
        num_classes: int,
        *,
        backbone: str = "resnet18",
        pretrained: bool = False,
        backbone_weights: str | Path | None = None,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.backbone = create_backbone(backbone, strides=(16, 32), pretrained=pretrained, weights=backbone_weights)
        self.mean, self.std = self.backbone.mean, self.backbone.std
        self.spatial = nn.Sequential(
            ConvBlock(3, 64, 2, kernel=7), ConvBlock(64, 64, 2), ConvBlock(64, 64, 2), ConvBlock(64, CHANNELS, kernel=1)
        )
        self.context = ContextPath(self.backbone.channels[16], self.backbone.channels[32])
        self.fusion = FeatureFusion()
        self.head = classifier(2 * CHANNELS, 256, num_classes)
        self.head8, self.head16 = classifier(CHANNELS, 64, num_classes), classifier(CHANNELS, 64, num_classes)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Map normalised images (B, 3, H, W) of any size to named outputs.

        Returns:
            ``logits`` and ``low_res``, the same (B, K, H/8, W/8), and ``features`` (B, 256, H/8, W/8), the fused paths;
            in training ``aux.8`` (B, K, H/8, W/8) and ``aux.16`` (B, K, H/16, W/16). Sizes round up.
        """
        spatial = self.spatial(x)
        levels = self.backbone(x)
        context8, context16 = self.context(levels[16], levels[32], (spatial.shape[-2], spatial.shape[-1]))
        fused = self.fusion(spatial, context8)
        logits = self.head(fused)
        outputs = {"logits": logits, "low_res": logits, "features": fused}
        if self.training:
            outputs |= {"aux.8": self.head8(context8), "aux.16": self.head16(context16)}
        return outputs


def classifier(in_channels: int, channels: int, num_classes: int) -> nn.Sequential:
    """Return a head that maps (B, in_channels, H, W) to logits (B, num_classes, H, W)."""
    return nn.Sequential(ConvBlock(in_channels, channels), nn.Conv2d(channels, num_classes, 1))
