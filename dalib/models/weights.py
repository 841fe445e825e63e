"""Loading of weights from dalib's checkpoints and published layouts; all tensors are checked before any is copied."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dalib.errors import CheckpointError, WeightsError, suggest
from dalib.files import find_checkpoint, load_tensors
from dalib.models.announce import announce
from dalib.models.layouts import LAYOUTS
from dalib.models.pairing import likeliest_layout, pair, same_but_ones
from dalib.models.wrapper import network_of, training_heads

logger = logging.getLogger("dalib")

# Keys under which checkpoints keep the weights, next to optimisers and counters.
CONTAINERS = ("model", "state_dict", "model_state_dict")
OF_THE_WRAPPER = ("mean", "std")  # a SegmentationModel's buffers, which its network does not have
WRAPPERS = ("_orig_mod.", "module.", "model.", "network.")  # what compilers and wrappers put before every key


@dataclass(frozen=True, kw_only=True)
class LoadReport:
    """What became of each tensor; keys are the network's own, those of ``unexpected`` the file's.

    Fields:
        origin: the file's path, or "state dict".
        layout: the layout by which keys were translated.
        matched: tensors that were loaded.
        missing: tensors that inference needs and the file lacks; they keep their values.
        unexpected: tensors of the file that the network lacks, or that are of another number of classes.
        heads: tensors of training-only heads that the file lacks.
    """

    origin: str
    layout: str
    matched: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    heads: tuple[str, ...]

    def __str__(self) -> str:
        total = len(self.matched) + len(self.missing) + len(self.heads)
        notes = {"missing": self.missing, "of training heads absent": self.heads, "unexpected": self.unexpected}
        rest = "".join(f", {len(keys)} {note}" for note, keys in notes.items() if keys)
        return f"{len(self.matched)} of {total} tensors loaded from {self.origin} (layout: {self.layout}){rest}"


def load_weights(
    model: nn.Module, source: str | Path | Mapping[str, Any], layout: str = "auto", *, to_train: bool = False
) -> LoadReport:
    """Load weights into a model, wrapped or bare, and report what matched.

    Args:
        model: its tensors are changed in place: all that match or, on an error, none.
        source: a file (``.pt``, ``.pth``, ``.safetensors``), a run folder, whose last checkpoint is taken, or a state
            dict. Either may hold the weights under the key ``model``, ``state_dict`` or ``model_state_dict``, and carry
            the prefixes of wrappers.
        layout: a name in ``dalib.models.layouts.LAYOUTS``, or "auto" for the one under which most of what inference
            needs matches.
        to_train: take weights for another number of classes as a start: what depends on that number is left as it is,
            with a warning. False: they are an error.

    Raises:
        WeightsError: the source is no weights file, matches less than half of the backbone, has other shapes, or has
            values that are not finite; or the layout is unknown.
    """
    network = network_of(model)
    own = network.state_dict()
    found = _unwrap(read_weights(source), own)
    inference = {key: tensor for key, tensor in own.items() if not key.startswith(_heads(network))}
    layout = likeliest_layout(inference, found) if layout == "auto" else layout
    if layout not in LAYOUTS:
        raise WeightsError(f"unknown layout {layout!r}.{suggest(layout, [*LAYOUTS, 'auto'])}")
    found = {key: tensor for key, tensor in found.items() if LAYOUTS[layout](key) is not None}
    origin = "state dict" if isinstance(source, Mapping) else str(source)
    pairs = pair(own, found, layout)
    pairs = _without_other_classes(network, found, pairs, origin) if to_train else pairs
    report = load_pairs(network, found, pairs, origin=origin, layout=layout)
    announce_report(report)
    if layout == "timm" and callable(told := getattr(network, "warn_of_strides", None)):
        told()
    return report


def announce_report(report: LoadReport, whose: str = "") -> None:
    """Announce how much was loaded, as a warning where tensors that inference needs are missing."""
    if report.missing:
        logger.warning("%s%s", whose, report)
    else:
        announce(f"{whose}{report}")


def load_pairs(
    module: nn.Module, found: Mapping[str, Tensor], pairs: Mapping[str, str], *, origin: str, layout: str
) -> LoadReport:
    """Copy ``found[pairs[key]]`` into each tensor ``key`` of ``module``, after all of them were checked.

    Raises:
        WeightsError: ``pairs`` cover less than half of the backbone, shapes differ, or numbers are not finite.
    """
    own, used = module.state_dict(), set(pairs.values())
    absent = [key for key in own if key not in pairs and not key.endswith("num_batches_tracked")]
    heads = _heads(module)
    report = LoadReport(
        origin=origin,
        layout=layout,
        matched=tuple(key for key in own if key in pairs),
        missing=tuple(key for key in absent if not key.startswith(heads)),
        unexpected=tuple(key for key in found if key not in used),
        heads=tuple(key for key in absent if key.startswith(heads)),
    )
    _refuse_other_form(report, found, used, fused=getattr(module, "is_fused", False))
    _refuse_poor_match(report, own, found)
    fitting = {key: _shaped(found[source], own[key].shape) for key, source in pairs.items()}
    _refuse_other_shapes(own, fitting, module, origin)
    _refuse_infinite(fitting, origin)
    with torch.no_grad():
        for key, tensor in fitting.items():
            own[key].copy_(tensor)
    return report


def read_weights(source: str | Path | Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the tensors of a file or state dict by key; no code in a file is ever run.

    Raises:
        WeightsError: there is no such file, it holds no weights, or the source is neither a path nor a dict.
    """
    if not isinstance(source, str | PathLike | Mapping):
        raise WeightsError(
            f"weights: expected a file, a run folder or a state dict, found {type(source).__name__}; "
            "of a module, give its state_dict()."
        )
    state: Any = source if isinstance(source, Mapping) else _read_file(Path(source))
    while isinstance(state, Mapping) and (inner := [c for c in CONTAINERS if isinstance(state.get(c), Mapping)]):
        state = state[inner[0]]
    tensors = {str(k): v for k, v in state.items() if isinstance(v, Tensor)} if isinstance(state, Mapping) else {}
    if not tensors:
        name = "the state dict" if isinstance(source, Mapping) else str(source)
        raise WeightsError(f"{name} holds no weights: expected a dict of tensors, or one under {_either(CONTAINERS)}.")
    return tensors


