"""Export of a model to a file that runs without dalib, as ONNX or as torch.export, checked against the model itself."""

import errno
import importlib.util
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx.experimental import _config as tracing

from dalib.errors import DalibError
from dalib.evaluation import inference, model_device
from dalib.models import SegmentationModel, fuse
from dalib.models.backbones import Backbone
from dalib.models.wrapper import unwrap

logger = logging.getLogger("dalib")

OPSET = 20
PACKAGES = ("onnx", "onnxscript", "onnxruntime")
REQUIRED_AGREEMENT = 0.999
SHORTER, LONGER = 0.75, 1.25  # sides of the other sizes of the check, beside the one asked for

Size = tuple[int, int]
Run = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Export:
    """A file that was written, and how well it agrees with the model.

    Fields:
        format: what it is, with ONNX's opset.
        multiple: what H and W have to be multiples of; None where the file is for the size it was traced at alone.
        least: what H and W have to be at least; some traced programs ask for more than one cell of the coarsest level.
        agreement: by size (H, W), the share of an image's pixels whose class is the model's.
    """

    path: Path
    format: str
    multiple: int | None
    least: int
    agreement: dict[Size, float]

    def __str__(self) -> str:
        shares = ", ".join(f"{100 * share:.2f} % at {h}x{w}" for (h, w), share in self.agreement.items())
        sizes = {1: "any H and W", None: "this size alone"}.get(
            self.multiple, f"H and W that are multiples of {self.multiple}"
        )
        if self.least > 1:
            sizes = f"{sizes} of at least {self.least}"
        return f"{self.path}: {self.format}, for {sizes}; pixels that get the model's class: {shares} (HxW)"


def export(model: nn.Module, path: str | Path, size: Size = (512, 1024), *, image: Tensor | None = None) -> Export:
    """Write ``model`` as ONNX (``.onnx``) or torch.export (``.pt2``), run the file, and compare it with the model.

    The file's input ``images`` is (1, 3, H, W) float32 RGB in [0, 1] for any H and W, its output ``logits`` is
    (1, K, H, W); normalisation and the interpolation of the logits are inside. What is written is ``fuse(model)``. A
    network that pads as TensorFlow does (timm's ``tf_`` backbones) is written for the multiples of its coarsest stride,
    or, where ``size`` is none, for ``size`` alone, as is a Swin transformer; see ``size_multiple``. So is a network
    that the tracer follows for no other sizes.

    Args:
        size: (H, W) that it is traced at and compared at; where it takes others, at a lower and wider one, too, and at
            a higher and narrower one.
        image: (3, h, w) in [0, 1] to compare on; by default a procedural street scene.

    Raises:
        DalibError: another suffix, a place that cannot be written, the packages for ONNX are absent, the model is none
            of ``create_model`` or ``wrap_model``, or cannot be traced, or fewer than 99.9 % of the pixels agree. A file
            that was there before stays.
    """
    path = Path(path)
    if path.suffix not in (".onnx", ".pt2"):
        raise DalibError(f"{path}: the suffix says the format; expected .onnx (ONNX) or .pt2 (torch.export).")
    if path.suffix == ".onnx":
        check_packages()
    model = unwrap(model)
    _check_wrapped(model)
    image = _street(size) if image is None else image
    with _beside(path) as written:
        try:
            exported = _write(model, written, size, size_multiple(model, size), image)
        except Exception as error:  # the tracer, the writer and what runs the file fail in many ways
            logger.info("%s cannot take images of other sizes: %s", path, str(error).partition("\n")[0])
            exported = _write_for_one_size(model, written, size, image)
        exported = replace(exported, path=path)
        _refuse_disagreement(exported)
    return exported


def _write(model: nn.Module, path: Path, size: Size, multiple: int | None, image: Tensor) -> Export:
    as_onnx = path.suffix == ".onnx"
    # Tracing channels-last memory, which training uses, would bind the program to sizes at which that differs.
    plain = fuse(model).cpu().to(memory_format=torch.contiguous_format)
    program = trace(plain, size, multiple)
    run = write_onnx(program, path) if as_onnx else write_program(program, path)
    return Export(
        path=path,
        format=f"ONNX, opset {OPSET}" if as_onnx else "torch.export",
        multiple=multiple,
        least=1 if multiple != 1 else _least(run, model),
        agreement=agreement(model, run, image, _checked(size, multiple)),
    )


def _write_for_one_size(model: nn.Module, path: Path, size: Size, image: Tensor) -> Export:
    try:
        return _write(model, path, size, None, image)
    except Exception as error:
        raise DalibError(f"the model cannot be exported: {error}") from error


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """Give a path in a temporary folder beside ``path``, to which the file goes when the body ends without an error."""
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise DalibError(f"{path} cannot be written: {error.strerror}.") from error
    with folder:
        yield Path(folder.name) / path.name
        (Path(folder.name) / path.name).replace(path)


def trace(model: nn.Module, size: Size, multiple: int | None) -> ExportedProgram:
    """Return the program of a model in eval mode for images (1, 3, H, W) of the sizes that ``multiple`` says."""
    images = torch.zeros(1, 3, *size)
    free = None if multiple is None else ({2: Dim.DYNAMIC, 3: Dim.DYNAMIC},)
    # Sizes of 1, as a pyramid's pools have them for small images, are like any other and make no condition.
    with torch.no_grad(), tracing.patch(backed_size_oblivious=True):  # type: ignore[attr-defined]
        return torch.export.export(
            model if multiple in (1, None) else Whole(model, multiple), (images,), dynamic_shapes=free
        )


