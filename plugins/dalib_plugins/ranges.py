"""Option types with ranges, beside those of ``dalib.options``; values out of range are errors with their path."""

from typing import Annotated

from pydantic import AfterValidator, Field

from dalib.options import Count, Positive

Share = Annotated[float, Field(ge=0, le=0.5)]
Streams = Annotated[list[str], Field(min_length=1)]


def _rising(values: tuple[float, float]) -> tuple[float, float]:
    if values[0] > values[1]:
        raise ValueError("the least value first, then the greatest")
    return values


def _odd(value: int) -> int:
    if value % 2 == 0:
        raise ValueError("an odd number")
    return value


Interval = Annotated[tuple[Positive, Positive], AfterValidator(_rising)]
Part = Annotated[float, Field(gt=0, le=1)]
Parts = Annotated[tuple[Part, Part], AfterValidator(_rising)]
OddCount = Annotated[Count, AfterValidator(_odd)]
