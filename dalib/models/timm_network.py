"""Any timm backbone with a light head or a context-aware head after DAFormer."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dalib.models.backbones import create_backbone
from dalib.models.layers import ConvBlock, extend
from dalib.resizing import resize, resize_logits

FINEST = 4  # the stride at which heads fuse; finer levels cost more than they gain
DILATIONS = (1, 6, 12, 18)


class LightHead(nn.Module):
    """Project all levels to 128 channels, sum them at the size of the finest, and apply a 3x3 convolution."""

    channels = 128

    def __init__(self, in_channels: Sequence[int]) -> None:
        super().__init__()
        self.project = nn.ModuleList(nn.Conv2d(channels, self.channels, 1, bias=False) for channels in in_channels)
        self.bn = nn.BatchNorm2d(self.channels)
        self.smooth = ConvBlock(self.channels, self.channels)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """Map levels (B, C_i, H_i, W_i), the finest first, to (B, 128, H_0, W_0)."""
        size = (levels[0].shape[-2], levels[0].shape[-1])
        total = sum(resize(project(level), size) for project, level in zip(self.project, levels, strict=True))
        fused: Tensor = self.smooth(F.relu(self.bn(total)))
        return fused


class ContextHead(nn.Module):
    """Embed all levels, concatenate them at the size of the finest, and fuse them with several receptive fields.

    After the description in Hoyer et al., DAFormer, CVPR 2022, section 3.2: levels embedded to 256 channels, parallel
    depthwise separable 3x3 convolutions of different dilation without global pooling, and a 1x1 convolution over them.
    """

    channels = 256

    def __init__(self, in_channels: Sequence[int]) -> None:
        super().__init__()
        stacked = self.channels * len(in_channels)
        self.embed = nn.ModuleList(nn.Conv2d(channels, self.channels, 1) for channels in in_channels)
        self.context = nn.ModuleList(self._separable(stacked, dilation) for dilation in DILATIONS)
        self.fuse = ConvBlock(self.channels * len(DILATIONS), self.channels, kernel=1)
        self.dropout = nn.Dropout2d(0.1)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """Map levels (B, C_i, H_i, W_i), the finest first, to (B, 256, H_0, W_0)."""
        size = (levels[0].shape[-2], levels[0].shape[-1])
        stack = torch.cat([resize(e(level), size) for e, level in zip(self.embed, levels, strict=True)], dim=1)
        fused: Tensor = self.dropout(self.fuse(torch.cat([context(stack) for context in self.context], dim=1)))
        return fused

    def _separable(self, in_channels: int, dilation: int) -> nn.Sequential:
        depthwise = nn.Conv2d(
            in_channels, in_channels, 3, padding=dilation, dilation=dilation, groups=in_channels, bias=False
        )
        return nn.Sequential(
            depthwise, nn.BatchNorm2d(in_channels), nn.ReLU(), ConvBlock(in_channels, self.channels, kernel=1)
        )


HEADS: dict[str, type[LightHead] | type[ContextHead]] = {"light": LightHead, "daformer": ContextHead}


class TimmNetwork(nn.Module):
    """Any ``features_only`` backbone of timm, convolutional or transformer, under a head that fuses its levels.

    ``mean`` and ``std`` are the backbone's.

    Args:
        num_classes: K.
        backbone: a name that timm knows, e.g. ``convnext_tiny``, ``pvt_v2_b2`` or ``vit_small_patch16_224.dino``.
        head: ``"light"`` for real time, or ``"daformer"``, meant for transformers.
        pretrained: start the backbone from timm's published weights, which timm downloads.
        backbone_weights: a weights file to start it from instead.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        backbone: str = "resnet18",
        head: Literal["light", "daformer"] = "light",
        pretrained: bool = False,
        backbone_weights: str | Path | None = None,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.backbone = create_backbone(backbone, pretrained=pretrained, weights=backbone_weights)
        self.mean, self.std = self.backbone.mean, self.backbone.std
        strides, channels = zip(*self.backbone.levels, strict=True)
        self.skipped = sum(stride < FINEST for stride in strides)
        self.stride, self.coarsest = strides[self.skipped], strides[-1]
        self.head = HEADS[head](channels[self.skipped :])
        self.classifier = nn.Conv2d(HEADS[head].channels, num_classes, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Map normalised images (B, 3, H, W) of any size to named outputs.

        Images are padded with the mean colour to multiples of the coarsest stride, and the outputs cropped.

        Returns:
            ``logits`` (B, K, H, W); ``features`` (B, C, H/s, W/s) and ``low_res`` (B, K, H/s, W/s), the fused levels
            and their logits, at the stride s of the finest fused level, 4 in most backbones. Sizes round up.
        """
        height, width = x.shape[-2:]
        whole = extend(x, self.coarsest)
        features = self.head(self.backbone.features(whole)[self.skipped :])
        low_res = self.classifier(features)
        logits = resize_logits(low_res, (whole.shape[-2], whole.shape[-1]))
        rows, columns = -(-height // self.stride), -(-width // self.stride)
        return {
            "logits": logits[..., :height, :width],
            "features": features[..., :rows, :columns],
            "low_res": low_res[..., :rows, :columns],
        }
