"""Validators on hand-made cases and against plain float64 references."""

import math

import numpy as np
import pytest
import torch

from dalib import Evidence, Registry, Validator
from dalib.core.create import validator_from
from dalib.errors import RecipeError
from dalib.evaluation import dalib_register
from dalib.evaluation.label_free import LabelFreeSums
from dalib.evaluation.validators import (
    Agreement,
    EnsV,
    EnsVByIoU,
    Entropy,
    InformationMaximisation,
    SoftNeighbourhoodDensity,
    Source,
    soft_neighbourhood_density,
)


def measured(logits, other=None):
    sums = LabelFreeSums(logits.shape[1], torch.device("cpu"), other is not None)
    sums.update(logits, other)
    return Evidence(measures=sums.compute())


def softmax(x):
    e = np.exp(x - x.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def sampled(*probabilities):
    return Evidence(sample=tuple(torch.tensor(p, dtype=torch.float32) for p in probabilities))


def by_hand_snd(p):
    """The published formula, a pixel at a time."""
    total = 0.0
    z = [row / math.sqrt(sum(value**2 for value in row)) for row in np.asarray(p, dtype=np.float64)]
    for i in range(len(z)):
        similarity = [-1 / 0.05 if i == j else float(z[i] @ z[j]) / 0.05 for j in range(len(z))]
        weights = [math.exp(value) for value in similarity]
        shares = [weight / sum(weights) for weight in weights]
        total -= sum(share * math.log(share) for share in shares) / len(z)
    return total


def test_snd_of_pixels_that_are_all_alike_is_the_entropy_of_equal_neighbours():
    p = torch.tensor([[0.7, 0.2, 0.1]]).repeat(5, 1)
    assert soft_neighbourhood_density(p) == pytest.approx(math.log(4), abs=1e-12)  # 4 neighbours each, not itself


def test_snd_of_two_sure_pairs_is_nothing_since_each_pixel_has_one_neighbour():
    p = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    # To its like 1 / 0.05 = 20, to each of the two others 0, to itself -20.
    share = 1 / (1 + 2 * math.exp(-20) + math.exp(-40))
    assert soft_neighbourhood_density(p) == pytest.approx(-math.log(share) + 40 * math.exp(-20), abs=1e-9)
    assert soft_neighbourhood_density(p) < 1e-6


def test_snd_is_the_published_formula_of_100_pixels_of_each_image_averaged_over_images():
    draw = np.random.default_rng(0)
    images = [softmax(3 * draw.normal(size=(n, 4))) for n in (130, 40)]
    validator = SoftNeighbourhoodDensity()
    validator.add(sampled(*images))
    expected = (by_hand_snd(images[0][:100].astype(np.float32)) + by_hand_snd(images[1].astype(np.float32))) / 2
    assert validator.scores() == pytest.approx([expected], abs=1e-9)


def test_entropy_and_information_are_those_of_float64_over_log_k():
    logits = torch.from_numpy(np.random.default_rng(1).normal(size=(2, 3, 5, 7)) * 2)
    p = softmax(logits.numpy().transpose(0, 2, 3, 1).reshape(-1, 3))
    entropy = -(p * np.log(p)).sum(1).mean() / math.log(3)
    of_mean = -(p.mean(0) * np.log(p.mean(0))).sum() / math.log(3)
    evidence = measured(logits.float())
    assert Entropy().score(evidence) == pytest.approx(entropy, abs=1e-6) and not Entropy.higher
    assert InformationMaximisation().score(evidence) == pytest.approx(of_mean - entropy, abs=1e-6)
    assert evidence.measures.predicted.tolist() == [float((p.argmax(1) == k).mean()) for k in range(3)]
    assert evidence.measures.confident == pytest.approx((p.max(1) >= 0.9).mean())


def test_a_collapsed_network_has_the_best_entropy_and_no_information():
    collapsed = torch.tensor([50.0, 0.0, 0.0]).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    sure = torch.full((1, 3, 3, 3), 0.0)
    for k in range(3):
        sure[:, k, k] = 50.0
    assert Entropy().score(measured(collapsed)) == pytest.approx(0, abs=1e-6)
    assert InformationMaximisation().score(measured(collapsed)) == pytest.approx(0, abs=1e-6)
    assert InformationMaximisation().score(measured(sure)) == pytest.approx(1, abs=1e-6)


def test_agreement_is_of_two_networks_and_unknown_of_one():
    one, other = torch.zeros(1, 2, 2, 2), torch.zeros(1, 2, 2, 2)
    one[0, 1], other[0, 1, 0] = 1.0, 1.0
    assert Agreement().score(measured(one, other)) == 0.5
    assert math.isnan(Agreement().score(measured(one)))


def test_the_sources_score_is_its_miou_and_unknown_without():
    assert Source().score(Evidence(source=0.25)) == 0.25 and math.isnan(Source().score(Evidence()))


def test_ensv_by_hand_the_candidate_that_the_mean_contradicts_is_last():
    first = [[[0.9, 0.1], [0.8, 0.2], [0.4, 0.6]]]  # predicts 0 0 1
    second = [[[0.6, 0.4], [0.3, 0.7], [0.1, 0.9]]]  # predicts 0 1 1
    third = [[[0.2, 0.8], [0.1, 0.9], [0.6, 0.4]]]  # predicts 1 1 0
    # Means: 0.567 0.433, 0.4 0.6, 0.367 0.633: the ensemble predicts 0 1 1.
    ensv, by_iou = EnsV(), EnsVByIoU()
    for candidate in (first, second, third):
        ensv.add(sampled(*candidate))
        by_iou.add(sampled(*candidate))
    assert ensv.scores() == pytest.approx([2 / 3, 1, 1 / 3])
    # IoU of classes 0 and 1: (1/2 + 1/2) / 2, (1 + 1) / 2, (0 + 1/3) / 2.
    assert by_iou.scores() == pytest.approx([1 / 2, 1, 1 / 6])


def test_ensv_is_the_plain_formula_of_float64():
    draw = np.random.default_rng(2)
    candidates = [[softmax(2 * draw.normal(size=(n, 5))).astype(np.float32) for n in (60, 70)] for _ in range(4)]
    whole = np.stack([np.concatenate(candidate).astype(np.float64) for candidate in candidates])
    ensemble = whole.mean(0).argmax(1)
    ensv, by_iou = EnsV(), EnsVByIoU()
    for candidate in candidates:
        ensv.add(sampled(*candidate))
        by_iou.add(sampled(*candidate))
    assert ensv.scores() == pytest.approx([float((p.argmax(1) == ensemble).mean()) for p in whole], abs=1e-12)
    for p, score in zip(whole.argmax(2), by_iou.scores(), strict=True):
        ious = [((p == k) & (ensemble == k)).sum() / ((p == k) | (ensemble == k)).sum() for k in range(5)]
        assert score == pytest.approx(np.mean(ious), abs=1e-12)


def test_ensv_of_one_candidate_is_unknown_and_a_second_makes_both_known():
    ensv = EnsV()
    assert ensv.scores() == []
    ensv.add(sampled([[0.9, 0.1]]))
    assert [math.isnan(score) for score in ensv.scores()] == [True]
    ensv.add(sampled([[0.4, 0.6]]))
    assert ensv.scores() == [1.0, 0.0]


@pytest.mark.parametrize("make", [EnsV, EnsVByIoU, SoftNeighbourhoodDensity])
def test_a_restored_validator_goes_on_as_one_that_was_never_stopped(make):
    draw = np.random.default_rng(3)
    evidence = [sampled(softmax(draw.normal(size=(20, 3)))) for _ in range(4)]
    whole, first, second = make(), make(), make()
    for one in evidence:
        whole.add(one)
    for one in evidence[:2]:
        first.add(one)
    second.load_state_dict(first.state_dict())
    first.add(evidence[0])  # what was saved does not follow
    for one in evidence[2:]:
        second.add(one)
    assert second.scores() == whole.scores()


def test_a_validator_of_ones_own_takes_options_and_one_that_needs_what_is_not_there_is_refused(monkeypatch):
    class Confidence(Validator):
        needs = frozenset({"measures"})

        def __init__(self, power: float = 1.0) -> None:
            self.power = power

        def score(self, evidence):
            return evidence.measures.confident**self.power

    class Labels(Validator):
        needs = frozenset({"labels"})

    registry = Registry()
    dalib_register(registry)
    registry.validator("confidence", Confidence)
    registry.validator("labels", Labels)
    monkeypatch.setattr("dalib.core.create.default_registry", lambda: registry)
    logits = torch.tensor([[9.0, 0.0], [0.0, 0.5]]).view(1, 2, 2, 1)
    validator = validator_from({"use": "confidence", "power": 2.0}, "evaluate.validators[0]")
    validator.add(measured(logits))
    assert validator.scores() == (validator.score(measured(logits)),) and 0 <= validator.scores()[0] <= 1
    with pytest.raises(RecipeError, match=r"evaluate.validators\[0\].powr: unknown option"):
        validator_from({"use": "confidence", "powr": 2.0}, "evaluate.validators[0]")
    with pytest.raises(RecipeError, match="needs 'labels'; expected any of measures"):
        validator_from({"use": "labels"}, "evaluate.validators[0]")
