"""Seconds are counted once, where they were spent."""

import time

import pytest
import torch

from dalib.clock import OTHER, Clock


def test_a_nested_section_is_not_counted_in_the_one_around_it(monkeypatch):
    now = iter([0.0, 1.0, 3.0, 6.0, 10.0, 15.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(now))
    clock = Clock(torch.device("cpu"))
    with clock.section("outer"), clock.section("inner"):
        pass
    assert clock.totals() == {OTHER: 1 + 5, "outer": 2 + 4, "inner": 3}


def test_a_section_ends_when_its_body_fails(monkeypatch):
    now = iter([0.0, 1.0, 2.0, 4.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(now))
    clock = Clock(torch.device("cpu"))
    with pytest.raises(ValueError), clock.section("bad"):
        raise ValueError
    assert clock.totals() == {OTHER: 1 + 2, "bad": 1}


def test_totals_grow(monkeypatch):
    now = iter(map(float, range(10)))
    monkeypatch.setattr(time, "perf_counter", lambda: next(now))
    clock = Clock(torch.device("cpu"))
    assert [clock.totals()[OTHER] for _ in range(3)] == [1.0, 2.0, 3.0]
