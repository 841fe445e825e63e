"""Options are checked against annotations, strictly, and messages say where and what."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import pytest
import torch

from dalib import Strategy
from dalib.errors import RecipeError
from dalib.options import check_options


@dataclass(kw_only=True)
class Nested:
    depth: int
    names: list[str] | None = None

    __pydantic_config__: ClassVar = {"extra": "forbid", "strict": True}


@dataclass(kw_only=True)
class Outer:
    inner: dict[str, Nested]

    __pydantic_config__: ClassVar = {"extra": "forbid", "strict": True}


class Example(Strategy):
    required: int
    rate: float = 0.5
    size: tuple[int, int] | None = None
    kind: Literal["a", "b"] = "a"
    nested: Nested | None = None
    outer: list[Outer] | None = None
    table: dict[str, float] | None = None
    flag: bool = False


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"required": 1, "rate": 1}, {"required": 1, "rate": 1.0}),
        ({"required": 1, "size": [2, 3]}, {"required": 1, "size": (2, 3)}),
        ({"required": 1, "nested": {"depth": 2}}, {"required": 1, "nested": Nested(depth=2)}),
        ({"required": 1, "table": {"x": 1}, "name": "n"}, {"required": 1, "table": {"x": 1.0}, "name": "n"}),
    ],
)
def test_values_arrive_in_the_annotated_types(options, expected):
    checked = check_options(Example, options, "here")
    assert checked == expected
    assert all(type(checked[k]) is type(v) for k, v in expected.items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "here.required: this option is required."),
        ({"required": 1, "raet": 2}, "here.raet: unknown option. Did you mean 'rate'?"),
        (
            {"required": 1, 7: 2},
            "here.7: unknown option. Known: flag, kind, name, nested, outer, rate, required, size, table, weight.",
        ),
        ({"required": 1.0}, "here.required: expected a whole number, got 1.0."),
        ({"required": True}, "here.required: expected a whole number, got true."),
        ({"required": "1"}, 'here.required: expected a whole number, got "1".'),
        ({"required": 1, "rate": "0.5"}, 'here.rate: expected a number, got "0.5".'),
        ({"required": 1, "rate": True}, "here.rate: expected a number, got true."),
        ({"required": 1, "rate": float("nan")}, "here.rate: expected a finite number, got nan."),
        ({"required": 1, "size": [1, "x"]}, 'here.size[1]: expected a whole number, got "x".'),
        ({"required": 1, "kind": "c"}, "here.kind: input should be 'a' or 'b', got \"c\"."),
        ({"required": 1, "flag": 1}, "here.flag: expected true or false, got 1."),
        ({"required": 1, "flag": "yes"}, 'here.flag: expected true or false, got "yes".'),
        ({"required": 1, "nested": {"depth": "2"}}, 'here.nested.depth: expected a whole number, got "2".'),
        ({"required": 1, "nested": {}}, "here.nested.depth: expected a value, got {}."),
        ({"required": 1, "nested": {"depth": 1, "names": [1]}}, "here.nested.names[0]: expected text, got 1."),
        ({"required": 1, "nested": {"detph": 1}}, "here.nested.detph: unknown option. Did you mean 'depth'?"),
        ({"required": 1, "nested": {"depth": 1, "x": 1}}, "here.nested.x: unknown option. Known: depth, names."),
        (
            {"required": 1, "outer": [{"inner": {"key": {"depth": 1, "x": 1}}}]},
            "here.outer[0].inner.key.x: unknown option. Known: depth, names.",
        ),
        ({"required": 1, "nested": 3}, "here.nested: expected a mapping, got 3."),
        ({"required": 1, "table": {"x": "y"}}, 'here.table.x: expected a number, got "y".'),
    ],
)
def test_a_wrong_option_is_named_with_its_path(options, message):
    with pytest.raises(RecipeError) as caught:
        check_options(Example, options, "here")
    assert str(caught.value) == message


def test_a_class_of_its_own_making_is_checked_by_what_its_constructor_says():
    """As most networks are."""

    class Network:
        def __init__(self, num_classes: int, *, kind: Literal["a", "b"] = "a", deep: bool = False) -> None: ...

    assert check_options(Network, {"num_classes": 2, "kind": "b"}, "model") == {"num_classes": 2, "kind": "b"}
    with pytest.raises(RecipeError, match=r"^model\.kind: input should be 'a' or 'b', got \"c\"\.$"):
        check_options(Network, {"num_classes": 2, "kind": "c"}, "model")
    with pytest.raises(RecipeError, match=r"^model\.deep: expected true or false, got \"false\"\.$"):
        check_options(Network, {"num_classes": 2, "deep": "false"}, "model")


def test_a_factory_that_takes_anything_gets_anything():
    def factory(*, size: int = 1, **options: Any) -> None: ...

    assert check_options(factory, {"other": "x", "size": 2}, "") == {"other": "x", "size": 2}
    with pytest.raises(RecipeError, match=r"^size: expected a whole number"):
        check_options(factory, {"size": "2"}, "")


def test_an_object_handed_over_in_python_passes_through():
    tensor = torch.ones(1)
    assert check_options(Example, {"required": 1, "rate": tensor}, "")["rate"] is tensor
