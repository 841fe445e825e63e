"""Matching of a weights file's tensors to a network's."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from dalib.models.layouts import BODY, LAYOUTS

Pairs = dict[str, str]  # key of the network -> key of the file


def pair(own: Mapping[str, Tensor], found: Mapping[str, Tensor], layout: str) -> Pairs:
    """Pair a network's tensors ``own`` with those of a file, ``found``, in one of the layouts."""
    if layout == "timm":
        body = {key.removeprefix(BODY): tensor for key, tensor in own.items() if key.startswith(BODY)}
        return {BODY + key: source for key, source in pair_backbone(body, found).items()}
    names = {key: LAYOUTS[layout](key) for key in found}
    return {name: key for key, name in names.items() if name is not None and name in own}


def likeliest_layout(own: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str:
    """Return the layout under which most tensors pair."""
    return max(LAYOUTS, key=lambda layout: len(pair(own, found, layout)))


def pair_backbone(own: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> Pairs:
    """Pair a timm backbone's tensors by name or, where names of another library pair less than half, in order.

    In order means that every tensor of the backbone has the shape, dimensions of 1 aside, and the kind (``weight``,
    ``running_mean`` ...) of the file's tensor at the same position. Two names count as one kind where each occurs on
    one side only, such as timm's ``gamma`` and torchvision's ``layer_scale``.
    """
    pairs = _by_name(own, found)
    return pairs if 2 * len(pairs) >= len(own) else _by_order(own, found) or pairs


def _by_name(own: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> Pairs:
    # timm's feature networks rename a little: `stages.0` becomes `stages_0`, and some gain the prefix `model.`.
    plain = {key.replace("_", "."): key for key in found}
    names = {key: key.removeprefix("model.").replace("_", ".") for key in own}
    return {key: plain[name] for key, name in names.items() if name in plain}


def same_but_ones(a: Sequence[int], b: Sequence[int]) -> bool:
    """Tell whether two shapes are equal but for dimensions of 1, so that a reshape turns one into the other."""
    return [side for side in a if side != 1] == [side for side in b if side != 1]


def _by_order(own: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> Pairs:
    kinds, their_kinds = set(map(_kind, own)), set(map(_kind, found))

    def alike(a: str, b: str) -> bool:
        same = _kind(a) == _kind(b) or (_kind(a) not in their_kinds and _kind(b) not in kinds)
        return same and same_but_ones(own[a].shape, found[b].shape)

    pairs = dict(zip(own, found, strict=False))
    return pairs if len(pairs) == len(own) and all(alike(a, b) for a, b in pairs.items()) else {}


def _kind(key: str) -> str:
    return key.rpartition(".")[2]
