"""Export of a model to a file that runs without dalib, as ONNX or as torch.export, checked against the model itself."""

import errno
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx.experimental import _config as tracing

from dalib.deploy.fuse import fuse
from dalib.deploy.quantize import Quantized, quantize
from dalib.deploy.runtimes import PACKAGES, Run, Size, Sizes, open_onnx, require, texts, write_metadata
from dalib.errors import DalibError
from dalib.evaluation.evaluate import inference, model_device
from dalib.models import SegmentationModel
from dalib.models.backbones import Backbone
from dalib.models.wrapper import unwrap

logger = logging.getLogger("dalib")

OPSET = 20
REQUIRED_AGREEMENT = 0.999
SHORTER, LONGER = 0.75, 1.25  # factors on the sides for the two further sizes of the check


@dataclass(frozen=True, kw_only=True)
class Export:
    """A file that was written, and how well it agrees with the model.

    Fields:
        format: "torch.export", or "ONNX" with its opset.
        sizes: the images that it takes.
        agreement: by size (H, W), the share of pixels whose class is the model's; for an int8 file, that of the float32
            file it was made from.
        quantized: how well an int8 file agrees with its float32 file.
    """

    path: Path
    format: str
    sizes: Sizes
    agreement: dict[Size, float]
    quantized: Quantized | None = None

    def __str__(self) -> str:
        shares = ", ".join(f"{100 * share:.2f} % at {h}x{w}" for (h, w), share in self.agreement.items())
        what, agreement = f"{self.path}: {self.format}", f"pixels that get the model's class: {shares} (HxW)"
        if self.quantized is None:
            return f"{what}, for {self.sizes}; {agreement}"
        return f"{what} in int8, for {self.sizes}; {self.quantized}\nbefore it was quantised, {agreement}"


def export(
    model: nn.Module,
    path: str | Path,
    size: Size = (512, 1024),
    *,
    image: Tensor | None = None,
    classes: Sequence[str] | None = None,
    palette: Sequence[Sequence[int]] | None = None,
    calibrate: Sequence[Tensor] | None = None,
) -> Export:
    """Write ``model`` as ONNX (``.onnx``) or torch.export (``.pt2``), run the file, and compare it with the model.

    The file's input ``images`` is (batch, 3, height, width) float32 RGB in [0, 1] for any batch, height and width; its
    output ``logits`` is (batch, K, height, width). It holds ``fuse(model)`` with normalisation and interpolation of the
    logits. Networks with TensorFlow's padding (timm's ``tf_`` backbones) are exported for multiples of their coarsest
    stride or, if ``size`` is no such multiple, for ``size`` alone, as are Swin transformers; see ``size_multiple``.
    Where tracing fails for other sizes, the file is for ``size`` alone; where it fails for batches, as for a ViT, it
    takes one image at a time. ONNX's ``metadata_props`` or torch.export's ``extra_files`` hold what ``metadata`` gives.

    Args:
        size: (H, W) for tracing and comparison; a file for any size is also compared at a lower, wider one and a
            higher, narrower one.
        image: (3, h, w) in [0, 1] to compare on; by default a procedural street scene.
        classes, palette: names and (red, green, blue) of the K classes, for the metadata.
        calibrate: pictures (3, H, W) of the file's size to quantise an ONNX file with, see ``quantize``; None: float32.

    Raises:
        DalibError: another suffix, a path that cannot be written, missing packages for ONNX, a model that is not from
            ``create_model`` or ``wrap_model`` or cannot be traced, or less than 99.9 % of the pixels agree. An existing
            file then stays as it was.
    """
    path = Path(path)
    if path.suffix not in (".onnx", ".pt2"):
        raise DalibError(f"{path}: the suffix says the format; expected .onnx (ONNX) or .pt2 (torch.export).")
    if path.suffix == ".onnx":
        require("export to ONNX", PACKAGES, "onnx")
    elif calibrate is not None:
        raise DalibError(f"{path}: int8 is for ONNX; expected a path ending in .onnx.")
    model = _check_wrapped(unwrap(model))
    image = streets(size, 1)[0] if image is None else image
    with _beside(path) as written:
        exported = _write_for_most(model, written, size, image)
        exported = replace(exported, path=path)
        if calibrate is not None:
            exported = replace(exported, quantized=quantize(written, written, calibrate))
        said = metadata(model, exported, classes, palette)
        if path.suffix == ".onnx":
            write_metadata(written, said)
        else:
            torch.export.save(torch.export.load(written), written, extra_files=texts(said))
    return exported