def size_multiple(model: nn.Module, size: Size) -> int | None:
    """Return what H and W of an exported model's images have to be multiples of, if it is traced at ``size``.

    1, but for a model that pads as TensorFlow does, by amounts that timm computes from the size of what it pads, which
    PyTorch's tracer takes minutes to follow and ONNX's longer. They are the same at all multiples of the backbone's
    coarsest stride. None if ``size`` is no such multiple: then the amounts are those of ``size`` alone. None, too, for
    a transformer of windows, such as Swin, whose padding to whole windows is another at every size.
    """
    if any("Window" in type(module).__name__ for module in model.modules()):
        return None
    if not any(type(module).__name__.endswith("Same") for module in model.modules()):
        return 1
    strides = [module.levels[-1][0] for module in model.modules() if isinstance(module, Backbone)]
    whole = bool(strides) and all(side % max(strides) == 0 for side in size)
    return max(strides) if whole else None


class Whole(nn.Module):
    """A model for images whose sides are multiples of one number, where TensorFlow's padding is known beforehand."""

    def __init__(self, model: nn.Module, multiple: int) -> None:
        super().__init__()
        self.model = model
        self.multiple = multiple
        for name, module in [*model.named_modules()]:
            if type(module).__name__ == "Conv2dSame":
                model.set_submodule(name, nn.Sequential(nn.ZeroPad2d(_padding(module)), _unpadded(module)))

    def forward(self, images: Tensor) -> Tensor:
        """Map images (1, 3, H, W) in [0, 1] to logits (1, K, H, W)."""
        for side in images.shape[-2:]:
            torch._check(side % self.multiple == 0, lambda: f"expected sides that are multiples of {self.multiple}")
        logits: Tensor = self.model(images)
        return logits


def _padding(conv: Any) -> tuple[int, int, int, int]:
    """Return the padding (left, right, top, bottom) before a convolution of sides that are multiples of its stride."""
    (top, bottom), (left, right) = (
        ((total := max(dilation * (kernel - 1) + 1 - stride, 0)) // 2, total - total // 2)
        for kernel, stride, dilation in zip(conv.kernel_size, conv.stride, conv.dilation, strict=True)
    )
    return left, right, top, bottom


def _unpadded(conv: Any) -> nn.Conv2d:
    plain = nn.Conv2d(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,
        conv.stride,
        dilation=conv.dilation,
        groups=conv.groups,
        bias=conv.bias is not None,
    )
    plain.load_state_dict(conv.state_dict())
    return plain.requires_grad_(False)


def write_onnx(program: ExportedProgram, path: Path) -> Run:
    """Write the program as ONNX, weights inside, and return what runs the file in ONNX Runtime on the CPU."""
    import onnxruntime

    written = torch.onnx.export(
        program, input_names=["images"], output_names=["logits"], opset_version=OPSET, dynamo=True, verbose=False
    )
    assert written is not None
    written.save(str(path), external_data=False)
    session: Any = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])


def write_program(program: ExportedProgram, path: Path) -> Run:
    """Write the program as torch.export does, and return what runs the file."""
    torch.export.save(program, path)
    run: Run = torch.export.load(path).module()
    return run


def agreement(model: nn.Module, run: Run, image: Tensor, sizes: Sequence[Size]) -> dict[Size, float]:
    """Return, at each size (H, W), the share of the image's pixels that ``run`` gives the model's class."""
    shares, device = {}, model_device(model)
    with inference(model):
        for height, width in sizes:
            images = F.interpolate(image[None].cpu(), (height, width), mode="bilinear", antialias=True)
            same = run(images).argmax(1) == model(images.to(device)).argmax(1).cpu()
            shares[height, width] = same.float().mean().item()
    return shares


def _check_wrapped(model: nn.Module) -> None:
    kinds = {parameter.dtype for parameter in model.parameters()}
    if not isinstance(model, SegmentationModel) or not kinds <= {torch.float32}:
        what = f"{type(model).__name__} in {', '.join(sorted(str(kind).removeprefix('torch.') for kind in kinds))}"
        raise DalibError(
            "export takes a model as create_model and wrap_model give it, which normalises its images, in float32; "
            f"this one is {what}."
        )


def _least(run: Run, model: nn.Module) -> int:
    """Return the shortest side of images that a file for any size runs on: 1, or what passes the coarsest cells."""
    coarsest = max((module.levels[-1][0] for module in model.modules() if isinstance(module, Backbone)), default=1)
    for side in (1, coarsest + 1):
        try:
            run(torch.zeros(1, 3, side, side))
        except Exception as error:  # of the tracer's own kinds
            refused = error
        else:
            return side
    raise refused


def check_packages() -> None:
    """Raise DalibError where a package that ONNX export needs is absent."""
    absent = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if absent:
        raise DalibError(
            f"export to ONNX needs the packages {', '.join(PACKAGES)}; missing: {', '.join(absent)}. "
            "Install them with: pip install 'dalib-seg[onnx]'. Export to .pt2 needs none of them."
        )


def _checked(size: Size, multiple: int | None) -> list[Size]:
    if multiple is None:
        return [size]
    (lower, narrower), (higher, wider) = (
        [max(int(share * side) // multiple, 1) * multiple for side in size] for share in (SHORTER, LONGER)
    )
    return [size, (lower, wider), (higher, narrower)]


def _street(size: Size) -> Tensor:
    from dalib.create import create_dataset

    image, _ = create_dataset("diorama", domain="target", split="val", size=size)[0]
    return image.float() / 255


def _refuse_disagreement(exported: Export) -> None:
    for (height, width), share in exported.agreement.items():
        if share < REQUIRED_AGREEMENT:
            raise DalibError(
                f"{exported.path} ({exported.format}) gives the model's class to {100 * share:.2f} % of the pixels at "
                f"{height}x{width} (HxW); expected {100 * REQUIRED_AGREEMENT} %. It was not kept."
            )
