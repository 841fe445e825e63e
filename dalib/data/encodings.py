"""Maps from what label files store, ids or colours, to train ids."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import torch
from torch import Tensor

from dalib.errors import DataError
from dalib.labels import CITYSCAPES_CLASSES, IGNORE, Color

Channel = Literal["red", "green", "blue"]
Unknown = Literal["error", "ignore"]

_T = TypeVar("_T", int, Tensor)

CHANNELS: tuple[Channel, ...] = ("red", "green", "blue")

# fmt: off
CITYSCAPES_IDS = {
    7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9,
    23: 10, 24: 11, 25: 12, 26: 13, 27: 14, 28: 15, 31: 16, 32: 17, 33: 18,
}
# fmt: on
"""Cityscapes' labelId to train id; GTA5 numbers its classes the same way."""


MASKS = "`classes: [background, crack]` and `ids: {0: background, 255: crack}`, by whatever names"
"""What a label map of masks of 0 and 255 says."""


class LabelMap(Protocol):
    """Turns a stored label into train ids."""

    def __call__(self, stored: Tensor, file: Path) -> Tensor:
        """Map ``stored`` (C, H, W), uint8 or uint16, to uint8 (H, W) train ids; ``file`` is named in errors.

        Raises:
            DataError: the file's depth, channels or values are not what this map reads.
        """
        ...


class IdMap:
    """Label files that store one class id per pixel.

    Args:
        ids: train id of each stored id; 255 stays 255 unless it is named.
        unknown: what to do with an id that ``ids`` lacks: raise an "error", or "ignore" it, as 255.
        channel: the channel of an RGB(A) file that holds the id; None: the file has one channel.
        bits: 8 or 16, of each stored id.
    """

    def __init__(
        self,
        ids: Mapping[int, int],
        *,
        unknown: Unknown = "error",
        channel: Channel | None = None,
        bits: Literal[8, 16] = 8,
    ) -> None:
        self.channel = channel
        self.bits = bits
        self.table = torch.full((2**bits,), -1 if unknown == "error" else IGNORE, dtype=torch.int16)
        self.table[IGNORE] = IGNORE
        for stored, train_id in ids.items():
            self.table[stored] = train_id

    def __call__(self, stored: Tensor, file: Path) -> Tensor:
        ids = self._ids(stored, file).int()
        label = self.table[ids]
        unknown = label < 0
        if unknown.any():
            found = ", ".join(str(i) for i in sorted(set(ids[unknown].tolist()))[:10])
            raise DataError(
                f"expected only class ids that the label map names, or 255; found {found}. "
                "Name them in a `folder` label map (a class, or `ignore`), or set `unknown: ignore` there."
                f"{_masks(ids)}",
                item=file,
                kind="unknown ids or colours",
            )
        return label.to(torch.uint8)

    def stored(self) -> dict[str, int]:
        """Return the train id of each stored id that has one, ``"7"``, or ``"red 7"`` of a channel."""
        named = ((self.table >= 0) & (self.table != IGNORE)).nonzero().flatten().tolist()
        channel = f"{self.channel} " if self.channel else ""
        return {f"{channel}{stored}": int(self.table[stored]) for stored in named}

    def _ids(self, stored: Tensor, file: Path) -> Tensor:
        if stored.dtype == torch.uint16 and self.bits == 8:
            raise DataError(
                "expected a label of 8 bits, found 16 bits; use the dataset `folder` with a label map "
                "that says `bits: 16`, or save the labels as 8-bit PNG.",
                item=file,
            )
        channels = stored.shape[0]
        if self.channel is None:
            if channels > 2:  # two are the id and an alpha channel
                raise DataError(
                    f"expected class ids in one channel, found {_mode(channels)}; use the dataset `folder` "
                    "with a label map: `channel: red` for ids in a channel, `colors:` for painted classes."
                    f"{_masks(stored[:3])}",
                    item=file,
                )
            return stored[0]
        if channels < 3:
            raise DataError(
                f"expected the class id in the {self.channel} channel of an RGB image, found "
                f"{_mode(channels)}; for such files leave `channel` out of a `folder` label map.",
                item=file,
            )
        return stored[CHANNELS.index(self.channel)]