def metadata(
    model: SegmentationModel, exported: Export, classes: Sequence[str] | None, palette: Sequence[Sequence[int]] | None
) -> dict[str, object]:
    """Return a file's metadata: dalib's version, classes, normalisation, precision and the images that it takes."""
    return {
        "dalib": version("dalib-seg"),
        "classes": classes,
        "palette": palette,
        "images": "RGB in [0, 1]; the file itself subtracts mean and divides by std",
        "mean": model.mean.tolist(),
        "std": model.std.tolist(),
        "precision": "float32" if exported.quantized is None else "int8",
        "size": exported.sizes.size,
        "multiple": exported.sizes.multiple,
        "least": exported.sizes.least,
        "batch": exported.sizes.batch,
    }


def _write_for_most(model: nn.Module, path: Path, size: Size, image: Tensor) -> Export:
    """Write the file for any batch and other sizes, and only where that fails for one image or one size."""
    multiple = size_multiple(model, size)
    for sides, batch in dict.fromkeys([(multiple, None), (multiple, 1), (None, None), (None, 1)]):
        try:
            return _write(model, path, Sizes(size=size, multiple=sides, batch=batch), image)
        except Exception as error:  # the tracer, the writer and the runtime raise many kinds
            refused = error
            what = "batches" if batch is None else "images of other sizes"
            logger.info("%s cannot take %s", path.name, what)
            logger.debug("since: %s", error)
    if isinstance(refused, DalibError):
        raise refused
    raise DalibError(f"the model cannot be exported: {refused}") from refused


def _write(model: nn.Module, path: Path, sizes: Sizes, image: Tensor) -> Export:
    as_onnx = path.suffix == ".onnx"
    program = trace(model, sizes)
    run = write_onnx(program, path, sizes) if as_onnx else write_program(program, path)
    if sizes.multiple == 1:
        sizes = replace(sizes, least=_least(run, model))
    kind = f"ONNX, opset {OPSET}" if as_onnx else "torch.export"
    exported = Export(path=path, format=kind, sizes=sizes, agreement=agreement(model, run, image, sizes))
    _refuse_disagreement(exported)
    return exported


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; its file replaces ``path`` when the block ends without an error."""
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


def trace(model: nn.Module, sizes: Sizes) -> ExportedProgram:
    """Return the program of ``fuse(model)`` for these images."""
    # Traced in channels-last memory, as in training, the program would hold for some sizes only.
    plain = fuse(model).cpu().to(memory_format=torch.contiguous_format)
    # The setting keeps a size of 1, which a pyramid's pools give for small images, from becoming a condition.
    with torch.no_grad(), tracing.patch(backed_size_oblivious=True):  # type: ignore[attr-defined]
        return torch.export.export(
            plain if sizes.multiple in (1, None) else Whole(plain, sizes.multiple),
            (torch.zeros(1, 3, *sizes.size),),
            dynamic_shapes=(dict.fromkeys(sizes.free_axes, Dim.DYNAMIC),),
        )


def size_multiple(model: nn.Module, size: Size) -> int | None:
    """Return the number of which H and W have to be multiples in a model exported at ``size``; None: ``size`` alone.

    1 for most models. TensorFlow's padding depends on the size of each feature map, and PyTorch's tracer takes minutes
    to follow timm's computation of it; but it is constant over multiples of the backbone's coarsest stride, which is
    then returned, or None if ``size`` is no such multiple. None, too, for window transformers such as Swin, whose
    padding to whole windows changes with every size.
    """
    if any("Window" in type(module).__name__ for module in model.modules()):
        return None
    if not any(type(module).__name__.endswith("Same") for module in model.modules()):
        return 1
    strides = [module.levels[-1][0] for module in model.modules() if isinstance(module, Backbone)]
    whole = bool(strides) and all(side % max(strides) == 0 for side in size)
    return max(strides) if whole else None


class Whole(nn.Module):
    """A model for images whose sides are multiples of one number, at which TensorFlow's padding is constant."""

    def __init__(self, model: nn.Module, multiple: int) -> None:
        super().__init__()
        self.model = model
        self.multiple = multiple
        for name, module in [*model.named_modules()]:
            if type(module).__name__ == "Conv2dSame":
                model.set_submodule(name, nn.Sequential(nn.ZeroPad2d(_padding(module)), _unpadded(module)))

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, 3, H, W) in [0, 1] to logits (B, K, H, W)."""
        for side in images.shape[-2:]:
            torch._check(side % self.multiple == 0, lambda: f"expected sides that are multiples of {self.multiple}")
        # ONNX has no assertions, but this unshuffle fails for sides that are no multiples.
        cells = F.pixel_unshuffle(images, self.multiple)
        logits: Tensor = self.model(F.pixel_shuffle(cells, self.multiple))
        return logits


def _padding(conv: Any) -> tuple[int, int, int, int]:
    """Return TensorFlow's padding (left, right, top, bottom) for inputs whose sides are multiples of the stride."""
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


