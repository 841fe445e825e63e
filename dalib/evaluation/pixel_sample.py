"""A sample of the pixels that a network predicts, the same ones for every network, in bounded memory."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from dalib.data.dataset import spread
from dalib.ranks import gathered_objects

IMAGES = 512
"""How many images are sampled at most, spread evenly over the data set."""

PIXELS = 2**16
"""How many pixels are taken in all, as many of each sampled image; of a smaller image all that it has."""


class PixelSample:
    """Class probabilities at sampled pixels of the images of one evaluation.

    Which pixels they are depends on the number of images, on each image's position and on its size, and on nothing
    else: not on the network, the batch size, worker processes or ranks.

    Args:
        length: number of images to evaluate on.
    """

    def __init__(self, length: int) -> None:
        self._images = frozenset(spread(length, IMAGES))
        self._pixels = PIXELS // len(self._images)
        self._taken: dict[int, Tensor] = {}

    def update(self, first: int, logits: Tensor) -> None:
        """Take the sample from logits (B, K, H, W) of the images ``first``, ``first + 1``, ..."""
        for index, of_image in enumerate(logits.flatten(2), start=first):
            if index in self._images:
                chosen = torch.from_numpy(_chosen(index, of_image.shape[1], self._pixels)).to(logits.device)
                self._taken[index] = of_image[:, chosen].float().softmax(0).T

    def gather(self) -> tuple[Tensor, ...]:
        """Return the probabilities of all ranks' images in their order, each (pixels, K) float32 on the CPU."""
        own = {index: taken.cpu() for index, taken in self._taken.items()}
        of_ranks: list[Mapping[int, Tensor]] = gathered_objects(own)
        found = {index: taken for of_rank in of_ranks for index, taken in of_rank.items()}
        return tuple(found[index].contiguous() for index in sorted(found))


def _chosen(index: int, size: int, count: int) -> np.ndarray:
    """Return positions in the flattened image of ``size`` pixels, in random order, all different."""
    return np.random.default_rng(index).choice(size, min(count, size), replace=False)
