"""Comparison of states."""

from typing import Any

import torch


def assert_equal(one: Any, other: Any, path: str = "") -> None:
    """Compare nested states bit for bit."""
    assert type(one) is type(other), path
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), path
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), path
        for key in one:
            assert_equal(one[key], other[key], f"{path}/{key}")
    elif isinstance(one, list):
        assert len(one) == len(other), path
        for index, pair in enumerate(zip(one, other, strict=True)):
            assert_equal(*pair, f"{path}/{index}")
    else:
        assert one == other, path


def assert_same(mine: Any, theirs: Any, tolerance: float = 0.0) -> None:
    """Compare tensors by name, up to a tolerance."""
    assert mine.keys() == theirs.keys()
    for key, value in mine.items():
        torch.testing.assert_close(value, theirs[key], rtol=tolerance, atol=tolerance, msg=lambda m, k=key: f"{k}: {m}")
