"""Fixtures that every test may use."""

import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)  # small tensors: threads only cost, and the suite's two processes would fight


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of golden outputs and real images that stands beside the checkout; tests that need it skip without."""
    checkout = Path(__file__).resolve().parents[1]
    candidates = [os.environ.get("DALIB_SHARED"), checkout.parent / "shared", checkout.parent.parent / "shared"]
    for candidate in candidates:
        if candidate and (Path(candidate) / "golden").is_dir():
            return Path(candidate)
    pytest.skip("the folder shared/ with golden outputs is not beside this checkout")


@pytest.fixture(autouse=True)
def own_logging() -> Iterator[None]:
    """Give loggers and the form of warnings back as they were; a command that runs in this process sets its own."""
    root, ours = logging.getLogger(), logging.getLogger("dalib")
    before = root.handlers[:], root.level, ours.level, warnings.formatwarning
    yield
    root.handlers[:], warnings.formatwarning = before[0], before[3]
    root.setLevel(before[1])
    ours.setLevel(before[2])
