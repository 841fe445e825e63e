"""The confusion matrix, counted on the device, and intersection over union."""

import torch
from torch import Tensor

from dalib.errors import DataError
from dalib.labels import IGNORE


class ConfusionMatrix:
    """Counts of (truth, prediction) pairs, kept on the device until ``compute``."""

    def __init__(self, num_classes: int, device: torch.device | str | None = None) -> None:
        self.num_classes = num_classes
        # Two extra bins, for ignored pixels and for invalid labels, save a branch and so a synchronisation.
        self._counts = torch.zeros(num_classes**2 + 2, dtype=torch.int64, device=device)

    def update(self, prediction: Tensor, label: Tensor) -> None:
        """Count the pixels of ``prediction`` and ``label``, integer tensors of one shape; label 255 is ignored."""
        label, pairs = label.long(), self.num_classes**2
        bins = torch.where(label < self.num_classes, label * self.num_classes + prediction.long(), pairs + 1)
        bins = bins.masked_fill(label == IGNORE, pairs).flatten()
        self._counts.scatter_add_(0, bins, torch.ones_like(bins))

    def compute(self) -> Tensor:
        """Return the counts so far, (K, K) int64 on the CPU, rows = truth.

        Raises:
            DataError: a label was neither ignored nor one of the classes.
        """
        counts = self._counts.cpu()
        if counts[-1]:
            raise DataError(
                f"{int(counts[-1])} pixels have a label outside 0..{self.num_classes - 1} that is not {IGNORE}; "
                f"expected train ids of {self.num_classes} classes: check the label map of the data."
            )
        return counts[:-2].view(self.num_classes, self.num_classes)


def intersection_over_union(confusion: Tensor, epsilon: float = 0.0) -> Tensor:
    """Return the IoU of each class: diagonal / (row sum + column sum - diagonal + epsilon).

    Args:
        confusion: (K, K) integer counts.
        epsilon: added to the denominator, in pixels.

    Returns:
        (K,) float64 in [0, 1]; nan where a class is neither in the truth nor predicted and ``epsilon`` is 0.
    """
    diagonal = confusion.diagonal()
    union = confusion.sum(0) + confusion.sum(1) - diagonal
    return diagonal.double() / (union.double() + epsilon)
