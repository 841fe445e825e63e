"""Predictions for image files, written as label maps and pictures."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dalib.data.decode import read_image
from dalib.data.files import existing_folder, find_images
from dalib.data.palette import blend, colorize
from dalib.errors import DataError
from dalib.evaluation.evaluate import inference, model_device
from dalib.evaluation.panels import write_png
from dalib.files import write_atomically
from dalib.hooks import Predict
from dalib.labels import Color
from dalib.resizing import resize_logits


def predict_images(
    model: nn.Module,
    inputs: Path,
    out: Path,
    palette: Sequence[Color],
    classes: Sequence[str],
    device: torch.device | str | None = None,
    *,
    predict: Predict | None = None,
    size: tuple[int, int] | None = None,
) -> list[Path]:
    """Write for every image NAME its ``NAME_label.png``, ``NAME_color.png`` and ``NAME_blend.png``, at its own size.

    The label holds train ids as grey values; ``classes.json`` says which class and colour each id is. A folder is
    searched with its subfolders, which are repeated under ``out``.

    Args:
        model: maps images (B, 3, H, W) in [0, 1] to logits (B, K, H, W).
        inputs: an image, or a folder of them.
        out: the folder to write to; it may lie in ``inputs``, whose search leaves it out.
        palette: (red, green, blue) in 0..255 of each class.
        classes: name of each class.
        device: the model is moved there; None: the model's own.
        predict: maps images to logits in place of the model.
        size: (H, W) that the network sees; None: each image's own.

    Returns:
        The paths of the pictures, in the order of their images.

    Raises:
        DataError: no image, a file that is not an image, or two images whose pictures would have the same name.
    """
    outputs = _outputs(inputs, out)
    device = model_device(model) if device is None else torch.device(device)
    predict = predict or model.to(device)
    written: list[Path] = []
    with inference(model.to(device)):
        for source, name in outputs.items():
            image = read_image(source)
            label = _label(predict, image.to(device), size).cpu()
            written += _write(image, label, out, name, palette)
    legend = [{"id": i, "name": name, "color": palette[i]} for i, name in enumerate(classes)]
    write_atomically(out / "classes.json", json.dumps(legend, indent=1).encode())
    return written


def _label(predict: Predict, image: Tensor, size: tuple[int, int] | None) -> Tensor:
    batch, own = image[None].float() / 255, image.shape[-2:]
    if size is not None and size != own:
        batch = F.interpolate(batch, size, mode="bilinear", antialias=True)
    logits = resize_logits(predict(batch), (own[0], own[1]))
    return logits[0].argmax(0).to(torch.uint8)


def _write(image: Tensor, label: Tensor, out: Path, name: str, palette: Sequence[Color]) -> list[Path]:
    pictures = {"label": label[None], "color": colorize(label, palette), "blend": blend(image, label, palette)}
    paths = [out / f"{name}_{kind}.png" for kind in pictures]  # a name may be "." or "..", so add the suffix first
    for path, picture in zip(paths, pictures.values(), strict=True):
        write_png(path, picture)
    return paths


def _outputs(inputs: Path, out: Path) -> dict[Path, str]:
    """Map each image to the name of its pictures below ``out``; faults in names are found before any work."""
    if inputs.is_file():
        return {inputs: inputs.stem}
    inside = out.resolve()
    if inputs.resolve() == inside:
        raise DataError(f"{out}: predictions would lie among their own inputs; name another folder.")

    def key(name: str) -> str | None:
        return None if (inputs / name).resolve().is_relative_to(inside) else name

    images = find_images(existing_folder(inputs, "an image or a folder of images", "the path"), key)
    return {image: name for name, image in images.items()}
