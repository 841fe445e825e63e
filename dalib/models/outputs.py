"""What a model gives in training, found by a forward without memory: the names of its outputs, layers to tap."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from dalib.errors import DalibError, StackError
from dalib.models.wrapper import SegmentationModel, unwrap
from dalib.randomness import seeded

KNOWN_OUTPUTS = ("logits", "boundary", "features", "low_res")  # and any aux.*
TRIAL_SIZE = (128, 128)  # (H, W), for networks that halve an image up to six times


def training_outputs(model: nn.Module, size: tuple[int, int] = TRIAL_SIZE) -> dict[str, Tensor]:
    """Return the outputs of a training forward on two images of ``size``, as tensors on the meta device.

    Neither weights nor running statistics are touched. A network that cannot run on the meta device runs on its own,
    with copies of its buffers.
    """
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    modes = [(module, module.training) for module in model.modules()]
    model.train()
    try:
        device = next(iter(tensors.values())).device
        with torch.no_grad(), seeded(device, "trial"):
            try:
                on_meta = {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors.items()}
                return _forward(model, on_meta, torch.zeros(2, 3, *size, device="meta"))
            except DalibError:
                raise
            except Exception:
                outputs = _forward(model, _buffers(model), torch.zeros(2, 3, *size, device=device))
                return {name: tensor.to("meta") for name, tensor in outputs.items()}
    finally:
        for module, training in modes:
            module.training = training


def gives_probabilities(model: nn.Module) -> bool:
    """Return whether the logits of a training forward on noise lie in [0, 1] and sum to 1 over the classes.

    Neither running statistics nor random generators are moved. Where the trial fails: False.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.train()
    try:
        device = next(model.parameters()).device
        images = torch.rand(2, 3, *TRIAL_SIZE, generator=torch.Generator().manual_seed(0)).to(device)
        with torch.no_grad(), seeded(device, "trial"):
            logits = _forward(model, _buffers(model), images)["logits"].float()
        even = (logits.sum(1) - 1).abs().amax() < 1e-3
        return logits.shape[1] > 1 and bool(even & (logits.amin() >= 0) & (logits.amax() <= 1))
    except Exception:  # such as a network that takes images of one size alone; a first step tells what is wrong
        return False
    finally:
        for module, training in modes:
            module.training = training


def tap(model: nn.Module, path: str) -> int:
    """Return the channels of a layer's output in a training forward; ``path``: its name in the network.

    Raises:
        StackError: the output cannot be read through ``model(x, outputs=[path])``.
    """
    inner = unwrap(model)
    if not isinstance(inner, SegmentationModel):
        raise StackError(f"layer {path!r}: only a model of create_model or wrap_model can be tapped.")
    layer = inner.layer(path)
    calls: list[tuple[Any, int]] = []  # outputs, and how often each had been changed in place by then

    def hold(module: nn.Module, inputs: Any, output: Any) -> None:
        calls.append((output, output._version if isinstance(output, Tensor) else 0))

    handles = (
        model.register_forward_pre_hook(lambda *forward: calls.clear()),  # a failed trial may have come before
        layer.register_forward_hook(hold),
    )
    try:
        outputs = training_outputs(model)
    finally:
        for handle in handles:
            handle.remove()
    if fault := _fault(path, calls, {} if path in inner.taps else outputs):
        raise StackError(f"layer {path!r} cannot be tapped: {fault}")
    channels: int = calls[-1][0].shape[1]
    return channels


def _fault(path: str, calls: list[tuple[Any, int]], outputs: dict[str, Tensor]) -> str:
    if path in outputs:
        return "the model has an output of that name; read that one, without a tap."
    if len(calls) != 1:
        return f"a forward calls it {len(calls)} times; name a layer that is called once."
    (output, version), *_ = calls
    if not isinstance(output, Tensor) or output.dim() < 2:
        return f"it gives {type(output).__name__}, not a tensor with channels; name a layer inside it."
    if output._version != version:
        return "the layers after it change its output in place (such as nn.ReLU(inplace=True)); name the last of them."
    return ""


def _buffers(model: nn.Module) -> dict[str, Tensor]:
    return {name: buffer.clone() for name, buffer in model.named_buffers()}


def _forward(model: nn.Module, tensors: dict[str, Tensor], images: Tensor) -> dict[str, Tensor]:
    outputs: dict[str, Tensor] = functional_call(model, tensors, (images, True))
    return outputs
