"""No hook of a bundled strategy waits for the device; shown without one."""

from contextlib import contextmanager, nullcontext

import pytest
import torch

from dalib import Engine, Strategy, create_strategy, hookimpl
from dalib.core import stack as stack_module
from tests.plugins.test_registration import OPTIONS, make
from tests.tiny import tappable_model, tiny_batch, tiny_model
from tests.waits import WaitError, refusing_waits


@pytest.fixture
def watched(monkeypatch):
    """Run every hook of a step under ``refusing_waits``; return the hooks that ran."""
    calling, ran = stack_module.calling, set()

    @contextmanager
    def watching(strategy, hook, step=None):
        tensors = (
            [] if step is None else [t for stream in step.batch._streams.values() for t in stream.fields().values()]
        )
        with calling(strategy, hook, step), refusing_waits(*tensors) if step else nullcontext():
            ran.add((strategy.name, hook))
            yield

    monkeypatch.setattr(stack_module, "calling", watching)
    return ran


def test_no_hook_of_a_bundled_strategy_waits_for_the_device(watched):
    stack = [make(name, options) for name, options in OPTIONS.items()]
    engine = Engine(tappable_model(), stack, device="cpu")
    engine.step(tiny_batch(0, (41, 50)))
    hooks = {hook for _, hook in watched}
    assert {"pre_batch", "loss", "critic_loss"} <= hooks
    assert {name for name, _ in watched} == set(OPTIONS) | {s.name for s in stack}


@pytest.mark.parametrize("mask", ["cutmix", "cowmask"])
def test_no_other_mask_of_dacs_waits_nor_do_confident_classes(watched, mask):
    options = {
        "mask": mask,
        "confident_classes": 0.2,
        "ema": {"from": 0.9, "to": 0.99, "steps": 10},
        "teacher_start": 1,
    }
    engine = Engine(tiny_model(), [make("dacs", options)], device="cpu")
    for index in range(2):
        engine.step(tiny_batch(index, (41, 50)))


WAITS = {
    "item": lambda x: x.mean().item(),
    "bool": lambda x: bool((x > 0).any()),
    "float": lambda x: float(x.mean()),
    "if": lambda x: 1 if x.mean() > 0 else 2,
    "nonzero": lambda x: x.nonzero(),
    "unique": lambda x: x.unique(),
    "mask": lambda x: x[x > 0.5],
    "assignment by a mask": lambda x: x.clone().index_put_((x > 0.5,), torch.zeros(())),
    "masked_select": lambda x: x.masked_select(x > 0.5),
    "cpu": lambda x: x.cpu(),
    "to": lambda x: x.to("cpu"),
    "numpy": lambda x: x.numpy(),
    "tolist": lambda x: x.tolist(),
    "drawn": lambda x: torch.rand(1, device=x.device).item(),
}


@pytest.mark.parametrize("way", WAITS)
def test_what_waits_is_noticed(watched, way):
    class Waits(Strategy):
        @hookimpl
        def loss(self, step):
            WAITS[way](step.batch["target"].image)
            return {}

    with pytest.raises(Exception, match="waits for the device") as caught:
        Engine(tiny_model(), [create_strategy("supervised"), Waits()], device="cpu").step(tiny_batch())
    assert isinstance(caught.value.__cause__, WaitError)
