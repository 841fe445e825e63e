"""Diorama: a dataset of procedural street scenes in two domains, a clean rendering and a simulated photograph."""

import random
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from dalib.data.decode import Size
from dalib.data.diorama.domain import SOURCE, TARGET
from dalib.data.diorama.fronts import Fronts, paint_skyline
from dalib.data.diorama.ground import paint_ground, paint_sky
from dalib.data.diorama.photo import develop, photograph
from dalib.data.diorama.scene import draw_scene
from dalib.data.diorama.things import paint_hood, paint_things
from dalib.data.diorama.view import View
from dalib.errors import DataError, suggest
from dalib.labels import CITYSCAPES_CLASSES, CITYSCAPES_PALETTE

__all__ = ["Diorama", "diorama"]

_DOMAINS = {"source": SOURCE, "target": TARGET}
_LENGTHS = {"train": 2000, "val": 200, "test": 200}


def diorama(
    *,
    domain: Literal["source", "target"] = "source",
    split: str = "train",
    size: Size = (128, 256),
    length: Annotated[int, Field(ge=1)] | None = None,
    seed: int = 0,
) -> "Diorama":
    """Return a dataset of procedural street scenes with all 19 Cityscapes classes; needs no files.

    Args:
        domain: "source", a clean rendering, or "target", similar streets as a car's camera would see them.
        split: "train", "val" or "test"; no two share a scene.
        size: (H, W) of the images.
        length: number of images; default 2000 for train and 200 for val and test.
        seed: of the scenes.

    Raises:
        DataError: an unknown domain or split.
    """
    for what, name, known in (("domain", domain, _DOMAINS), ("split", split, _LENGTHS)):
        if name not in known:
            raise DataError(f"diorama: {what} {name!r} is unknown.{suggest(name, known)}")
    return Diorama(domain, split, size, _LENGTHS[split] if length is None else length, seed)


class Diorama:
    """Scenes rendered on access; item i depends on (seed, split, i, domain) and the size alone."""

    classes = CITYSCAPES_CLASSES
    palette = CITYSCAPES_PALETTE

    def __init__(self, domain: str, split: str, size: tuple[int, int], length: int, seed: int) -> None:
        self.domain = domain
        self.split = split
        self.size = size
        self.length = length
        self.seed = seed

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Return the image, uint8 (3, H, W), and its labels, uint8 (H, W) with 255 = ignore."""
        view, draw = self._painted(index)
        domain = _DOMAINS[self.domain]
        view.image *= draw.uniform(*domain.look.daylight)
        label = torch.from_numpy(view.label)
        if domain.look.camera:
            return photograph(view.image, draw), label
        return develop(view.image), label

    def label(self, index: int) -> Tensor:
        """The labels alone, without the camera."""
        return torch.from_numpy(self._painted(index)[0].label)

    def labels_depend_on(self) -> list[object]:
        """What the labels are made from, so that counts of them can be kept."""
        return ["diorama", self.domain, self.split, self.size, self.length, self.seed]

    def _painted(self, index: int) -> tuple[View, random.Random]:
        """Return the painted scene, and the source of what the camera draws."""
        if not 0 <= index < self.length:
            raise IndexError(f"diorama has {self.length} images; there is no image {index}")
        domain = _DOMAINS[self.domain]
        draw = random.Random(f"{self.seed}/{self.split}/{index}/{self.domain}")
        scene = draw_scene(draw, domain.habits)
        view = View(self.size, scene.camera, domain.look, draw)
        paint_sky(view)
        paint_skyline(view)
        paint_ground(view, scene)
        fronts = Fronts(view, scene)
        fronts.paint_gables()
        paint_things(view, (t for t in scene.things if t.beyond))
        fronts.paint()
        paint_things(view, (t for t in scene.things if not t.beyond))
        if scene.hood:
            paint_hood(view)
        return view, draw
