"""Seconds are counted once, where they were spent."""

import time

import pytest
import torch

from dalib.core.clock import Clock


def test_a_nested_section_is_not_counted_in_the_one_around_it(monkeypatch):
    now = iter([0.0, 1.0, 3.0, 6.0, 10.0, 15.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(now))
    clock = Clock(torch.device("cpu"))
    with clock.section("outer"), clock.section("inner"):
        pass
    assert clock.totals() == {"other": 1 + 5, "outer": 2 + 4, "inner": 3}


def test_a_section_ends_when_its_body_fails(monkeypatch):
    now = iter([0.0, 1.0, 2.0, 4.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(now))
    clock = Clock(torch.device("cpu"))
    with pytest.raises(ValueError), clock.section("bad"):
        raise ValueError
    assert clock.totals() == {"other": 1 + 2, "bad": 1}


def test_totals_grow(monkeypatch):
    now = iter(map(float, range(10)))
    monkeypatch.setattr(time, "perf_counter", lambda: next(now))
    clock = Clock(torch.device("cpu"))
    assert [clock.totals()["other"] for _ in range(3)] == [1.0, 2.0, 3.0]


class Event:
    """Happens a millisecond after the one before it."""

    made = 0

    def __init__(self, enable_timing):
        assert enable_timing, "without it CUDA cannot tell the time between two events"
        Event.made += 1
        self.time = Event.made

    def record(self):
        pass

    def synchronize(self):
        assert Event.made - self.time < 2 or Event.made - self.time >= 5000, "the device has not come so far yet"

    def elapsed_time(self, end):
        return end.time - self.time


def test_on_a_gpu_a_long_run_keeps_few_marks_and_counts_all_without_waiting(monkeypatch):
    monkeypatch.setattr(torch.cuda, "Event", Event)
    clock = Clock(torch.device("cuda"))
    for _ in range(8000):
        with clock.section("work"):
            pass
    assert len(clock._marks) <= 10_000
    totals = clock.totals()
    assert totals == {"work": pytest.approx(8.0), "other": pytest.approx(8.0)} and len(clock._marks) == 1
