"""PIDNet as one function of an official checkpoint: the published operations, in the published order.

Float32 has many sums for one network. This form has no modules and none of dalib's code, so that an output which is
equal to it in every bit owes nothing to how dalib arranges or names its layers.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

POOLS = ((5, 2, 2), (9, 4, 4), (17, 8, 8))  # kernel, stride and padding


def logits(state: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """Map images (B, 3, H, W) to logits (B, K, about H/8, about W/8) of the checkpoint's network, in eval mode."""
    return _Published(state).logits(x)


class _Published:
    def __init__(self, state: Mapping[str, Tensor]) -> None:
        self.state = state

    def conv(self, name: str, x: Tensor, stride: int = 1, groups: int = 1) -> Tensor:
        weight = self.state[f"{name}.weight"]
        bias = self.state.get(f"{name}.bias")
        return F.conv2d(x, weight, bias, stride, weight.shape[-1] // 2, groups=groups)

    def norm(self, name: str, x: Tensor) -> Tensor:
        kinds = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(x, *(self.state[f"{name}.{kind}"] for kind in kinds))

    def conv_norm(self, name: str, x: Tensor, stride: int = 1) -> Tensor:
        return self.norm(f"{name}.1", self.conv(f"{name}.0", x, stride))

    def norm_conv(self, name: str, x: Tensor, first: int = 0, groups: int = 1) -> Tensor:
        return self.conv(f"{name}.{first + 2}", F.relu(self.norm(f"{name}.{first}", x)), groups=groups)

    def count(self, name: str) -> int:
        return len({key.split(".")[1] for key in self.state if key.startswith(f"{name}.")})

    def block(self, name: str, x: Tensor, stride: int = 1) -> Tensor:
        """A residual block before its last ReLU: of two 3x3 convolutions, or of a 1x1, a 3x3 and a 1x1."""
        last = 3 if f"{name}.conv3.weight" in self.state else 2
        out = x
        for i in range(1, last + 1):
            strided = stride if i == last - 1 else 1
            out = self.norm(f"{name}.bn{i}", self.conv(f"{name}.conv{i}", out, strided))
            out = F.relu(out) if i < last else out
        shortcut = f"{name}.downsample"
        return out + (self.conv_norm(shortcut, x, stride) if f"{shortcut}.0.weight" in self.state else x)

    def stage(self, name: str, x: Tensor, stride: int = 1) -> Tensor:
        for i in range(count := self.count(name)):
            x = self.block(f"{name}.{i}", x, stride if i == 0 else 1)
            x = F.relu(x) if i < count - 1 and name != "layer5" else x  # bottlenecks are joined without one
        return x

    def guide(self, name: str, x: Tensor, y: Tensor) -> Tensor:
        keys, queries = self.conv_norm(f"{name}.f_x", x), _resize(self.conv_norm(f"{name}.f_y", y), x)
        share = torch.sigmoid(torch.sum(keys * queries, dim=1, keepdim=True))
        return (1 - share) * x + share * _resize(y, x)

    def pyramid(self, x: Tensor) -> Tensor:
        pooled = [F.avg_pool2d(x, *pool) for pool in POOLS] + [F.adaptive_avg_pool2d(x, 1)]
        scales = [_resize(self.norm_conv(f"spp.scale{i}", p, 1), x) for i, p in enumerate(pooled, 1)]
        levels = [self.norm_conv("spp.scale0", x)]
        if "spp.scale_process.2.weight" in self.state:  # PAPPM
            together = torch.cat([scale + levels[0] for scale in scales], 1)
            levels.append(self.norm_conv("spp.scale_process", together, groups=len(scales)))
        else:  # DAPPM
            for i, scale in enumerate(scales, 1):
                levels.append(self.norm_conv(f"spp.process{i}", scale + levels[-1]))
        return self.norm_conv("spp.compression", torch.cat(levels, 1)) + self.norm_conv("spp.shortcut", x)

    def merge(self, p: Tensor, i: Tensor, d: Tensor) -> Tensor:
        edge = torch.sigmoid(d)
        if "dfm.conv_p.0.weight" in self.state:  # Light-Bag
            return self.conv_norm("dfm.conv_p", (1 - edge) * i + p) + self.conv_norm("dfm.conv_i", i + edge * p)
        return self.norm_conv("dfm.conv", edge * p + (1 - edge) * i)

    def logits(self, x: Tensor) -> Tensor:
        for i in (0, 3):
            x = F.relu(self.norm(f"conv1.{i + 1}", self.conv(f"conv1.{i}", x, 2)))
        x = F.relu(self.stage("layer2", F.relu(self.stage("layer1", x)), 2))
        p, d = self.stage("layer3_", x), self.block("layer3_d", x)
        x = F.relu(self.stage("layer3", x, 2))
        p, d = self.guide("pag3", p, self.conv_norm("compression3", x)), d + _resize(self.conv_norm("diff3", x), d)
        x = F.relu(self.stage("layer4", x, 2))
        boundary = "layer4_d" if "layer4_d.conv1.weight" in self.state else "layer4_d.0"
        p, d = self.stage("layer4_", F.relu(p)), self.block(boundary, F.relu(d))
        p, d = self.guide("pag4", p, self.conv_norm("compression4", x)), d + _resize(self.conv_norm("diff4", x), d)
        p, d = self.block("layer5_.0", F.relu(p)), self.block("layer5_d.0", F.relu(d))
        merged = self.merge(p, _resize(self.pyramid(self.stage("layer5", x, 2)), d), d)
        hidden = self.conv("final_layer.conv1", F.relu(self.norm("final_layer.bn1", merged)))
        return self.conv("final_layer.conv2", F.relu(self.norm("final_layer.bn2", hidden)))


def _resize(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, like.shape[-2:], mode="bilinear", align_corners=False)