class CityscapesIds(IdMap):
    """Label files of Cityscapes' ids, as Cityscapes and GTA5 ship them; ids without a class are ignored."""

    def __init__(self) -> None:
        super().__init__(CITYSCAPES_IDS, unknown="ignore")

    def doubt(self, pixels: Tensor) -> str | None:
        """Return why labels of these ``pixels`` (256,) by train id are not what this map reads, or None.

        Train ids read as ids give no class beyond pole, since none of them is above 18, and leave most pixels ignored.
        """
        ignored = int(pixels[IGNORE])
        if not pixels[:6].any() or pixels[6:IGNORE].any() or 2 * ignored < int(pixels.sum()):
            return None
        share = 100 * ignored / int(pixels.sum())
        return (
            f"expected Cityscapes' ids, found none above 18 and {share:.0f} % of the pixels ignored, as of train ids. "
            "Read them with `use: folder`, whose labels are train ids, or name them *_labelTrainIds.png."
        )


class ColorMap:
    """Label files that store classes as RGB colours, directly or in the palette of an indexed PNG.

    Args:
        colors: train id of each RGB colour.
        unknown: what to do with a colour that ``colors`` lacks: raise an "error", or "ignore" it, as 255.
    """

    def __init__(self, colors: Mapping[Color, int], *, unknown: Unknown = "error") -> None:
        self.unknown = unknown
        by_code = sorted((_code(*color), train_id) for color, train_id in colors.items())
        self.codes = torch.tensor([code for code, _ in by_code], dtype=torch.int32)
        self.train_ids = torch.tensor([train_id for _, train_id in by_code], dtype=torch.uint8)

    def __call__(self, stored: Tensor, file: Path) -> Tensor:
        if stored.shape[0] < 3 or stored.dtype != torch.uint8:
            raise DataError(
                f"expected classes painted in 8-bit RGB colours, found {_mode(stored.shape[0])} of "
                f"{stored.element_size() * 8} bits; where the file stores class ids, the label map takes `ids:`.",
                item=file,
            )
        red, green, blue = stored[:3].int()
        code = _code(red, green, blue)
        position = torch.searchsorted(self.codes, code).clamp_(max=len(self.codes) - 1)
        named = self.codes[position] == code
        if self.unknown == "error" and not named.all():
            found = "; ".join(_color(c) for c in sorted(set(code[~named].tolist()))[:5])
            raise DataError(
                f"expected only colours that the label map names; found {found}. "
                "Name them in a `folder` label map (a class, or `ignore`), or set `unknown: ignore` there.",
                item=file,
                kind="unknown ids or colours",
            )
        return self.train_ids[position].where(named, IGNORE)

    def stored(self) -> dict[str, int]:
        """Return the train id of each colour that has one, ``"128,64,128"``."""
        pairs = zip(self.codes.tolist(), self.train_ids.tolist(), strict=True)
        return {_color(code): train_id for code, train_id in pairs if train_id != IGNORE}


def identity(num_classes: int, **options: Any) -> IdMap:
    """Return the map of labels that already store train ids; ``options`` are those of ``IdMap``."""
    return IdMap({i: i for i in range(num_classes)}, **options)


TRAIN_IDS = identity(len(CITYSCAPES_CLASSES))
"""The map of labels that store Cityscapes' train ids; any other id is an error."""


def _code(red: _T, green: _T, blue: _T) -> _T:
    return red * 65536 + green * 256 + blue


def _masks(stored: Tensor) -> str:
    """Return advice where the stored values are 0 and 255 alone."""
    values = set(stored.flatten().tolist())
    return f" Masks of 0 and 255 take {MASKS}." if values == {0, IGNORE} else ""


def _color(code: int) -> str:
    return f"{code >> 16},{code >> 8 & 255},{code & 255}"


def _mode(channels: int) -> str:
    return {1: "one channel", 2: "one channel with alpha", 3: "RGB", 4: "RGBA"}[channels]
