"""Fixtures of the networks' tests."""

from pathlib import Path

import pytest

from tests.golden import Golden, read_golden


@pytest.fixture(scope="session")
def golden(shared: Path) -> Golden:
    return read_golden(shared / "golden")
