"""Quantisation of an exported ONNX file to int8 by ONNX Runtime's tools, calibrated on pictures."""

import logging
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import Tensor

from dalib.deploy.runtimes import PACKAGES, open_onnx, require

logger = logging.getLogger("dalib")

OPERATORS = ["Conv", "Add", "Concat", "MaxPool", "Relu"]  # BiSeNet takes 161 ms with these, 172 with Conv alone
GOAL = 0.99
RANKED_ON = 4  # pictures
FEW = 4  # compared pictures; with fewer the agreement says little about others
MOST_KEPT = 4  # at most one in 4 convolutions stays in float


@dataclass(frozen=True, kw_only=True)
class Quantized:
    """How well an int8 file agrees with the float32 file it was made from.

    Fields:
        agreement: share of pixels with an unchanged class, over ``pictures`` pictures held out from calibration; a
            single picture serves both.
        kept: names of the convolutions that stay in float32, of ``convolutions``.
        goal: the agreement that was aimed at.
    """

    agreement: float
    pictures: int
    kept: tuple[str, ...]
    convolutions: int
    goal: float = GOAL

    def __str__(self) -> str:
        short = f", less than the {100 * self.goal:g} % aimed at" if self.agreement < self.goal else ""
        return (
            f"{100 * self.agreement:.2f} % of the pixels of {_pictures(self.pictures)} keep their class{short}; "
            f"{len(self.kept)} of {self.convolutions} convolutions stay in float32"
        )


def quantize(path: Path, out: Path, pictures: Sequence[Tensor], *, goal: float = GOAL) -> Quantized:
    """Write the ONNX file ``path`` to ``out`` in int8: weights per channel, activations by their calibrated range.

    Every second picture calibrates; on the others predicted classes are compared. If less than a share ``goal`` of the
    pixels keep their class, the convolutions that lose most stay in float: they are ranked by quantising each alone,
    and 1, 2, 4 ... of them are kept until the goal is reached, a quarter at most.

    Args:
        pictures: (3, H, W) in [0, 1] of a size that the file takes, from the target domain; no labels.
    """
    require("quantisation", PACKAGES, "onnx")
    with TemporaryDirectory() as folder:
        trial = _Trial(path, Path(folder), pictures)
        kept: list[str] = []
        share = trial.share()
        if share < goal:
            logger.info(
                "int8 keeps %.2f %% of the classes; looking for what loses most among %d convolutions",
                *(100 * share, len(trial.convolutions)),
            )
            losing = trial.ranked()
            count = 1
            while share < goal and count <= len(losing) // MOST_KEPT:
                kept = losing[:count]
                share = trial.share(nodes_to_exclude=kept)
                count *= 2
        shutil.copyfile(trial.file, out)
    if len(trial.compared) < FEW:
        told = "the agreement of int8 rests on %s alone; calibrate on %d or more, of which half are compared"
        logger.warning(told, _pictures(len(trial.compared)), 2 * FEW)
    return Quantized(
        agreement=share,
        pictures=len(trial.compared),
        kept=tuple(kept),
        convolutions=len(trial.convolutions),
        goal=goal,
    )


def _pictures(count: int) -> str:
    return "1 picture" if count == 1 else f"{count} pictures"


class _Trial:
    """Quantises one file repeatedly; ``file`` is the latest result."""

    def __init__(self, path: Path, folder: Path, pictures: Sequence[Tensor]) -> None:
        import onnx
        from onnxruntime.quantization import quant_pre_process

        self.file, self.prepared, self.ranges = (folder / name for name in ("int8.onnx", "prepared.onnx", "ranges"))
        quant_pre_process(str(path), str(self.prepared), skip_symbolic_shape=True)
        graph = onnx.load(self.prepared).graph
        self.convolutions = [node.name for node in graph.node if node.op_type == "Conv"]
        batches = [picture[None] for picture in pictures]
        self.calibrated_on, self.compared = batches[::2], batches[1::2] or batches
        run = open_onnx(path)
        self.classes = [run(batch).argmax(1) for batch in self.compared]

    def share(self, count: int | None = None, **nodes: list[str]) -> float:
        """Quantise again and return the share of pixels that keep their class, over the first ``count`` pictures."""
        from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

        quantize_static(
            self.prepared,
            self.file,
            _Reader(self.calibrated_on),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=OPERATORS,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibration_cache_path=self.ranges,
            **nodes,
        )
        run = open_onnx(self.file)
        compared = list(zip(self.compared, self.classes, strict=True))[:count]
        same = [(run(batch).argmax(1) == classes).float().mean().item() for batch, classes in compared]
        return sum(same) / len(same)

    def ranked(self) -> list[str]:
        """Return the convolutions, first the one whose quantisation alone changes most classes."""
        alone = {name: self.share(RANKED_ON, nodes_to_quantize=[name]) for name in self.convolutions}
        return sorted(alone, key=alone.__getitem__)


class _Reader:
    """Batches of pictures behind the interface of ONNX Runtime's ``CalibrationDataReader``."""

    def __init__(self, batches: Sequence[Tensor]) -> None:
        self._batches: Iterator[Tensor] = iter(batches)

    def get_next(self) -> dict[str, Any] | None:
        batch = next(self._batches, None)
        return None if batch is None else {"images": batch.numpy()}
