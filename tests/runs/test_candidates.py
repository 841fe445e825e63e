"""The evaluations of a run as candidates for its best checkpoint."""

import math

import pytest
import torch

from dalib import Evidence, Result, Validator
from dalib.evaluation.validators import EnsV
from dalib.runs.candidates import Candidates


class Given(Validator):
    """Scores that a test gives, in the place of the source's."""

    def score(self, evidence):
        return evidence.source


class Lower(Given):
    higher = False


def result(score=math.nan, sample=None, right=None):
    confusion = torch.zeros(2, 2) if right is None else torch.tensor([[right, 10 - right], [0, 0]])
    evidence = Evidence(source=score, sample=None if sample is None else (torch.tensor(sample),))
    return Result(confusion=confusion.long(), classes=("a", "b"), counted=(0,), evidence=evidence)


def kept(by, validators, results):
    """Return the steps after which ``best.pt`` was written."""
    candidates = Candidates(by, validators, images=1)
    steps = []
    for step, one in enumerate(results, start=1):
        candidates.add(step, one)
        if candidates.improved():
            steps.append(step)
    return steps, candidates


@pytest.mark.parametrize(("make", "expected"), [(Given, [1, 3]), (Lower, [1, 2])])
def test_the_best_is_by_the_validator_in_its_direction_and_what_is_not_known_is_never_best(make, expected):
    steps, candidates = kept("given", {"given": make()}, [result(s) for s in (0.5, 0.2, 0.7, math.nan, 0.7)])
    assert steps == expected
    assert candidates.describe_best() == {"miou": None, "step": expected[-1], "by": "given", "score": candidates.best}


def test_the_best_by_miou_needs_no_validator():
    steps, candidates = kept("miou", {}, [result(right=n) for n in (3, 5, 4)])
    assert steps == [1, 2] and candidates.describe_best() == {"miou": 0.5, "step": 2}
    assert candidates.highest_miou == (0.5, 2)


def test_without_labels_the_best_by_miou_is_none():
    steps, candidates = kept("miou", {"given": Given()}, [result(0.4)])
    assert steps == [] and candidates.describe_best() == {} and candidates.highest_miou == (-1.0, 0)
    assert candidates.add(2, result(0.6)) == {"given": 0.6}


def test_ensv_compares_the_kept_checkpoint_with_the_newest_as_the_ensemble_stands():
    one, other = [[0.9, 0.1], [0.8, 0.2]], [[0.2, 0.8], [0.3, 0.7]]
    steps, candidates = kept("ensv", {"ensv": EnsV()}, [result(sample=one)])
    assert steps == [1] and math.isnan(candidates.best) and candidates.describe_best() == {}  # one alone is not known
    steps, candidates = kept("ensv", {"ensv": EnsV()}, [result(sample=one), result(sample=other)])
    assert steps == [1] and candidates.best == 1.0  # the mean of the two predicts as the first
    steps, candidates = kept("ensv", {"ensv": EnsV()}, [result(sample=s) for s in (one, other, other, other, other)])
    assert candidates.best_step > 1 and candidates.best == 1.0  # the ensemble went over to the others


def test_an_evaluation_of_a_step_that_is_known_adds_no_candidate():
    _, candidates = kept("given", {"given": Given()}, [result(0.5)])
    candidates.add(1, result(0.5))
    assert candidates.steps == [1] and not candidates.improved()


def test_a_restored_run_goes_on_as_one_that_was_never_stopped_and_starts_anew_on_other_images():
    results = [result(s) for s in (0.5, 0.8, 0.7)]
    _, first = kept("given", {"given": Given()}, results[:2])
    second = Candidates("given", {"given": Given()}, images=1)
    second.load_state_dict(first.state_dict())
    second.add(3, results[2])
    assert not second.improved() and second.best == 0.8 and second.last_scores() == {"given": 0.7}
    fewer = Candidates("given", {"given": Given()}, images=2)
    fewer.load_state_dict(first.state_dict())
    fewer.add(3, results[2])
    assert fewer.improved() and fewer.steps == [3]
