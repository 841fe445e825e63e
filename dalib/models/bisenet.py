"""BiSeNet as the reference study of real-time adaptation builds it: a spatial path beside a pretrained context path."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dalib.models.backbones import create_backbone
from dalib.models.layers import ConvBlock, resize


class AttentionRefinement(nn.Module):
    """Weigh channels by a gate computed from their mean (Yu et al. 2018, section 3.2)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 1)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        gate: Tensor = self.bn(self.conv(F.adaptive_avg_pool2d(x, 1)))
        return x * torch.sigmoid(gate)


class FeatureFusion(nn.Module):
    """Fuse the two paths and weigh the result by channel (Yu et al. 2018, section 3.2); ``num_classes`` channels."""

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.block = ConvBlock(in_channels, num_classes)
        self.squeeze = nn.Conv2d(num_classes, num_classes, 1)
        self.excite = nn.Conv2d(num_classes, num_classes, 1)

    def forward(self, *paths: Tensor) -> Tensor:
        """Map tensors (B, C_i, H, W), whose channels sum to ``in_channels``, to (B, num_classes, H, W)."""
        fused: Tensor = self.block(torch.cat(paths, dim=1))
        gate = torch.sigmoid(self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(fused, 1)))))
        return fused * gate + fused


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
        self.fusion = FeatureFusion(256 + channels16 + channels32, num_classes)
        self.classifier = nn.Conv2d(num_classes, num_classes, 1)
        self.head16 = nn.Conv2d(channels16, num_classes, 1)
        self.head32 = nn.Conv2d(channels32, num_classes, 1)
        self.classify_first = False

    def reorder(self) -> None:
        """Classify before the upsampling instead of after it: a 1x1 convolution commutes with interpolation."""
        self.classify_first = True

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
        size = (spatial.shape[-2], spatial.shape[-1])
        fused = self.fusion(spatial, resize(context16, size), resize(context32, size))
        low_res: Tensor = self.classifier(fused)
        logits = low_res if self.classify_first else self.classifier(resize(fused, (x.shape[-2], x.shape[-1])))
        outputs = {"logits": logits, "features": fused, "low_res": low_res}
        if self.training:
            outputs |= {"aux.16": self.head16(context16), "aux.32": self.head32(context32)}
        return outputs