def _read_file(path: Path) -> Any:
    if path.is_dir():
        try:
            path = find_checkpoint(path)
        except CheckpointError as error:
            raise WeightsError(str(error)) from error
    if not path.is_file():
        raise WeightsError(f"{path} is not a file; give the path of a file of weights (.pt, .pth or .safetensors).")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        return load_tensors(path)
    except Exception as error:  # a damaged file fails anywhere in the readers
        raise WeightsError(
            f"{path} holds objects besides tensors, which dalib does not load because they could run code. If you "
            "trust it, keep its tensors alone: torch.save(torch.load(OLD, weights_only=False)['state_dict'], NEW)."
            if "unsupported global" in str(error).lower()
            else f"{path} is not a file of weights, or is damaged ({type(error).__name__})."
        ) from error


def _without_other_classes(
    network: nn.Module, found: Mapping[str, Tensor], pairs: Mapping[str, str], origin: str
) -> dict[str, str]:
    """Return the pairs without tensors whose only difference is another number of classes, with a warning."""
    own = network.state_dict()
    differing = {
        key: _differences(own[key].shape, found[source].shape)
        for key, source in pairs.items()
        if own[key].shape != found[source].shape and not same_but_ones(found[source].shape, own[key].shape)
    }
    counts = set().union(*differing.values())
    if len(counts) != 1 or (count := counts.pop())[0] != getattr(network, "num_classes", None):
        return dict(pairs)
    logger.warning(
        "%s was trained for %d classes and this model has %d: the rest of the network starts from it, and %s.",
        *(origin, count[1], count[0]),
        f"{len(differing)} tensors that depend on the number of classes, such as {next(iter(differing))}, start anew",
    )
    return {key: source for key, source in pairs.items() if key not in differing}