def write_onnx(program: ExportedProgram, path: Path, sizes: Sizes) -> Run:
    """Write the program as ONNX, weights inside, and return a function that runs the file in ONNX Runtime."""
    written = torch.onnx.export(
        program,
        input_names=["images"],
        output_names=["logits"],
        opset_version=OPSET,
        dynamic_shapes=(sizes.free_axes,),
        dynamo=True,
        verbose=False,
    )
    assert written is not None
    written.save(str(path), external_data=False)
    return open_onnx(path)


def write_program(program: ExportedProgram, path: Path) -> Run:
    """Write the program with torch.export, and return a function that runs the file."""
    torch.export.save(program, path)
    run: Run = torch.export.load(path).module()
    return run


def agreement(model: nn.Module, run: Run, image: Tensor, sizes: Sizes) -> dict[Size, float]:
    """Return, by size (H, W), the share of pixels with equal classes, over the image and its mirror image."""
    shares, device = {}, model_device(model)
    both = torch.stack([image, image.flip(-1)]).cpu()
    with inference(model):
        for height, width in _checked(sizes):
            images = F.interpolate(both, (height, width), mode="bilinear", antialias=True)
            batches = torch.split(images, sizes.batch or 2)
            same = torch.cat([run(b).argmax(1) == model(b.to(device)).argmax(1).cpu() for b in batches])
            shares[height, width] = same.float().mean().item()
    return shares


def _check_wrapped(model: nn.Module) -> SegmentationModel:
    kinds = {parameter.dtype for parameter in model.parameters()}
    if not isinstance(model, SegmentationModel) or not kinds <= {torch.float32}:
        what = f"{type(model).__name__} in {', '.join(sorted(str(kind).removeprefix('torch.') for kind in kinds))}"
        raise DalibError(
            "export takes a model as create_model and wrap_model give it, which normalises its images, in float32; "
            f"this one is {what}."
        )
    return model


def _least(run: Run, model: nn.Module) -> int:
    """Return the shortest side of images on which a file for any size runs: 1, or the coarsest stride plus 1."""
    coarsest = max((module.levels[-1][0] for module in model.modules() if isinstance(module, Backbone)), default=1)
    for side in (1, coarsest + 1):
        try:
            run(torch.zeros(1, 3, side, side))
        except Exception as error:  # of the tracer's own kinds
            refused = error
        else:
            return side
    raise refused


def _checked(sizes: Sizes) -> list[Size]:
    size, multiple = sizes.size, sizes.multiple
    if multiple is None:
        return [size]
    (lower, narrower), (higher, wider) = (
        [max(int(share * side) // multiple, 1) * multiple for side in size] for share in (SHORTER, LONGER)
    )
    return [size, (lower, wider), (higher, narrower)]


def streets(size: Size, count: int) -> list[Tensor]:
    """Return procedural street scenes (3, H, W) in [0, 1]."""
    from dalib.core.create import create_dataset

    scenes = create_dataset("diorama", domain="target", split="val", size=size)
    return [scenes[i][0].float() / 255 for i in range(count)]


def _refuse_disagreement(exported: Export) -> None:
    for (height, width), share in exported.agreement.items():
        if share < REQUIRED_AGREEMENT:
            raise DalibError(
                f"{exported.path.name} ({exported.format}) gives the model's class to {100 * share:.2f} % of the "
                f"pixels at {height}x{width} (HxW); expected {100 * REQUIRED_AGREEMENT} %. It was not kept."
            )
