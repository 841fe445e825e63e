"""Any two bundled strategies train together on images of both domains."""

from itertools import combinations

import pytest

from dalib import Engine, create_dataset
from tests.plugins.test_registration import OPTIONS, make, teacher
from tests.tiny import tappable_model


@pytest.fixture(scope="module")
def domains():
    return [create_dataset("diorama", domain=domain, size=(48, 64), length=6) for domain in ("source", "target")]


@pytest.mark.slow
@pytest.mark.parametrize("pair", list(combinations(OPTIONS, 2)), ids="-".join)
def test_two_strategies_train_three_steps_together(pair, domains):
    options = OPTIONS | {"distill": {"teachers": [teacher(19)]}, "feature_distance": {"layer": "body", "ratio": 0.5}}
    names = dict.fromkeys((*pair, "supervised"))  # without a labelled stream, some pairs have no loss
    engine = Engine(tappable_model(num_classes=19), [make(name, options[name]) for name in names], device="cpu")
    before = {name: value.clone() for name, value in engine.model.named_parameters()}
    for terms in engine.iterate(*domains, steps=3, batch_size=2):
        assert terms and all(value.isfinite() for value in terms.values())
    assert engine.index == 3
    assert any((value != before[name]).any() for name, value in engine.model.named_parameters())
