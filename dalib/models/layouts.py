"""How the keys of other people's checkpoints translate to those of dalib's networks, one function a layout.

A translation takes a key of the file and returns the network's key, or None for what the network has no use for: a
second name of a tensor, a classifier that never runs. A key that it does not know comes back as it is.
"""

from collections.abc import Callable, Mapping

Translation = Callable[[str], str | None]


def dalib(key: str) -> str | None:
    """Translate nothing: a checkpoint of dalib holds the network's own keys."""
    return key


def bisenet_r18_mldl2024(key: str) -> str | None:
    """Translate BiSeNet-ResNet18 of federico2879/MLDL2024_semantic_segmentation."""
    return _by_prefix(
        key,
        {
            "context_path.features.": None,
            "context_path.fc.": None,
            "context_path.": "backbone.body.",
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


def deeplabv2(key: str) -> str | None:
    """Translate DeepLabV2-ResNet101 with its classifier in ``layer6`` (AdaptSegNet, ADVENT, MLDL2024)."""
    if key.startswith(("layer5.", "layer6.")):
        return _by_prefix(key, {"layer5.conv2d_list.": "auxiliary.branches.", "layer6.conv2d_list.": "head.branches."})
    return f"backbone.body.{key}"


LAYOUTS: dict[str, Translation] = {f.__name__: f for f in (dalib, bisenet_r18_mldl2024, deeplabv2)}


def _by_prefix(key: str, table: Mapping[str, str | None]) -> str | None:
    for prefix, replacement in table.items():
        if key.startswith(prefix):
            return None if replacement is None else replacement + key[len(prefix) :]
    return key
