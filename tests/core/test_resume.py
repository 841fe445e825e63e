"""N + M steps are N steps, a checkpoint, and M steps in a new engine: bit for bit, whatever is stacked."""

from functools import partial
from itertools import combinations

import pytest
import torch

from dalib import Engine, create_strategy
from dalib_plugins.adversarial import DISCRIMINATORS, OutputDiscriminator
from tests.equal import assert_equal
from tests.tiny import Counter, TinyData, tiny_model

SIZE = (34, 40)  # a discriminator needs 32 pixels per side
DATA = {"source": TinyData(5, SIZE), "target": TinyData(3, SIZE, seed=1), "batch_size": 2}  # more than an epoch
SAVED, STEPS = 2, 4
COLORS = {"color_jitter": [0.5, 0.5, 0.5, 0.05], "blur": {"kernel": 3, "sigma": [0.2, 0.8]}}
OPTIONS = {
    "augment": {"streams": ["source", "target"], "crop": [32, 36], "scale": [0.5, 2.0], "flip": 0.5, **COLORS},
    "fda": {"beta": [0.05, 0.1]},
    "supervised": {"ohem": 0.7, "min_kept": 16},
    "adversarial": {"weight": 0.001},
    "dacs": {"threshold": 0.3, "ema": 0.9},
    "minent": {"weight": 0.01, "eta": 2.0},
    "crf": {"iterations": 1},
}
FULL = list(OPTIONS)
TRAINING = [name for name in FULL if name != "crf"]  # it is around predictions only


@pytest.fixture(autouse=True)
def small_discriminators(monkeypatch):
    monkeypatch.setitem(DISCRIMINATORS, "adaptsegnet", partial(OutputDiscriminator, channels=4))


def make(names, **options):
    """Return an engine with dropout, momentum, a schedule and these strategies."""
    return Engine(
        tiny_model(dropout=0.2),
        [*(create_strategy(name, **OPTIONS[name]) for name in names), Counter()],
        optimizer=partial(torch.optim.SGD, lr=0.05, momentum=0.9),
        schedule=lambda step: (1 - step / 10) ** 0.9,
        device="cpu",
        **options,
    )


def train(engine, workers=0, save=None):
    """Return the metrics of each step up to the last; the checkpoint is written on the way."""
    metrics = []
    for terms in engine.iterate(**DATA, steps=STEPS, workers=workers):
        metrics.append(dict(terms))
        if save is not None and engine.index == SAVED:
            engine.save(save)
    return metrics


def check(tmp_path, names, workers=0, **options):
    whole, resumed = make(names, **options), make(names, **options)
    metrics = train(whole, workers, tmp_path / "c.pt")
    resumed.load(tmp_path / "c.pt")
    assert resumed.index == SAVED
    assert_equal(metrics[SAVED:], train(resumed, workers))
    assert_equal(whole.state_dict(), resumed.state_dict())
    return whole, resumed


@pytest.mark.parametrize("names", [[name] for name in TRAINING], ids="+".join)
def test_each_strategy_resumes_bit_for_bit(names, tmp_path):
    check(tmp_path, names)


@pytest.mark.parametrize("names", list(combinations(TRAINING, 2)), ids="+".join)
def test_every_pair_resumes_bit_for_bit(names, tmp_path):
    check(tmp_path, names)


@pytest.mark.parametrize(
    "options",
    [{}, {"workers": 2}, {"accumulate": 2}, {"precision": "bf16"}, {"precision": "fp16"}],
    ids=["plain", "workers", "accumulate", "bf16", "fp16"],
)
def test_the_full_stack_resumes_bit_for_bit(options, tmp_path):
    whole, resumed = check(tmp_path, FULL, **options)
    images = DATA["target"].images
    assert torch.equal(*(engine.predict(images, teacher=True) for engine in (whole, resumed)))


def test_saving_changes_nothing(tmp_path):
    plain, saved = make(FULL), make(FULL)
    assert_equal(train(plain), train(saved, save=tmp_path / "c.pt"))
    assert_equal(plain.state_dict(), saved.state_dict())
