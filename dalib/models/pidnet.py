"""PIDNet, a real-time network with branches for detail, context and boundaries."""

import torch.nn.functional as F
from torch import Tensor, nn

from dalib.losses import SegmentationLossFunction
from dalib.models.pidnet_blocks import (
    Bag,
    BasicBlock,
    Bottleneck,
    Guide,
    LightBag,
    PyramidPooling,
    basic_stage,
    conv_bn,
    head,
)
from dalib.models.pidnet_loss import PIDNetLoss
from dalib.resizing import resize


class PIDNet(nn.Module):
    """PIDNet (Xu et al., CVPR 2023): a proportional, an integral and a derivative branch of stride 8, 64 and 8.

    Args:
        num_classes: K.
        channels: channels of the first stage; deeper stages have multiples of it.
        blocks: basic blocks per stage, in stages up to stride 8 and in the two coarser ones.
        pooling_channels, head_channels: inner channels of the pyramid pooling and of the classifier.
        light: use PAPPM and Light-Bag, as PIDNet-S and -M do, instead of DAPPM and Bag.
        loss: the segmentation loss of every labelled stream.
    """

    training_heads = ("head_p", "head_d")

    def __init__(
        self,
        num_classes: int,
        *,
        channels: int,
        blocks: tuple[int, int],
        pooling_channels: int,
        head_channels: int,
        light: bool,
        loss: SegmentationLossFunction,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.segmentation_loss = loss
        c, (fine, coarse) = channels, blocks
        self.stem = nn.Sequential(*_downsampling(3, c), *_downsampling(c, c))
        self.integral1 = basic_stage(c, c, fine)
        self.integral2 = basic_stage(c, 2 * c, fine, stride=2)
        self.integral3 = basic_stage(2 * c, 4 * c, coarse, stride=2)
        self.integral4 = basic_stage(4 * c, 8 * c, coarse, stride=2)
        self.integral5 = nn.Sequential(Bottleneck(8 * c, 8 * c, stride=2), Bottleneck(16 * c, 8 * c))
        self.pooling = PyramidPooling(16 * c, pooling_channels, 4 * c, parallel=light)

        self.compress3, self.compress4 = conv_bn(4 * c, 2 * c), conv_bn(8 * c, 2 * c)
        self.guide3, self.guide4 = Guide(2 * c, c), Guide(2 * c, c)
        self.proportional3 = basic_stage(2 * c, 2 * c, fine)
        self.proportional4 = basic_stage(2 * c, 2 * c, fine)
        self.proportional5 = Bottleneck(2 * c, 2 * c)

        narrow = c if light else 2 * c
        self.difference3, self.difference4 = conv_bn(4 * c, narrow, 3), conv_bn(8 * c, 2 * c, 3)
        self.derivative3 = BasicBlock(2 * c, narrow)
        self.derivative4 = Bottleneck(c, c) if light else BasicBlock(2 * c, 2 * c)
        self.derivative5 = Bottleneck(2 * c, 2 * c)

        self.fusion = LightBag(4 * c) if light else Bag(4 * c)
        self.head = head(4 * c, head_channels, num_classes)
        self.head_p = head(2 * c, head_channels, num_classes)
        self.head_d = head(2 * c, c, 1)
        initialise(self)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Map normalised images (B, 3, H, W) of any size to named outputs.

        Returns:
            ``logits`` and ``low_res``, the same (B, K, H/8, W/8), and ``features`` (B, C, H/8, W/8), the fused ones;
            in training ``aux.p`` (B, K, H/8, W/8) from the proportional branch and ``boundary`` (B, 1, H/8, W/8), the
            logits of being on a boundary, from the derivative branch. Sizes round up.
        """
        shared = F.relu(self.integral2(F.relu(self.integral1(self.stem(x)))))
        size = (shared.shape[-2], shared.shape[-1])

        level16 = F.relu(self.integral3(shared))
        detail = F.relu(self.guide3(self.proportional3(shared), self.compress3(level16)))
        edges = F.relu(self.derivative3(shared) + resize(self.difference3(level16), size))

        level32 = F.relu(self.integral4(level16))
        guided = F.relu(self.guide4(self.proportional4(detail), self.compress4(level32)))
        boundary = F.relu(self.derivative4(edges) + resize(self.difference4(level32), size))

        context = resize(self.pooling(self.integral5(level32)), size)
        fused = self.fusion(self.proportional5(guided), context, self.derivative5(boundary))
        logits = self.head(fused)
        outputs = {"logits": logits, "low_res": logits, "features": fused}
        if self.training:
            outputs |= {"aux.p": self.head_p(detail), "boundary": self.head_d(boundary)}
        return outputs


def pidnet_s(num_classes: int, *, loss: PIDNetLoss | None = None) -> PIDNet:
    """Return PIDNet-S: 7,720,935 parameters with 19 classes, 7,625,715 in inference; default loss as published."""
    return PIDNet(
        num_classes,
        channels=32,
        blocks=(2, 3),
        pooling_channels=96,
        head_channels=128,
        light=True,
        loss=loss or PIDNetLoss(),
    )


def pidnet_m(num_classes: int, *, loss: PIDNetLoss | None = None) -> PIDNet:
    """Return PIDNet-M: 28,763,111 parameters with 19 classes, 28,538,515 in inference; default loss as published."""
    return PIDNet(
        num_classes,
        channels=64,
        blocks=(2, 3),
        pooling_channels=96,
        head_channels=128,
        light=True,
        loss=loss or PIDNetLoss(),
    )


def pidnet_l(num_classes: int, *, loss: PIDNetLoss | None = None) -> PIDNet:
    """Return PIDNet-L: 37,314,311 parameters with 19 classes, 36,939,571 in inference; default loss as published."""
    return PIDNet(
        num_classes,
        channels=64,
        blocks=(3, 4),
        pooling_channels=112,
        head_channels=256,
        light=False,
        loss=loss or PIDNetLoss(),
    )


def initialise(network: nn.Module) -> None:
    """Initialise every convolution as He et al. 2015 do, by fan-out, since there are no pretrained weights."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def _downsampling(in_channels: int, channels: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(in_channels, channels, 3, stride=2, padding=1), nn.BatchNorm2d(channels), nn.ReLU()