def _heads(network: nn.Module) -> tuple[str, ...]:
    return tuple(f"{head}." for head in training_heads(network))


def _unwrap(found: dict[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    while not own.keys() & found.keys():
        # A wrapper may have tensors of its own, such as its loss's class weights, so one prefixed key is enough.
        prefix = next((w for w in WRAPPERS if any(key.startswith(w) for key in found)), None)
        if prefix is None:
            break
        found = {key.removeprefix(prefix): tensor for key, tensor in found.items() if key not in OF_THE_WRAPPER}
    return found


def _shaped(tensor: Tensor, shape: torch.Size) -> Tensor:
    return tensor.reshape(shape) if same_but_ones(tensor.shape, shape) else tensor


def _refuse_other_form(report: LoadReport, found: Mapping[str, Tensor], used: set[str], *, fused: bool) -> None:
    """Refuse weights with BatchNorm for a fused model, and weights of a fused model for one with BatchNorm."""
    if fused and any(key.endswith("running_mean") for key in report.unexpected):
        raise WeightsError(
            f"{report.origin} has BatchNorms, and this model's are fused; load the weights first, then fuse."
        )
    biases = [
        key
        for key in report.unexpected
        if key.endswith(".bias") and (weight := f"{key[:-4]}weight") in used and found[weight].ndim == 4
    ]
    if biases and any(key.endswith("running_mean") for key in report.missing):
        raise WeightsError(
            f"{report.origin} is of a fused model, whose convolutions hold what this model's BatchNorms do, "
            f"such as {biases[0]}; load it into `fuse(model)`, or bring the weights from before fusing."
        )


def _refuse_poor_match(report: LoadReport, own: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    backbone = [key for key in own if key.startswith("backbone.")] or list(own)
    matched = len(set(report.matched).intersection(backbone))
    if 2 * matched < len(backbone):
        raise WeightsError(
            f"{report.origin} matches {matched} of the backbone's {len(backbone)} tensors, so it belongs to another "
            "network, or names and orders its tensors otherwise. "
            f"Its keys look like {_sample(found)}; the network's like {_sample(backbone)}. "
            f"Known layouts: {', '.join(LAYOUTS)}."
        )


def _refuse_other_shapes(
    own: Mapping[str, Tensor], found: Mapping[str, Tensor], module: nn.Module, origin: str
) -> None:
    wrong = {key: (own[key].shape, t.shape) for key, t in found.items() if own[key].shape != t.shape}
    if not wrong:
        return
    differing = {pair for expected, shape in wrong.values() for pair in _differences(expected, shape)}
    num_classes = getattr(module, "num_classes", None)
    if len(differing) == 1 and (pair := differing.pop())[0] == num_classes:
        raise WeightsError(
            f"{origin} was trained for {pair[1]} classes and this model has {num_classes}; "
            f"create the model with num_classes={pair[1]}, or bring weights for {num_classes} classes."
        )
    key, (expected, shape) = next(iter(wrong.items()))
    raise WeightsError(
        f"{origin} has tensors of another shape, {len(wrong)} in all; the first is {key}: "
        f"expected {tuple(expected)}, found {tuple(shape)}. Nothing was loaded."
    )


def _refuse_infinite(found: Mapping[str, Tensor], origin: str) -> None:
    wrong = [key for key, tensor in found.items() if not tensor.isfinite().all()]
    if wrong:
        raise WeightsError(
            f"{origin} has numbers that are not finite in {len(wrong)} of {len(found)} tensors, the first in "
            f"{wrong[0]}, as training that diverged leaves them; take an earlier checkpoint. Nothing was loaded."
        )


def _differences(expected: torch.Size, shape: torch.Size) -> set[tuple[int, int]]:
    if len(expected) != len(shape):
        return {(0, 0), (1, 1)}  # no single count explains it
    return {(a, b) for a, b in zip(expected, shape, strict=True) if a != b}


def _sample(keys: Any) -> str:
    return ", ".join(list(keys)[:2])


def _either(names: tuple[str, ...]) -> str:
    return " or ".join(repr(name) for name in names)
