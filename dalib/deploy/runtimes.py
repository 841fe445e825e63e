"""Exported ONNX files, their metadata, and running them in ONNX Runtime and OpenVINO on the CPU."""

import importlib.util
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dalib.errors import DalibError

Size = tuple[int, int]
Run = Callable[[Tensor], Tensor]

PACKAGES = ("onnx", "onnxscript", "onnxruntime")


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """The images that an exported file takes.

    Fields:
        size: (H, W) at which it was traced.
        multiple: H and W have to be multiples of this; None where the file is for ``size`` alone.
        least: smallest H and W; some traced programs need sides above the coarsest stride.
        batch: number of images per call; None: any number.
    """

    size: Size
    multiple: int | None
    least: int = 1
    batch: int | None = None

    @property
    def free_axes(self) -> dict[int, str]:
        """Names of the dynamic axes of (B, 3, H, W), by position."""
        batch = {0: "batch"} if self.batch is None else {}
        return batch if self.multiple is None else batch | {2: "height", 3: "width"}

    def __contains__(self, size: Size) -> bool:
        if self.multiple is None:
            return size == self.size
        return all(side >= self.least and side % self.multiple == 0 for side in size)

    def __str__(self) -> str:
        if self.multiple is None:
            sides = f"{self.size[0]}x{self.size[1]} (HxW) alone"
        else:
            sides = "any H and W" if self.multiple == 1 else f"H and W that are multiples of {self.multiple}"
        if self.least > 1:
            sides = f"{sides} of at least {self.least}"
        return sides if self.batch is None else f"{sides}, one image at a time"


class ExportedFile(nn.Module):
    """An ONNX file that ``dalib export`` wrote, as a model: images (B, 3, H, W) in [0, 1] to logits (B, K, H, W).

    Fields:
        classes: names of the K classes; None if none were given at export.
        sizes: the images that it takes; others are refused.

    Raises:
        DalibError: the file cannot be read or lacks dalib's metadata, or packages are missing.
    """

    def __init__(self, path: str | Path, runtime: str = "onnxruntime") -> None:
        super().__init__()
        self.path = Path(path)
        said = read_metadata(self.path)
        try:
            chosen = {name: said[name] for name in ("multiple", "least", "batch")}
            self.sizes = Sizes(size=tuple(said["size"]), **chosen)
        except KeyError as error:
            raise DalibError(
                f"{path} says nothing of its {error.args[0]}; expected a file that `dalib export` wrote."
            ) from error
        self.classes = None if said.get("classes") is None else tuple(said["classes"])
        self._run = open_onnx(self.path, runtime)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits; DalibError for images of a size that the file does not take."""
        height, width = images.shape[-2:]
        if (height, width) not in self.sizes:
            raise DalibError(
                f"{self.path} is for {self.sizes}; these images are {height}x{width} (HxW). Give the data such a "
                "size, or export the model for another with --size."
            )
        return torch.cat([self._run(batch) for batch in torch.split(images, self.sizes.batch or len(images))])


def open_onnx(path: Path, runtime: str = "onnxruntime") -> Run:
    """Return a function that runs an ONNX file in "onnxruntime" or "openvino", with as many threads as PyTorch.

    Raises:
        DalibError: the package is missing, or the runtime refuses the file.
    """
    require(f"the runtime {runtime}", [runtime], "onnx" if runtime == "onnxruntime" else runtime)
    try:
        return _onnxruntime(path) if runtime == "onnxruntime" else _openvino(path)
    except Exception as error:  # each runtime raises kinds of its own
        raise DalibError(f"{path} cannot be run in {runtime}: {str(error).partition(chr(10))[0]}") from error


def _onnxruntime(path: Path) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # errors are raised anyway, and it logs some where nothing fails
    session: Any = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])


def _openvino(path: Path) -> Run:
    import openvino

    # Without the hint OpenVINO computes float32 files in bfloat16 on processors that have it.
    settings = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "INFERENCE_PRECISION_HINT": "f32"}
    ready: Any = openvino.Core().compile_model(str(path), "CPU", {**settings, "PERFORMANCE_HINT": "LATENCY"})
    return lambda images: torch.from_numpy(ready(images.numpy())[0])


def require(what: str, packages: Sequence[str], extra: str) -> None:
    """Raise DalibError where a package that ``what`` needs is missing."""
    absent = [name for name in packages if importlib.util.find_spec(name) is None]
    if absent:
        raise DalibError(
            f"{what} needs the packages {', '.join(packages)}; missing: {', '.join(absent)}. "
            f"Install them with: pip install 'dalib-seg[{extra}]'."
        )


def read_metadata(path: Path) -> dict[str, Any]:
    """Return an ONNX file's metadata, see ``write_metadata``."""
    require("an ONNX file", PACKAGES, "onnx")
    import onnx

    try:
        properties = onnx.load(path).metadata_props
    except FileNotFoundError:
        raise DalibError(f"{path} does not exist; expected an ONNX file.") from None
    except Exception as error:  # protobuf's own kinds
        raise DalibError(f"{path} is no ONNX file that can be read: {error}") from error
    return {entry.key: _value(entry.value) for entry in properties}


def write_metadata(path: Path, metadata: Mapping[str, object]) -> None:
    """Replace an ONNX file's ``metadata_props``: texts as they are, other values as JSON."""
    import onnx

    model = onnx.load(path)
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, texts(metadata))
    onnx.save(model, path)


def texts(metadata: Mapping[str, object]) -> dict[str, str]:
    """Return texts as they are, other values as JSON."""
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in metadata.items()}


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
