"""Validators: scores by which to choose among networks that adapt to one target, without a label of it.

``entropy``, ``infomax``, ``snd`` and ``agreement`` judge a network by its own predictions, ``source`` by the labels of
the source, ``ensv`` and ``ensv_miou`` by what all candidates together predict. See ``docs/choosing.md``.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize

from dalib.evaluation.label_free import LabelFree
from dalib.evaluation.metrics import intersection_over_union

NEEDS = ("measures", "agreement", "sample", "source")

SND_PIXELS = 100
SND_TEMPERATURE = 0.05


@dataclass(frozen=True, kw_only=True, eq=False)
class Evidence:
    """What validators see of one candidate: its predictions on images of the target, never their labels.

    A field is None where no validator ``needs`` it, ``source`` also where it is not known.

    Fields:
        measures: over all pixels; ``measures.agreement`` is None unless "agreement" is needed and there is a teacher.
        sample: of each sampled image the class probabilities (pixels, K) float32 at random pixels, the same ones for
            all candidates, see ``dalib.evaluation.pixel_sample``.
        source: mIoU in [0, 1] on labelled images of the source that were not trained on.
    """

    measures: LabelFree | None = None
    sample: tuple[Tensor, ...] | None = None
    source: float | None = None


class Validator:
    """Scores candidates, such as the checkpoints of a run, in the order in which they are added.

    A subclass implements ``score``; where a candidate's score depends on the other candidates, the other methods
    instead. Its constructor takes the options of a recipe. A complete validator::

        class Confidence(Validator):
            needs = frozenset({"measures"})

            def score(self, evidence):
                return evidence.measures.confident

    Attributes:
        needs: what it looks at of the ``Evidence``: any of "measures", "sample", "agreement" (a forward of student and
            teacher each) and "source" (forwards of the source's images).
        higher: whether the higher score is the better one.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    higher: ClassVar[bool] = True

    _scores: tuple[float, ...] = ()

    def score(self, evidence: Evidence) -> float:
        """Return the score of one candidate; nan where it is not known."""
        raise NotImplementedError(f"{type(self).__name__} has neither a method `score` nor `add` and `scores`.")

    def add(self, evidence: Evidence) -> None:
        """Add a candidate."""
        self._scores = (*self._scores, float(self.score(evidence)))

    def scores(self) -> Sequence[float]:
        """Return a score for each candidate so far; nan where it is not known."""
        return self._scores

    def state_dict(self) -> dict[str, Any]:
        """Return the candidates so far as tensors and primitives."""
        return {"scores": list(self._scores)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the candidates of ``state_dict``."""
        self._scores = tuple(state["scores"])


class Entropy(Validator):
    """Mean entropy of the predictions over log K, 0..1; lower is better. A network of one answer has the best."""

    needs = frozenset({"measures"})
    higher = False

    def score(self, evidence: Evidence) -> float:
        assert evidence.measures is not None
        return evidence.measures.entropy


class InformationMaximisation(Validator):
    """Entropy of the mean prediction less the mean entropy of predictions, over log K: -1..1."""

    needs = frozenset({"measures"})

    def score(self, evidence: Evidence) -> float:
        assert evidence.measures is not None
        p = evidence.measures.probability
        return float(-torch.special.xlogy(p, p).sum()) / math.log(max(len(p), 2)) - evidence.measures.entropy


class SoftNeighbourhoodDensity(Validator):
    """SND of 100 random pixels of each sampled image, averaged over the images (Saito et al., ICCV 2021)."""

    needs = frozenset({"sample"})

    def score(self, evidence: Evidence) -> float:
        assert evidence.sample is not None
        densities = [soft_neighbourhood_density(image[:SND_PIXELS]) for image in evidence.sample]
        return sum(densities) / len(densities)


def soft_neighbourhood_density(probability: Tensor, temperature: float = SND_TEMPERATURE) -> float:
    """Return the mean entropy of each pixel's softmax over its neighbours, in nats: high where they lie densely.

    S = z z' / temperature, where z are the rows over their norms; the diagonal of S becomes -1 / temperature, and a
    softmax of each row is that pixel's distribution over its neighbours.

    Args:
        probability: class probabilities (N, K).
    """
    z = normalize(probability.double(), dim=1)
    similarity = (z @ z.T / temperature).fill_diagonal_(-1 / temperature)
    log_p = similarity.log_softmax(1)
    return float(-(log_p.exp() * log_p).sum(1).mean())


class Agreement(Validator):
    """Share of the pixels where student and teacher predict one class."""

    needs = frozenset({"measures", "agreement"})

    def score(self, evidence: Evidence) -> float:
        assert evidence.measures is not None
        return math.nan if evidence.measures.agreement is None else evidence.measures.agreement


class Source(Validator):
    """mIoU on images of the source that were not trained on: ``data.source`` with ``split: val``."""

    needs = frozenset({"source"})

    def score(self, evidence: Evidence) -> float:
        return math.nan if evidence.source is None else evidence.source


class EnsV(Validator):
    """Share of the sampled pixels where a candidate predicts the class that all candidates' mean predicts.

    Of a single candidate it is not known. What is kept of a candidate is a byte a sampled pixel (EnsV, NeurIPS 2024).
    """

    needs = frozenset({"sample"})

    def __init__(self) -> None:
        self._total: Tensor | None = None  # (pixels, K) float32, summed over the candidates
        self._predictions: list[Tensor] = []  # (pixels,) uint8 of each

    def add(self, evidence: Evidence) -> None:
        """Add a candidate; all have predicted the same images."""
        assert evidence.sample is not None
        probability = torch.cat(evidence.sample)
        self._total = probability if self._total is None else self._total + probability
        self._predictions.append(probability.argmax(1).to(torch.uint8))

    def scores(self) -> Sequence[float]:
        """Return a score for each candidate so far; nan where there is one alone."""
        if self._total is None or len(self._predictions) == 1:
            return [math.nan] * len(self._predictions)
        ensemble, classes = self._total.argmax(1), self._total.shape[1]
        return [self._alike(prediction.long(), ensemble, classes) for prediction in self._predictions]

    def _alike(self, prediction: Tensor, ensemble: Tensor, num_classes: int) -> float:
        return float((prediction == ensemble).double().mean())

    def state_dict(self) -> dict[str, Any]:
        """Return the candidates so far."""
        return {"total": self._total, "predictions": list(self._predictions)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the candidates of ``state_dict``."""
        self._total, self._predictions = state["total"], list(state["predictions"])


class EnsVByIoU(EnsV):
    """mIoU of a candidate's classes with those that all candidates' mean predicts: small classes count as large ones.

    The mean is over the classes that occur in either.
    """

    def _alike(self, prediction: Tensor, ensemble: Tensor, num_classes: int) -> float:
        pairs = (ensemble * num_classes + prediction).bincount(minlength=num_classes**2)
        return float(intersection_over_union(pairs.view(num_classes, num_classes)).nanmean())
