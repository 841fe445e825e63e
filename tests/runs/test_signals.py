"""Signals to a run: the first stops it after its step, one more only where it is meant."""

import hashlib
import queue
import signal
import threading
import time

import pytest

from dalib.runs.signals import Interruption, signal_name


@pytest.fixture(autouse=True)
def pythons_handler():
    """Python's own handler of Ctrl-C, which a process in the background starts without."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("dalib.runs.signals.time.monotonic", lambda: now[0])
    return now


def interrupt(number=signal.SIGINT):
    signal.pthread_kill(threading.main_thread().ident, number)  # its handler then runs at once, whoever else there is


def test_two_signals_at_once_are_one_and_it_is_told_once(clock):
    told = queue.SimpleQueue()
    with Interruption(lambda: told.put("stopping")) as interruption:
        interrupt()
        clock[0] += 0.05
        interrupt()
        interrupt(signal.SIGTERM)
        assert interruption.signal == signal.SIGINT and told.get(timeout=10) == "stopping"
        time.sleep(0.1)
        assert told.empty()


def test_a_signal_is_told_while_the_main_thread_is_in_a_long_call_of_c():
    told = []
    with Interruption(lambda: told.append(time.perf_counter())):
        threading.Timer(0.1, interrupt).start()
        hashlib.pbkdf2_hmac("sha256", b"", b"", 3_000_000)  # a second or more, in which no handler runs
        returned = time.perf_counter()
    assert len(told) == 1 and told[0] < returned


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
