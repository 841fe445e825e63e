"""Options are checked against annotations, strictly, and messages say where and what."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal, Protocol, TypedDict

import pytest
import torch
from pydantic import BaseModel, Field, TypeAdapter
from torch import Tensor, nn

from dalib import OptionGroup, Strategy
from dalib.errors import RecipeError
from dalib.options import check_options, options_type


class Nested(OptionGroup):
    depth: int
    names: list[str] | None = None


class Outer(OptionGroup):
    inner: dict[str, Nested]


@dataclass
class Plain:
    """As a package may have it that knows no OptionGroup."""

    depth: int = 1


class Model(BaseModel):
    """As a package may have it that configures itself with pydantic."""

    depth: int = 1


class LossFunction(Protocol):
    def __call__(self, logits: Tensor) -> Tensor: ...


class Loose(TypedDict):
    """Which pydantic refuses before Python 3.12."""

    depth: int


class Example(Strategy):
    required: int
    rate: float = 0.5
    size: tuple[int, int] | None = None
    kind: Literal["a", "b"] = "a"
    nested: Nested | None = None
    plain: Plain | None = None
    model: Model | None = None
    outer: list[Outer] | None = None
    table: dict[str, float] | None = None
    counts: dict[int, int] | None = None
    share: Annotated[float, Field(ge=0, lt=1)] | list[float] = 0.0
    network: nn.Module | None = None
    schema: bool = False


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"rate": 1}, {"rate": 1.0}),
        ({"size": [2, 3]}, {"size": (2, 3)}),
        ({"size": (2, 3)}, {"size": (2, 3)}),
        ({"nested": {"depth": 2}}, {"nested": Nested(depth=2)}),
        ({"outer": [{"inner": {"x": {"depth": 2}}}]}, {"outer": [Outer(inner={"x": Nested(depth=2)})]}),
        ({"table": {"x": 1}, "name": "n"}, {"table": {"x": 1.0}, "name": "n"}),
        ({"network": None, "schema": True}, {"network": None, "schema": True}),
    ],
)
def test_values_arrive_in_the_annotated_types(options, expected):
    checked = check_options(Example, {"required": 1, **options}, "here")
    assert checked == {"required": 1, **expected}
    assert all(type(checked[k]) is type(v) for k, v in expected.items())


KNOWN = "counts, kind, model, name, nested, network, outer, plain, rate, required, schema, share, size, table, weight"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"raet": 2}, "raet: unknown option. Did you mean 'rate'?"),
        ({"raet": torch.ones(1)}, "raet: unknown option. Did you mean 'rate'?"),
        ({7: 2}, f"7: unknown option. Known: {KNOWN}."),
        ({"required": 1.0}, "required: expected a whole number, got 1.0."),
        ({"required": True}, "required: expected a whole number, got true."),
        ({"required": "1"}, 'required: expected a whole number, got "1".'),
        ({"required": None}, "required: expected a whole number, got null."),
        ({"rate": "0.5"}, 'rate: expected a number, got "0.5".'),
        ({"rate": True}, "rate: expected a number, got true."),
        ({"rate": float("nan")}, "rate: expected a finite number, got NaN."),
        ({"rate": 10**400}, "rate: expected a finite number, got 1000"),
        ({"weight": -1}, "weight: expected a number of at least 0, or a mapping, got -1."),
        ({"size": [1]}, "size[1]: expected a value, got [1]."),
        ({"size": [1, "x"]}, 'size[1]: expected a whole number, got "x".'),
        ({"kind": "c"}, "kind: expected 'a' or 'b', got \"c\"."),
        ({"schema": 1}, "schema: expected true or false, got 1."),
        ({"schema": "yes"}, 'schema: expected true or false, got "yes".'),
        ({"share": 1}, "share: expected a number of less than 1, or a list, got 1."),
        ({"share": [0, "x"]}, 'share[1]: expected a number, got "x".'),
        ({"network": "resnet"}, 'network: expected an object, which no recipe can give, got "resnet".'),
        ({"plain": {"depth": "2"}}, 'plain.depth: expected a whole number, got "2".'),
        ({"model": {"depth": "2"}}, 'model.depth: expected a whole number, got "2".'),
        ({"nested": 3}, "nested: expected a mapping, got 3."),
        ({"nested": {}}, "nested.depth: this option is required."),
        ({"nested": {"depth": "2", "names": 3}}, 'nested.depth: expected a whole number, got "2".'),
        ({"nested": {"depth": 1, "names": [1]}}, "nested.names[0]: expected text, got 1."),
        ({"nested": {"detph": 1}}, "nested.detph: unknown option. Did you mean 'depth'?"),
        ({"outer": [{"inner": {"key": {"depth": 1, "x": 1}}}]}, "outer[0].inner.key.x: unknown option. Known: depth, "),
        ({"table": {"x": "y"}}, 'table.x: expected a number, got "y".'),
        ({"counts": {"x": 1}}, 'counts.x: expected a whole number, got "x".'),
        ({"table": {"list": "y"}}, 'table.list: expected a number, got "y".'),
        ({"rate": "x" * 1000}, f'rate: expected a number, got "{"x" * 199}.'),
    ],
)
def test_a_wrong_option_is_named_with_its_path(options, message):
    with pytest.raises(RecipeError) as caught:
        check_options(Example, {"required": 1, **options}, "here")
    assert str(caught.value).startswith(f"here.{message}")


def test_a_missing_option_is_named_unless_another_was_misspelt_for_it():
    with pytest.raises(RecipeError, match=r"^required: this option is required\.$"):
        check_options(Example, {"rate": "x"}, "")
    with pytest.raises(RecipeError, match=r"^reqired: unknown option\. Did you mean 'required'\?$"):
        check_options(Example, {"reqired": 1}, "")


def test_a_class_of_its_own_making_is_checked_by_what_its_constructor_says():
    """As most networks are."""

    class Network:
        def __init__(self, num_classes: int, *, kind: Literal["a", "b"] = "a", deep: bool = False) -> None: ...

    assert check_options(Network, {"num_classes": 2, "kind": "b"}, "model") == {"num_classes": 2, "kind": "b"}
    with pytest.raises(RecipeError, match=r"^model\.deep: expected true or false, got \"false\"\.$"):
        check_options(Network, {"num_classes": 2, "deep": "false"}, "model")


def test_a_factory_that_takes_anything_gets_anything():
    def factory(*, size: int = 1, **options: Any) -> None: ...

    assert check_options(factory, {"other": "x", "size": 2}, "") == {"other": "x", "size": 2}
    with pytest.raises(RecipeError, match=r"^size: expected a whole number"):
        check_options(factory, {"size": "2"}, "")


@pytest.mark.parametrize(("value", "found"), [(float("nan"), "NaN"), ([1, float("inf")], "[1, Infinity]")])
def test_a_number_that_is_not_finite_is_refused_without_an_annotation(value, found):
    def factory(size=1, *, other: Any = 1, **options): ...

    for name in ("size", "other", "more"):
        with pytest.raises(RecipeError) as caught:
            check_options(factory, {name: value}, "here")
        assert str(caught.value) == f"here.{name}: expected a finite number, got {found}."


def test_what_no_keyword_can_give_is_no_option():
    def factory(image, /, size=1): ...

    assert check_options(factory, {"size": 2}, "") == {"size": 2}
    with pytest.raises(RecipeError, match=r"^image: unknown option\. Known: size\.$"):
        check_options(factory, {"image": 2}, "")


@pytest.mark.parametrize(
    "hint", [LossFunction, LossFunction | None, ClassVar[int], Final[int], Annotated[int, Field(gt="x")]]
)
def test_an_annotation_that_pydantic_cannot_read_hurts_only_the_option_that_has_it(hint):
    def factory(*, odd=None, size: int = 1): ...

    factory.__annotations__["odd"] = hint
    assert check_options(factory, {"size": 2}, "") == {"size": 2}
    assert check_options(factory, {"size": 2, "odd": torch.relu}, "") == {"size": 2, "odd": torch.relu}
    for options in ({"odd": 1}, {"size": 2, "odd": 1}):
        with pytest.raises(RecipeError) as caught:
            check_options(factory, options, "here")
        assert str(caught.value) == f"here.odd: its type {hint!r} cannot be given in a recipe."


def test_a_typed_dict_of_the_standard_library_hurts_no_other_option():
    def factory(*, odd: Loose | None = None, size: int = 1): ...

    assert check_options(factory, {"size": 2}, "") == {"size": 2}


@pytest.mark.parametrize("value", [torch.ones(1), nn.ReLU(), Path("x"), [Tensor]])
def test_an_object_handed_over_in_python_passes_through(value):
    assert check_options(Example, {"required": 1, "rate": value}, "")["rate"] is value
    assert check_options(Example, {"required": value}, "") == {"required": value}


def test_the_options_of_a_class_have_a_json_schema():
    class Bounded(Strategy):
        nested: Nested
        rate: Annotated[float, Field(gt=0)] = 1.0

    schema = TypeAdapter(options_type(Bounded)).json_schema()
    assert schema["required"] == ["nested"] and schema["additionalProperties"] is False
    assert schema["properties"]["rate"] == {"exclusiveMinimum": 0, "title": "Rate", "type": "number"}
    assert schema["$defs"]["Nested"]["additionalProperties"] is False
