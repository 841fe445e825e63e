"""A signal that comes in an update is acted on when the step is whole."""

import os
import signal

import pytest
import torch

from dalib import Engine, Strategy, hookimpl
from dalib.core.deferred_signal import DeferredSignal
from dalib.errors import StrategyError
from tests.tiny import Supervised, tiny_batch, tiny_model


@pytest.fixture
def handled():
    """Handle SIGCHLD as torch does at a loader's dead worker: by raising."""
    came = []

    def handler(number, frame):
        came.append(number)
        raise RuntimeError("a worker died")

    before = signal.signal(signal.SIGCHLD, handler)
    yield came
    signal.signal(signal.SIGCHLD, before)


def test_the_handler_is_called_once_at_the_end_and_stands_again_afterwards(handled):
    held = DeferredSignal(signal.SIGCHLD)
    held.start()
    os.kill(os.getpid(), signal.SIGCHLD)
    os.kill(os.getpid(), signal.SIGCHLD)
    assert handled == []
    with pytest.raises(RuntimeError, match="a worker died"):
        held.stop()
    assert len(handled) == 1
    held.stop()
    with pytest.raises(RuntimeError):
        os.kill(os.getpid(), signal.SIGCHLD)


def test_a_signal_that_nobody_handles_is_left_alone():
    before = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    held = DeferredSignal(signal.SIGCHLD)
    held.start()
    assert signal.getsignal(signal.SIGCHLD) is signal.SIG_DFL
    held.stop()
    signal.signal(signal.SIGCHLD, before)


class Breaks(Strategy):
    """Fails after an update."""

    @hookimpl
    def post_step(self, step):
        raise ValueError("oops")


def test_an_error_in_a_step_is_reported_rather_than_a_worker_that_died_in_it(handled):
    engine = Engine(tiny_model(), [Supervised(), Breaks()], device="cpu", optimizer=lambda p: Dying(p, lr=0.1))
    with pytest.raises(StrategyError, match="oops"):
        engine.step(tiny_batch())
    assert handled == []


class Dying(torch.optim.SGD):
    """A worker dies in the middle of the update."""

    def step(self, closure=None):
        os.kill(os.getpid(), signal.SIGCHLD)
        return super().step(closure)


def test_a_worker_that_dies_in_an_update_leaves_a_whole_step_that_can_be_saved(handled):
    dying, plain = (
        Engine(tiny_model(), [Supervised()], device="cpu", optimizer=lambda p, kind=kind: kind(p, lr=0.1))
        for kind in (Dying, torch.optim.SGD)
    )
    with pytest.raises(RuntimeError, match="a worker died"):
        dying.step(tiny_batch())
    plain.step(tiny_batch())
    assert len(handled) == 1 and dying.state_dict()["step"] == 1
    for one, other in zip(dying.model.parameters(), plain.model.parameters(), strict=True):
        torch.testing.assert_close(one, other)
