"""Signals to a run: the first stops it after its step, one more only where it is meant."""

import os
import signal

import pytest

from dalib.runs.signals import Interruption, signal_name


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("dalib.runs.signals.time.monotonic", lambda: now[0])
    return now


def interrupt(number=signal.SIGINT):
    os.kill(os.getpid(), number)


def test_two_signals_at_once_are_one_and_it_is_told_once(clock):
    told = []
    with Interruption(lambda: told.append("stopping")) as interruption:
        interrupt()
        clock[0] += 0.05
        interrupt()
        interrupt(signal.SIGTERM)
        assert interruption.signal == signal.SIGINT and told == ["stopping"]


def test_a_second_signal_later_acts_at_once(clock):
    with Interruption() as interruption:
        interrupt()
        clock[0] += 2
        with pytest.raises(KeyboardInterrupt):
            interrupt()
        assert interruption.signal == signal.SIGINT


def test_handlers_are_as_before_afterwards():
    before = signal.getsignal(signal.SIGINT)
    with Interruption():
        assert signal.getsignal(signal.SIGINT) != before
    assert signal.getsignal(signal.SIGINT) == before


def test_signals_have_the_names_that_users_know():
    assert [signal_name(number) for number in (signal.SIGINT, signal.SIGTERM)] == ["Ctrl-C", "SIGTERM"]
