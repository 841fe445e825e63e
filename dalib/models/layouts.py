"""Translations of the keys of published checkpoints to those of dalib's networks, one function per layout.

A translation takes a key of the file and returns the network's key, or None for a tensor that the network does not
need: a second name of a tensor, a classifier that never runs. Unknown keys are returned unchanged.
"""

from collections.abc import Callable, Mapping

Translation = Callable[[str], str | None]

BODY = "backbone.body."


def dalib(key: str) -> str | None:
    """Translate nothing: a checkpoint of dalib holds the network's own keys."""
    return key


def timm(key: str) -> str | None:
    """Translate a checkpoint of the backbone alone, timm's or torchvision's; the rest of the network keeps its values.

    ``dalib.models.pairing`` also bridges the small differences between timm's names of one backbone.
    """
    return BODY + key


def bisenet_r18_mldl2024(key: str) -> str | None:
    """Translate BiSeNet-ResNet18 of federico2879/MLDL2024_semantic_segmentation."""
    return _by_prefix(
        key,
        {
            "context_path.features.": None,
            "context_path.fc.": None,
            "context_path.": BODY,
            "saptial_path.convblock1.conv1.": "spatial.0.conv.",
            "saptial_path.convblock1.": "spatial.0.",
            "saptial_path.convblock2.conv1.": "spatial.1.conv.",
            "saptial_path.convblock2.": "spatial.1.",
            "saptial_path.convblock3.conv1.": "spatial.2.conv.",
            "saptial_path.convblock3.": "spatial.2.",
            "attention_refinement_module1.": "refine16.",
            "attention_refinement_module2.": "refine32.",
            "feature_fusion_module.convblock.conv1.": "fusion.block.conv.",
            "feature_fusion_module.convblock.": "fusion.block.",
            "feature_fusion_module.conv1.": "fusion.squeeze.",
            "feature_fusion_module.conv2.": "fusion.excite.",
            "supervision1.": "head16.",
            "supervision2.": "head32.",
            "conv.": "classifier.",
        },
    )


def bisenetv1_coincheung(key: str) -> str | None:
    """Translate BiSeNetV1 of CoinCheung/BiSeNet."""
    return _by_prefix(
        key,
        {
            "cp.resnet.": BODY,
            "cp.arm16.conv.": "context.refine16.block.",
            "cp.arm16.conv_atten.": "context.refine16.gate.conv.",
            "cp.arm16.bn_atten.": "context.refine16.gate.bn.",
            "cp.arm32.conv.": "context.refine32.block.",
            "cp.arm32.conv_atten.": "context.refine32.gate.conv.",
            "cp.arm32.bn_atten.": "context.refine32.gate.bn.",
            "cp.conv_head16.": "context.smooth16.",
            "cp.conv_head32.": "context.smooth32.",
            "cp.conv_avg.": "context.pooled.",
            "sp.conv1.": "spatial.0.",
            "sp.conv2.": "spatial.1.",
            "sp.conv3.": "spatial.2.",
            "sp.conv_out.": "spatial.3.",
            "ffm.convblk.": "fusion.block.",
            "ffm.": "fusion.gate.",
            "conv_out.conv.": "head.0.",
            "conv_out.conv_out.": "head.1.",
            "conv_out16.conv.": "head8.0.",
            "conv_out16.conv_out.": "head8.1.",
            "conv_out32.conv.": "head16.0.",
            "conv_out32.conv_out.": "head16.1.",
        },
    )


def deeplabv2(key: str) -> str | None:
    """Translate DeepLabV2-ResNet101 with its classifier in ``layer6`` (AdaptSegNet, ADVENT, MLDL2024)."""
    if key.startswith(("layer5.", "layer6.")):
        return _by_prefix(key, {"layer5.conv2d_list.": "auxiliary.branches.", "layer6.conv2d_list.": "head.branches."})
    return BODY + key


def deeplabv2_single(key: str) -> str | None:
    """Translate DeepLabV2-ResNet101 whose one classifier is ``layer5`` (AdaptSegNet of a single level, FDA, DACS)."""
    if key.startswith("layer5."):
        return _by_prefix(key, {"layer5.conv2d_list.": "head.branches."})
    return BODY + key


def deeplab_coco(key: str) -> str | None:
    """Translate the ImageNet- and COCO-trained start of DeepLab (AdaptSegNet, FDA, DACS): the backbone alone.

    Its head, for other classes, is left out.
    """
    if not key.startswith("Scale."):
        return key
    key = key.removeprefix("Scale.")
    return None if key.startswith("layer5.") else BODY + key


def pidnet(key: str) -> str | None:
    """Translate PIDNet-S, -M and -L of XuJiacong/PIDNet."""
    key = _by_part(key, _PIDNET_HEAD if key.startswith(("seghead_", "final_layer.")) else _PIDNET_BLOCK)
    return _by_prefix(key, _PIDNET)


_PIDNET_HEAD = {"bn1.": "0.", "conv1.": "2.", "bn2.": "3.", "conv2.": "5."}
_PIDNET_BLOCK = {
    ".conv1.": ".first.0.",
    ".bn1.": ".first.1.",
    ".conv2.": ".second.0.",
    ".bn2.": ".second.1.",
    ".conv3.": ".third.0.",
    ".bn3.": ".third.1.",
    ".downsample.": ".shortcut.",
    ".f_x.": ".proportional.",
    ".f_y.": ".integral.",
    ".conv_p.": ".proportional.",
    ".conv_i.": ".integral.",
}
_PIDNET: dict[str, str | None] = {
    "conv1.": "stem.",
    **{f"layer{i}.": f"integral{i}." for i in range(1, 6)},
    "layer3_.": "proportional3.",
    "layer4_.": "proportional4.",
    "layer5_.0.": "proportional5.",
    "layer3_d.": "derivative3.",
    "layer4_d.0.": "derivative4.",
    "layer4_d.": "derivative4.",
    "layer5_d.0.": "derivative5.",
    "compression3.": "compress3.",
    "compression4.": "compress4.",
    "pag3.": "guide3.",
    "pag4.": "guide4.",
    "diff3.": "difference3.",
    "diff4.": "difference4.",
    "spp.scale0.": "pooling.direct.",
    "spp.scale_process.": "pooling.smooth.",
    **{f"spp.scale{i}.": f"pooling.pooled.{i - 1}." for i in range(1, 5)},
    **{f"spp.process{i}.": f"pooling.smooth.{i - 1}." for i in range(1, 5)},
    "spp.compression.": "pooling.fuse.",
    "spp.shortcut.": "pooling.shortcut.",
    "dfm.conv.": "fusion.mix.",
    "dfm.": "fusion.",
    "seghead_p.": "head_p.",
    "seghead_d.": "head_d.",
    "final_layer.": "head.",
}


# Order matters: of the layouts that match equally many tensors the first is taken.
LAYOUTS: dict[str, Translation] = {
    f.__name__: f
    for f in (
        dalib,
        deeplab_coco,
        timm,
        bisenet_r18_mldl2024,
        bisenetv1_coincheung,
        deeplabv2,
        deeplabv2_single,
        pidnet,
    )
}


def _by_part(key: str, table: Mapping[str, str]) -> str:
    for part, replacement in table.items():
        key = key.replace(part, replacement)
    return key


def _by_prefix(key: str, table: Mapping[str, str | None]) -> str | None:
    for prefix, replacement in table.items():
        if key.startswith(prefix):
            return None if replacement is None else replacement + key[len(prefix) :]
    return key
