"""timm backbones that give features by stride, and loading of their pretrained weights."""

import difflib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dalib.errors import RecipeError, RegistryError, WeightsError
from dalib.models.announce import announce
from dalib.models.layers import extend
from dalib.models.pairing import pair_backbone
from dalib.models.tiles import Size, cut, join
from dalib.models.weights import LoadReport, announce_report, load_pairs, read_weights

# Options with which timm's vision transformers and its window transformers take images of any size; others need none.
ANY_SIZE: tuple[dict[str, bool], ...] = ({"dynamic_img_size": True}, {"strict_img_size": False})


class Backbone(nn.Module):
    """A timm ``features_only`` network that maps images to the deepest feature map of each stride.

    Attributes:
        cell: images are zero-padded to sides that are multiples of this; 1 where ``body`` takes any size by itself.
        tile: the only image size (H, W) that ``body`` takes, or None; other images are cut into tiles of that size,
            which are processed independently.
        levels: (stride, channels) of every feature map, from the first to the deepest.
        channels: channels of the deepest feature map, by stride.
        mean, std: of the RGB channels, as its published weights expect.
    """

    def __init__(self, body: Any) -> None:
        super().__init__()
        self.body = body
        self.cell: int = 1
        self.tile: Size | None = None
        info = body.feature_info
        self.levels = tuple(zip(info.reduction(), info.channels(), strict=True))
        self.channels = dict(self.levels)
        self.mean = tuple(body.pretrained_cfg["mean"])
        self.std = tuple(body.pretrained_cfg["std"])
        self.channels_first = str(getattr(body, "output_fmt", "NCHW")).endswith("NCHW")

    def forward(self, x: Tensor) -> dict[int, Tensor]:
        """Map normalised images (B, 3, H, W) to (B, channels[s], H/s, W/s) for every stride s; sizes round up."""
        strides = (stride for stride, _ in self.levels)
        return dict(zip(strides, self.features(x), strict=True))

    def features(self, x: Tensor) -> list[Tensor]:
        """Map normalised images (B, 3, H, W) to (B, channels, H/stride, W/stride) for every level; sizes round up.

        A few backbones without padding, such as Inception, give slightly smaller maps.
        """
        size = (x.shape[-2], x.shape[-1])
        whole = extend(x, self.cell) if self.tile is None else cut(x, self.tile)
        features: list[Tensor] = self.body(whole)
        if not self.channels_first:
            features = [f.permute(0, 3, 1, 2) for f in features]
        if self.tile is not None:
            return [join(f, size, self.tile) for f in features]
        if self.cell > 1:
            return [
                f[..., : -(-size[0] // s), : -(-size[1] // s)] for f, (s, _) in zip(features, self.levels, strict=True)
            ]
        return features


def create_backbone(
    name: str,
    *,
    strides: Sequence[int] = (),
    output_stride: int | None = None,
    pretrained: bool = False,
    weights: str | Path | None = None,
) -> Backbone:
    """Create a timm backbone that gives features at ``strides``.

    Args:
        name: as timm knows it, e.g. ``resnet18`` or ``tf_efficientnet_lite0``.
        output_stride: stride of the deepest feature map, beyond which stages dilate instead of striding.
        pretrained: start from timm's published weights, which timm downloads.
        weights: a weights file to start from instead, with timm's key names or in timm's order.

    Raises:
        RegistryError: timm does not know the name.
        RecipeError: the backbone lacks a stride, cannot have the output stride, or takes no images; or both
            ``pretrained`` and ``weights`` are given.
        WeightsError: the file does not fit, or timm has no published weights or could not fetch them.
    """
    if not isinstance(name, str):
        raise RecipeError(
            f"backbone: expected the name of a timm backbone, got a {type(name).__name__}. A network around modules of "
            "your own is wrapped by dalib.wrap_model(network, num_classes)."
        )
    if pretrained and weights is not None:
        raise RecipeError("pretrained and backbone_weights both say where the backbone starts; give one of them.")
    options = {} if output_stride is None else {"output_stride": output_stride}
    backbone = Backbone(_features(name, pretrained, options))
    backbone.cell, backbone.tile = _sizes_taken(name, backbone)
    lacking = [s for s in strides if s not in backbone.channels]
    if lacking:
        raise RecipeError(
            f"backbone {name!r} gives features at strides {_listed(backbone.channels)}, not at {_listed(lacking)}; "
            f"choose one with strides {_listed(strides)}, e.g. resnet18."
        )
    if weights is not None:
        announce_report(load_backbone(backbone.body, weights), f"backbone {name}: ")
    return backbone


def _sizes_taken(name: str, backbone: Backbone) -> tuple[int, Size | None]:
    """Return ``cell`` and ``tile`` of a new backbone, found by trial forwards.

    Raises:
        RecipeError: it takes no images.
    """
    coarsest, (height, width) = backbone.levels[-1][0], backbone.body.pretrained_cfg["input_size"][1:]
    cells = (5 * coarsest, 7 * coarsest)  # odd multiples, which no larger cell divides
    odd = (cells[0] + 1, 1)
    own = next(backbone.parameters()).device
    for device in (torch.device("meta"), own):  # meta computes no values, which a few backbones need
        if _tried(backbone, odd, device) == _rounded_up(backbone, odd):
            return 1, None
        found = _tried(backbone, cells, device)
        # Some resize every image to their one size and then give larger feature maps than their stride implies.
        if isinstance(found, list) and all(map(_within, found, _rounded_up(backbone, cells))):
            return coarsest, None
        found = _tried(backbone, (height, width), device)
        if isinstance(found, list):
            announce(f"backbone {name} takes images of {height}x{width} (HxW) only: others are cut into tiles")
            return 1, (height, width)
    if own.type == "meta":
        return 1, None  # only planned on meta; on a real device it may work
    assert isinstance(found, Exception)
    raise RecipeError(f"backbone {name!r} gives no features of images: {found}") from found


def _rounded_up(backbone: Backbone, size: Size) -> list[Size]:
    return [(-(-size[0] // stride), -(-size[1] // stride)) for stride, _ in backbone.levels]


def _within(size: Size, most: Size) -> bool:
    return size[0] <= most[0] and size[1] <= most[1]


def _tried(backbone: Backbone, size: Size, device: torch.device) -> list[Size] | Exception:
    """Return the sizes of a backbone's feature maps for an image of this size, or what it raises."""
    moved = {id(tensor): tensor.to(device) for tensor in (*backbone.parameters(), *backbone.buffers())}
    probe = deepcopy(backbone, moved).eval()  # a copy, since some cache values that depend on the image's size
    try:
        with torch.no_grad():
            return [(f.shape[-2], f.shape[-1]) for f in probe.features(torch.zeros(1, 3, *size, device=device))]
    except Exception as error:  # each family fails in its own way
        return error


def load_backbone(body: nn.Module, path: str | Path) -> LoadReport:
    """Load a weights file into a timm backbone: by name, or in order when the names are another library's.

    Tensors beyond the backbone, such as a classifier's, are ignored.
    """
    found = read_weights(path)
    pairs = pair_backbone(body.state_dict(), found)
    return load_pairs(body, found, pairs, origin=str(path), layout="timm")


def _features(name: str, pretrained: bool, options: dict[str, Any]) -> Any:
    import timm

    if not timm.is_model(name):
        close = ", ".join(difflib.get_close_matches(name, timm.list_models(), n=3))
        hint = f"Did you mean {close}?" if close else "timm.list_models() names them all."
        raise RegistryError(f"timm has no backbone {name!r}. {hint}")
    create = partial(timm.create_model, name, features_only=True, **options)
    drawn_from = torch.get_rng_state()
    try:
        body = _for_any_size(create)
    except Exception as error:  # each of timm's families raises its own kind
        if "output_stride" in options:
            raise RecipeError(
                f"backbone {name!r} cannot have output stride {options['output_stride']}; choose one whose later "
                "stages can dilate, e.g. resnet101 or convnext_tiny."
            ) from error
        raise RecipeError(f"timm gives no features of {name!r}: {error}") from error
    if not pretrained:
        return body
    if not timm.is_model_pretrained(name):
        raise WeightsError(
            f"timm has no published weights of {name!r}; choose one of timm.list_pretrained(), bring a file with "
            "`backbone_weights: FILE`, or start from random weights with `pretrained: false`."
        )
    torch.set_rng_state(drawn_from)
    try:
        with _offline_without_network():
            published = _for_any_size(partial(create, pretrained=True))
    except Exception as error:  # the kind depends on the client that timm downloads with
        reason = str(error).partition("\n")[0].rstrip(".")
        raise WeightsError(
            f"timm could not fetch its weights of {name!r} ({reason}). Without a network, download the file elsewhere "
            f"and name it with `backbone_weights: FILE`, or start from random weights with `pretrained: false`."
        ) from error
    _count_published(name, published, body)
    return published


@contextmanager
def _offline_without_network() -> Iterator[None]:
    """Without a network let timm take what it downloaded before; its client would try again for a minute."""
    from huggingface_hub import constants, get_session

    before = constants.HF_HUB_OFFLINE
    try:
        if not before:
            get_session().head(constants.ENDPOINT, timeout=5)
    except Exception:  # the kind depends on the version of the client
        constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _count_published(name: str, body: nn.Module, untrained: nn.Module) -> None:
    """Announce how many tensors timm loaded: those that differ from an untrained network of the same generator state.

    timm skips keys that do not match without a word, so a wrong file would leave the random initialisation.
    """
    drawn = untrained.state_dict()
    weights = {key: t for key, t in body.state_dict().items() if t.is_floating_point()}
    loaded = sum(not torch.equal(tensor, drawn[key]) for key, tensor in weights.items())
    if 2 * loaded < len(weights):
        raise WeightsError(
            f"timm's published weights of {name!r} gave {loaded} of the backbone's {len(weights)} tensors; bring a "
            "file that fits with `backbone_weights: FILE`, or start from random weights with `pretrained: false`."
        )
    announce(f"backbone {name}: {loaded} of {len(weights)} tensors from timm's published weights")


def _for_any_size(create: Callable[..., Any]) -> Any:
    for options in ANY_SIZE:
        try:
            return create(**options)
        except TypeError as error:
            if not any(option in str(error) for option in options):
                raise
    return create()


def _listed(values: Any) -> str:
    return ", ".join(str(v) for v in values)
