"""BiSeNet as in the reference study (docs/methods.md): a spatial path beside a pretrained context path."""

from collections.abc import Sequence
from functools import reduce
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dalib.models.backbones import create_backbone
from dalib.models.layers import ConvBlock
from dalib.resizing import resize, resize_logits


class AttentionRefinement(nn.Module):
    """Scale the channels by gates computed from their means (Yu et al. 2018, section 3.2)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 1)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        gate: Tensor = self.bn(self.conv(F.adaptive_avg_pool2d(x, 1)))
        return x * torch.sigmoid(gate)


class FeatureFusion(nn.Module):
    """Fuse the two paths into ``num_classes`` channels and scale these by gates (Yu et al. 2018, section 3.2).

    Args:
        widths: channels of each path.
    """

    def __init__(self, widths: Sequence[int], num_classes: int) -> None:
        super().__init__()
        self.widths = tuple(widths)
        self.block = ConvBlock(sum(widths), num_classes)
        self.squeeze = nn.Conv2d(num_classes, num_classes, 1)
        self.excite = nn.Conv2d(num_classes, num_classes, 1)
        self.narrowed: NarrowedConv | None = None

    def reorder(self) -> None:
        """Narrow each path before it is upsampled; see ``NarrowedConv``."""
        self.narrowed = NarrowedConv(self.block.conv, self.widths)
        self.block.set_submodule("conv", nn.Identity())

    def forward(self, *paths: Tensor) -> Tensor:
        """Map paths (B, C_i, H_i, W_i), the finest first, to (B, num_classes, H_0, W_0)."""
        size = (paths[0].shape[-2], paths[0].shape[-1])
        stacked = self.narrowed(paths) if self.narrowed else torch.cat([resize(path, size) for path in paths], dim=1)
        fused: Tensor = self.block(stacked)
        gate = torch.sigmoid(self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(fused, 1)))))
        return fused * gate + fused


class NarrowedConv(nn.Module):
    """A 3x3 convolution of upsampled, concatenated paths, computed by 1x1 convolutions before the upsampling.

    A 3x3 convolution is the sum of nine shifted 1x1 convolutions, one per tap, and can be split by input channels. 1x1
    convolutions commute with bilinear upsampling, which then makes 9K channels instead of all those of the paths.
    """

    def __init__(self, conv: nn.Conv2d, widths: Sequence[int]) -> None:
        super().__init__()
        self.bias = conv.bias
        parts = torch.split(conv.weight.detach(), list(widths), dim=1)
        self.taps = nn.ParameterList(part.permute(2, 3, 0, 1).flatten(0, 2)[..., None, None] for part in parts)

    def forward(self, paths: Sequence[Tensor]) -> Tensor:
        """Map paths (B, C_i, H_i, W_i), the finest first, to (B, K, H_0, W_0)."""
        height, width = paths[0].shape[-2:]
        taps = [resize(F.conv2d(path, tap), (height, width)) for path, tap in zip(paths, self.taps, strict=True)]
        maps = F.pad(_total(taps), (1, 1, 1, 1)).chunk(9, dim=1)
        shifted = [m[..., i // 3 : i // 3 + height, i % 3 : i % 3 + width] for i, m in enumerate(maps)]
        return _total(shifted if self.bias is None else [*shifted, self.bias.view(-1, 1, 1)])


def _total(tensors: Sequence[Tensor]) -> Tensor:
    return reduce(torch.add, tensors)


class BiSeNet(nn.Module):
    """BiSeNet (Yu et al., ECCV 2018), in the variant that fuses into class channels and classifies after upsampling.

    With ``resnet18`` and 19 classes it has 12,068,672 parameters. ``mean`` and ``std`` are its backbone's.

    Args:
        num_classes: K.
        backbone: name of a timm backbone that gives features at strides 16 and 32.
        pretrained: start the backbone from timm's published weights, which timm downloads.
        backbone_weights: a file of weights for that backbone, in its place.
    """

    training_heads = ("head16", "head32")

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
        channels16, channels32 = self.backbone.channels[16], self.backbone.channels[32]
        self.spatial = nn.Sequential(ConvBlock(3, 64, 2), ConvBlock(64, 128, 2), ConvBlock(128, 256, 2))
        self.refine16 = AttentionRefinement(channels16)
        self.refine32 = AttentionRefinement(channels32)
        self.fusion = FeatureFusion((256, channels16, channels32), num_classes)
        self.classifier = nn.Conv2d(num_classes, num_classes, 1)
        self.head16 = nn.Conv2d(channels16, num_classes, 1)
        self.head32 = nn.Conv2d(channels32, num_classes, 1)
        self.classify_first = False

    def reorder(self) -> None:
        """Run the classifier and the fusion's convolutions before the upsampling, with which 1x1 ones commute."""
        self.classify_first = True
        self.fusion.reorder()

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Map normalised images (B, 3, H, W) of any size to named outputs.

        Returns:
            ``logits`` (B, K, H, W); ``features`` and ``low_res`` (B, K, H/8, W/8), fused features and their logits;
            in training ``aux.16`` (B, K, H/16, W/16) and ``aux.32`` (B, K, H/32, W/32). Sizes round up.
        """
        spatial = self.spatial(x)
        levels = self.backbone(x)
        context16 = self.refine16(levels[16])
        context32 = self.refine32(levels[32]) * F.adaptive_avg_pool2d(levels[32], 1)
        fused = self.fusion(spatial, context16, context32)
        low_res: Tensor = self.classifier(fused)
        size = (x.shape[-2], x.shape[-1])
        logits = resize_logits(low_res, size) if self.classify_first else self.classifier(resize(fused, size))
        outputs = {"logits": logits, "features": fused, "low_res": low_res}
        if self.training:
            outputs |= {"aux.16": self.head16(context16), "aux.32": self.head32(context32)}
        return outputs
