"""Hostile input meets the library's own errors: no crash, no hang, no other exception, bounded memory."""

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.command import RECIPE
from tests.fuzz.child import Child
from tests.fuzz.hostile import LABEL_MAP, bitmaps, checkpoints, jpegs, pngs, texts, values, webps

# What is fed to what, and how often in the full set.
INPUTS: dict[str, tuple[str, st.SearchStrategy[object], int]] = {
    "recipes": ("recipe", values(RECIPE), 5000),
    "texts of recipes": ("recipe text", texts(RECIPE), 5000),
    "label maps": ("label map", values(LABEL_MAP), 5000),
    "texts of label maps": ("label map", texts(LABEL_MAP), 5000),
    "PNG as images": ("image", pngs(), 2500),
    "PNG as labels": ("label", pngs(), 2500),
    "JPEG": ("image", jpegs(), 5000),
    "WebP": ("image", webps(), 2500),
    "TIFF and BMP": ("image", bitmaps(), 2500),
    "checkpoints": ("checkpoint", checkpoints(), 5000),
    "weights": ("weights", checkpoints(), 2500),
}
QUICK = 25


@pytest.fixture(scope="module")
def child() -> Iterator[Child]:
    process = Child()
    yield process
    process.close()


def feed(child: Child, name: str, examples: int, *, derandomize: bool) -> None:
    target, inputs, _ = INPUTS[name]

    @settings(
        max_examples=examples,
        derandomize=derandomize,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(inputs)
    def refused_or_taken(content: object) -> None:
        child.check(target, content)

    refused_or_taken()


@pytest.mark.parametrize("name", INPUTS)
def test_a_few_hostile_inputs_are_taken_or_refused(child, name):
    feed(child, name, QUICK, derandomize=True)


@pytest.mark.fuzz
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", INPUTS)
def test_thousands_of_hostile_inputs_are_taken_or_refused(child, name):
    feed(child, name, INPUTS[name][2], derandomize=False)
