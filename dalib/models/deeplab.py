"""DeepLabV2: a residual network of output stride 8 under parallel dilated classifiers."""

import logging
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from dalib.errors import RecipeError
from dalib.models.backbones import Backbone, create_backbone

logger = logging.getLogger("dalib")

ASPP = {"four-branch": (6, 12, 18, 24), "two-branch": (6, 12)}
HEAD_LR_SCALE = 10.0


class AtrousPyramid(nn.Module):
    """The sum of 3x3 classifiers with different dilations (Chen et al. 2017, section 3.2)."""

    def __init__(self, in_channels: int, num_classes: int, dilations: tuple[int, ...]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Conv2d(in_channels, num_classes, 3, padding=dilation, dilation=dilation) for dilation in dilations
        )
        for branch in self.branches:
            nn.init.normal_(branch.weight, std=0.01)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in_channels, H, W) to logits (B, K, H, W)."""
        logits: Tensor = self.branches[0](x)
        for branch in self.branches[1:]:
            logits = logits + branch(x)
        return logits


class DeepLabV2(nn.Module):
    """DeepLabV2 (Chen et al., TPAMI 2017) in the form on which domain adaptation methods are compared.

    With ``resnet101`` and 19 classes it has 43,901,068 parameters. ``mean`` and ``std`` are its backbone's.

    Args:
        num_classes: K.
        backbone: name of a timm backbone that can have output stride 8. A bottleneck ResNet is built as the official
            ones are: max pooling with ``ceil_mode``, and one dilation for all blocks of a stage.
        pretrained: start the backbone from timm's published weights, which timm downloads.
        backbone_weights: a weights file to start it from instead, torchvision's or timm's.
        aspp: dilations 6, 12, 18, 24, or the first two alone, which is what the official code of AdaptSegNet and of
            DACS computes.
        multi_level: add an auxiliary output on the second-to-last stage (AdaptSegNet, ADVENT).
        stride_on: the convolution of a ResNet's bottleneck that has the stride: the 1x1 as official, or the 3x3, with
            which torchvision's and timm's weights were trained.
        frozen_affine: do not train the scale and shift of the backbone's BatchNorm; running statistics still move.

    Raises:
        RecipeError: the backbone has no bottlenecks to stride on, or no BatchNorm to freeze.
    """

    training_heads = ("auxiliary",)

    def __init__(
        self,
        num_classes: int,
        *,
        backbone: str = "resnet101",
        pretrained: bool = False,
        backbone_weights: str | Path | None = None,
        aspp: Literal["four-branch", "two-branch"] = "four-branch",
        multi_level: bool = False,
        stride_on: Literal["1x1", "3x3"] = "1x1",
        frozen_affine: bool = False,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.backbone = create_backbone(backbone, output_stride=8, pretrained=pretrained, weights=backbone_weights)
        self.mean, self.std = self.backbone.mean, self.backbone.std
        (_, middle), (_, deepest) = self.backbone.levels[-2:]
        self.head = AtrousPyramid(deepest, num_classes, ASPP[aspp])
        self.auxiliary = AtrousPyramid(middle, num_classes, ASPP[aspp]) if multi_level else None
        arranged = arrange_as_official(self.backbone, stride_on)
        if stride_on == "3x3" and not arranged:
            raise RecipeError(f"stride_on: backbone {backbone!r} has no bottlenecks that stride; leave the option out.")
        self.strides_as_official = arranged and stride_on == "1x1"
        if pretrained or backbone_weights is not None:
            self.warn_of_strides()
        if frozen_affine and not freeze_affine(self.backbone):
            raise RecipeError(f"frozen_affine: backbone {backbone!r} has no BatchNorm to freeze; leave the option out.")

    def warn_of_strides(self) -> None:
        """Warn that weights of the backbone alone may have been trained with other strides."""
        if self.strides_as_official:
            logger.warning(
                "timm's and torchvision's weights of ResNets were trained with stride_on: 3x3, and this network has "
                "1x1, as the official one; say stride_on: 3x3, unless the weights are others."
            )

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Map normalised images (B, 3, H, W) of any size to named outputs.

        Returns:
            ``logits`` and ``low_res``, the same (B, K, h, w), and ``features`` (B, C, h, w), where h and w are about
            H/8 and W/8; in training of a multi-level network ``aux.middle`` (B, K, h, w).
        """
        middle, features = self.backbone.features(x)[-2:]
        logits = self.head(features)
        outputs = {"logits": logits, "low_res": logits, "features": features}
        if self.auxiliary is not None and self.training:
            outputs["aux.middle"] = self.auxiliary(middle)
        return outputs

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return parameter groups for an optimiser; the heads have ten times the learning rate."""
        heads = [p for name, p in self.named_parameters() if not name.startswith("backbone.")]
        return [
            {"params": list(self.backbone.parameters()), "lr_scale": 1.0},
            {"params": heads, "lr_scale": HEAD_LR_SCALE},
        ]


def arrange_as_official(backbone: Backbone, stride_on: Literal["1x1", "3x3"]) -> bool:
    """Give a timm bottleneck ResNet the official strides, dilations and pooling; return whether ``backbone`` is one."""
    from timm.models.resnet import Bottleneck

    stages = [list(stage) for name, stage in backbone.body.named_children() if name.startswith("layer")]
    if not stages or not all(isinstance(block, Bottleneck) for stage in stages for block in stage):
        return False
    firsts = [stage[0] for stage in stages]
    if type(backbone.body.maxpool) is not nn.MaxPool2d or all(first.conv2.stride == (1, 1) for first in firsts):
        return False  # a ResNet that downsamples in another way
    backbone.body.maxpool = nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=True)
    for first, stage in zip(firsts, stages, strict=True):
        first.conv2.dilation = first.conv2.padding = stage[-1].conv2.dilation
        if stride_on == "1x1":
            first.conv1.stride, first.conv2.stride = first.conv2.stride, first.conv1.stride
    return True


def freeze_affine(module: nn.Module) -> bool:
    """Exclude the scale and shift of every BatchNorm from training; return whether there is one."""
    norms = [norm for norm in module.modules() if isinstance(norm, nn.BatchNorm2d)]
    for norm in norms:
        norm.requires_grad_(False)
    return bool(norms)
