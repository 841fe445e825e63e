"""Numbers that change linearly over the optimiser steps: weights of strategies, the teacher's decay."""

from typing import NotRequired

from typing_extensions import TypedDict

from dalib.options import Count, NotNegative, Whole

Ramp = TypedDict("Ramp", {"from": NotNegative, "to": NotNegative, "steps": Count, "start": NotRequired[Whole]})
"""From one value to another over ``steps`` optimiser steps, from step ``start`` (default 0) on; constant outside."""

END = 2**62
"""A step after the end of every ramp."""


def value_at(value: float | Ramp, step: int) -> float:
    """Return the value at optimiser step ``step`` (from 0): itself, or the ramp's."""
    if isinstance(value, int | float):
        return value
    done = min(max((step - value.get("start", 0)) / value["steps"], 0.0), 1.0)
    return (1 - done) * value["from"] + done * value["to"]
