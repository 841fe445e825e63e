"""The bundled networks, the wrapper that they train in, and the loading of weights."""

from typing import TYPE_CHECKING

from dalib.hooks import hookimpl
from dalib.models.activation_checkpointing import checkpoint_activations
from dalib.models.bisenet import BiSeNet
from dalib.models.bisenet_v1 import BiSeNetV1
from dalib.models.deeplab import DeepLabV2
from dalib.models.freezing import freeze
from dalib.models.pidnet import PIDNet, pidnet_l, pidnet_m, pidnet_s
from dalib.models.pidnet_loss import PIDNetLoss
from dalib.models.timm_network import TimmNetwork
from dalib.models.weights import LoadReport, load_weights
from dalib.models.wrapper import SegmentationModel, wrap_model

if TYPE_CHECKING:
    from dalib.registry import Registry

__all__ = [
    "BiSeNet",
    "BiSeNetV1",
    "DeepLabV2",
    "LoadReport",
    "PIDNet",
    "PIDNetLoss",
    "SegmentationModel",
    "TimmNetwork",
    "checkpoint_activations",
    "dalib_register",
    "freeze",
    "load_weights",
    "pidnet_l",
    "pidnet_m",
    "pidnet_s",
    "wrap_model",
]


@hookimpl
def dalib_register(registry: "Registry") -> None:
    """Register the bundled networks."""
    registry.model("bisenet", BiSeNet)
    registry.model("bisenet_v1", BiSeNetV1)
    registry.model("deeplabv2", DeepLabV2)
    registry.model("pidnet_s", pidnet_s)
    registry.model("pidnet_m", pidnet_m)
    registry.model("pidnet_l", pidnet_l)
    registry.model("timm", TimmNetwork)
