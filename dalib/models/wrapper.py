"""The wrapper around every network: it maps images in [0, 1] to logits of the images' size."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, overload

import torch
from torch import Tensor, nn

from dalib.errors import DalibError, StackError, suggest
from dalib.losses import SegmentationLossFunction
from dalib.models.batchnorm import guard_batch_norm
from dalib.resizing import resize_logits

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class SegmentationModel(nn.Module):
    """Normalise images, call the network, and resize its logits to the input's size.

    Args:
        network: maps normalised (B, 3, H, W) to logits, or to a dict of ``logits`` and any of ``aux.*``, ``boundary``,
            ``features`` and ``low_res``.
        num_classes: K, the channels of the logits.
        mean, std: of the RGB channels, for images in [0, 1]; DalibError for those of images in 0..255.

    Attributes:
        classes: their names, where they are known, as of what ``dalib.load_model`` returns.
    """

    classes: tuple[str, ...] | None = None
    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, num_classes: int, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.network = network
        self.num_classes = num_classes
        self.register_buffer("mean", _three(mean, "mean"))
        self.register_buffer("std", _three(std, "std"))
        self.taps: dict[str, _Tap] = {}
        guard_batch_norm(network)

    def tap(self, path: str) -> None:
        """Let ``forward`` give the output of a layer of the network; before ``torch.compile`` traces the first one."""
        layer = self.layer(path)
        if path not in self.taps:
            self.taps[path] = _Tap()
            layer.register_forward_hook(self.taps[path])

    def layer(self, path: str) -> nn.Module:
        """Return the layer of the network that ``named_modules`` gives this name; StackError if there is none."""
        layers: dict[str, nn.Module] = dict(self.network.named_modules())
        if path not in layers or not path:
            raise StackError(f"{type(self.network).__name__} has no layer {path!r}.{suggest(path, layers)}")
        return layers[path]

    @overload
    def forward(self, x: Tensor, outputs: Literal[False] = False) -> Tensor: ...
    @overload
    def forward(self, x: Tensor, outputs: Literal[True] | Collection[str]) -> dict[str, Tensor]: ...
    def forward(self, x: Tensor, outputs: bool | Collection[str] = False) -> Tensor | dict[str, Tensor]:
        """Return logits (B, K, H, W) of images (B, 3, H, W) in [0, 1]; with ``outputs`` a dict of all outputs.

        In the dict only ``logits`` are resized to the input, in float32 at least; other outputs stay as they are.
        DalibError where the network returns no logits, or a number of channels other than ``num_classes``.

        Args:
            outputs: may name layers of the network by their paths, whose outputs the dict then holds, too.
        """
        for path in () if isinstance(outputs, bool) else outputs:
            if path not in self.taps:
                self.tap(path)
        for tap in self.taps.values():
            tap.wait()
        found = self.network((x - self.mean.view(3, 1, 1)) / self.std.view(3, 1, 1))
        named = {"logits": found} if isinstance(found, Tensor) else _named(found)
        named |= {path: tap.take() for path, tap in self.taps.items()}
        if named["logits"].shape[1] != self.num_classes:
            raise DalibError(
                f"the network gives {named['logits'].shape[1]} channels of logits for {self.num_classes} classes; "
                "it must make as many as the num_classes that it is made with."
            )
        named["logits"] = resize_logits(named["logits"], (x.shape[-2], x.shape[-1]))
        return named if outputs else named["logits"]


class _Tap:
    """A forward hook that holds a layer's output; an object, so that a copy of the model gets a tap of its own."""

    def __init__(self) -> None:
        self._held: Any = None
        self._waits = False

    def wait(self) -> None:
        """Hold what the layer gives next, and not what it gives when activation checkpointing computes it again."""
        self._waits = True

    def __call__(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if self._waits:
            self._held, self._waits = output, False

    def take(self) -> Any:
        """Return the output of this forward, and hold it no longer."""
        held, self._held = self._held, None
        return held


def wrap_model(
    network: nn.Module, num_classes: int, mean: Sequence[float] | None = None, std: Sequence[float] | None = None
) -> SegmentationModel:
    """Wrap any network; ``mean`` and ``std`` default to the network's own attributes, else to ImageNet's."""
    mean = getattr(network, "mean", IMAGENET_MEAN) if mean is None else mean
    std = getattr(network, "std", IMAGENET_STD) if std is None else std
    return SegmentationModel(network, num_classes, mean, std)


def unwrap(model: nn.Module) -> nn.Module:
    """Return the model inside ``torch.compile``, ``DataParallel`` or ``DistributedDataParallel``, else itself."""
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return unwrap(model.module)
    if isinstance(compiled := getattr(model, "_orig_mod", None), nn.Module):
        return unwrap(compiled)
    return model


def network_of(model: nn.Module) -> nn.Module:
    """Return the network inside ``SegmentationModel`` and the wrappers that ``unwrap`` removes, else the model."""
    model = unwrap(model)
    return model.network if isinstance(model, SegmentationModel) else model


def outermost(network: nn.Module, attribute: str) -> list[nn.Module]:
    """Return the modules of a network that have an attribute, without those inside another that has it."""
    if getattr(network, attribute, None) is not None:
        return [network]
    return [module for child in network.children() for module in outermost(child, attribute)]


def own_loss(network: nn.Module) -> SegmentationLossFunction | None:
    """Return a network's ``segmentation_loss``, or that of the one network inside it; None without any.

    Raises:
        DalibError: several networks inside it have one.
    """
    bringing: list[Any] = outermost(network, "segmentation_loss")
    if len(bringing) > 1:
        names, outer = " and ".join(type(module).__name__ for module in bringing), type(network).__name__
        raise DalibError(
            f"{names} inside {outer} each bring a segmentation_loss; give {outer} its own, or the run a `loss:`."
        )
    return bringing[0].segmentation_loss if bringing else None


def training_heads(network: nn.Module) -> tuple[str, ...]:
    """Return the paths of the modules that only training runs, by ``training_heads`` of the network and those in it."""
    return tuple(
        f"{path}.{head}".removeprefix(".")
        for path, module in network.named_modules()
        for head in getattr(module, "training_heads", ())
    )


def _named(found: Any) -> dict[str, Tensor]:
    if isinstance(found, Mapping) and "logits" in found:
        return dict(found)
    what = f"a dict of {', '.join(map(repr, found))}" if isinstance(found, Mapping) else type(found).__name__
    raise DalibError(
        f"a network must return logits, or a dict with 'logits'; this one returned {what}. Wrap it in a module "
        "whose forward names them, such as {'logits': found['out']} for a network of torchvision."
    )


def _three(values: Sequence[float], name: str) -> Tensor:
    tensor = torch.as_tensor(values, dtype=torch.float32).detach().clone().flatten()
    if tensor.numel() != 3:
        raise DalibError(f"{name} of a model: expected 3 values, one per RGB channel, found {tensor.numel()}.")
    # A std of images in [0, 1] is 0.5 at most; some networks scale by a few, those of images in 0..255 by tens.
    least, most, expected = (0, 1, "values in 0..1") if name == "mean" else (1e-6, 10, "values above 0 and below 10")
    if not tensor.is_meta and not ((tensor >= least) & (tensor <= most)).all():
        found = ", ".join(f"{value:g}" for value in tensor.tolist())
        advice = " Divide those of images in 0..255 by 255." if tensor.max() > 1 else ""
        raise DalibError(f"{name} of a model: expected {expected}, of images in [0, 1]; found {found}.{advice}")
    return tensor
