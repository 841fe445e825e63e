"""Options from a recipe or a keyword call, checked by pydantic against the annotations of what they configure."""

import inspect
import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, is_dataclass
from functools import cache
from typing import (
    Annotated,
    Any,
    ClassVar,
    Literal,
    Required,
    dataclass_transform,
    get_args,
    get_type_hints,
)

from pydantic import ConfigDict, Field, PydanticUserError, TypeAdapter, ValidationError, with_config
from pydantic_core import ErrorDetails, SchemaError
from typing_extensions import TypedDict, is_typeddict  # pydantic requires this one before Python 3.12

from dalib.errors import RecipeError, suggest

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Whole = Annotated[int, Field(ge=0)]
Probability = Annotated[float, Field(ge=0, le=1)]
Momentum = Annotated[float, Field(ge=0, lt=1)]

_STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, arbitrary_types_allowed=True)
_UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")
_EXPECTED = {  # where pydantic's wording would puzzle a recipe's author
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",  # this and the next two: keys of a dict, strings in JSON
    "float_parsing": "a number",
    "bool_parsing": "true or false",
    "string_type": "text",
    "bool_type": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "dataclass_type": "a mapping",
    "none_required": "null",
    "missing": "a value",
    "too_long": "fewer values",
    "too_short": "more values",
    "greater_than": "more than {gt:g}",
    "greater_than_equal": "at least {ge:g}",
    "less_than_equal": "at most {le:g}",
    "value_error": "{error}",
    "needs_python_object": "an object, which no recipe can give",
}


@dataclass_transform(kw_only_default=True)
class OptionGroup:
    """Options grouped in one mapping, such as a strategy's ``blur: {kernel: 3, sigma: [0.2, 0.8]}``.

    Every subclass becomes a keyword-only dataclass; a recipe that misspells one of its fields is refused.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        dataclass(kw_only=True)(cls)


def check_options(target: Callable[..., Any], options: Mapping[str, Any], path: str) -> dict[str, Any]:
    """Return ``options`` converted to the types that ``target`` (a class or factory) is annotated with.

    Pydantic reads them as JSON in strict mode: a list becomes a tuple, but no string a number, nor true a 1. Values
    that JSON lacks, such as a path or a tensor, can only come from Python, and are not checked.

    Args:
        path: the options' place in the recipe, for messages such as ``strategies[2].beta: expected a number, got [1]``.

    Raises:
        RecipeError: an unknown option, a missing one, or a value of the wrong type or out of its range.
    """
    objects = {str(name): value for name, value in options.items() if not _is_data(value)}
    data = {str(name): value for name, value in options.items() if str(name) not in objects}
    kind, adapter = _adapter(target, frozenset(data), path)
    text = json.dumps(data | dict.fromkeys(objects))
    try:
        checked = adapter.validate_json(text, strict=True)  # strict again: a BaseModel has its own config
    except ValidationError as error:
        raise RecipeError(_message(error.errors(include_url=False), kind, text, path)) from None
    for name, value in data.items():
        if not _is_data(value, allow_nan=False):  # where the annotation is Any or missing
            raise RecipeError(f"{_joined(path, (name,))}: expected a finite number, got {json.dumps(value):.200}.")
    return {**checked, **objects}


def options_type(target: Callable[..., Any], anything: Collection[str] = ()) -> Any:
    """Return the TypedDict of the keyword arguments of ``target``, for validation or for a JSON schema.

    Args:
        anything: parameters to treat as annotated with Any.
    """
    annotated: Any = target.__init__ if isinstance(target, type) and not is_dataclass(target) else target  # type: ignore[misc]
    hints = get_type_hints(annotated, include_extras=True) | dict.fromkeys(anything, Any)
    named: dict[str, Any] = {}
    extra: Literal["allow", "forbid"] = "forbid"
    for name, parameter in inspect.signature(target).parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            extra = "allow"
        elif parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            hint = hints.get(name, Any)
            named[name] = Required[hint] if parameter.default is parameter.empty else hint
    return with_config({**_STRICT, "extra": extra})(TypedDict("Options", named, total=False))  # type: ignore[operator]


@cache
def _adapter(target: Callable[..., Any], given: frozenset[str], path: str) -> tuple[Any, TypeAdapter[dict[str, Any]]]:
    """Return the options' TypedDict and its validator; an unsupported annotation fails only if its option is given."""
    parameters = inspect.signature(target).parameters
    try:
        kind = options_type(target, parameters.keys() - given)
        return kind, TypeAdapter(kind)
    except (PydanticUserError, SchemaError, TypeError) as error:
        for name in given if len(given) > 1 else ():
            _adapter(target, frozenset([name]), path)
        (name,) = given
        hint = parameters[name].annotation
        raise RecipeError(f"{_joined(path, (name,))}: its type {hint!r} cannot be given in a recipe.") from error


def _is_data(value: Any, *, allow_nan: bool = True) -> bool:
    try:
        json.dumps(value, allow_nan=allow_nan)
    except (TypeError, ValueError):
        return False
    return True


def _message(details: list[ErrorDetails], kind: Any, text: str, path: str) -> str:
    """Return one message for a recipe's author; of a union's errors it reports the deepest ones."""
    if details[0]["type"] == "json_invalid":  # nested too deep, or a string with a lone surrogate
        return f"{path or 'the recipe'}: not a value in JSON: {details[0]['ctx']['error']}."
    value = json.loads(text)
    found = [(_keys(detail, value), detail) for detail in details]
    for keys, detail in found:  # first, since a misspelt option is also a missing one
        if detail["type"] in _UNKNOWN:
            return f"{_joined(path, keys)}: unknown option.{suggest(str(keys[-1]), _names(kind, keys))}"
    deepest = max((keys for keys, detail in found if detail["loc"][:1] == details[0]["loc"][:1]), key=len)
    chosen = [detail for keys, detail in found if keys == deepest]
    if chosen[0]["type"] == "missing" and isinstance(deepest[-1], str):
        return f"{_joined(path, deepest)}: this option is required."
    kinds = list(dict.fromkeys(_expected(detail) for detail in chosen))
    if len(kinds) > 1 and chosen[0]["type"].startswith(("greater", "less")):
        kinds[0] = f"a number of {kinds[0]},"
    expected = " or ".join(kinds)
    return f"{_joined(path, deepest)}: expected {expected}, got {json.dumps(chosen[0]['input']):.200}."


def _expected(detail: ErrorDetails) -> str:
    if detail["type"] in _EXPECTED:
        return _EXPECTED[detail["type"]].format(**detail.get("ctx", {}))
    return detail["msg"].removeprefix("Input should be ").replace("a valid ", "a ")


def _keys(detail: ErrorDetails, value: Any) -> tuple[int | str, ...]:
    """Return the keys and indices that lead to an error, without the names of a union's members between them."""
    keys: list[int | str] = []
    for part in detail["loc"]:
        try:
            value = value[part]
        except (KeyError, IndexError, TypeError):
            if detail["type"] != "missing" or part != detail["loc"][-1]:
                continue
        keys.append(part)
    return tuple(keys)


def _names(kind: Any, keys: tuple[int | str, ...]) -> list[str]:
    """Return the names of the options in the group that the last of ``keys`` belongs to."""
    kinds = [kind]
    for key in keys[:-1]:  # an index or a dict's key stays in the same group
        hints = [get_type_hints(kind, include_extras=True).get(str(key)) for kind in kinds]
        kinds = [group for hint in hints for group in _groups(hint)] or kinds
    return [name for kind in kinds for name in getattr(kind, "__dataclass_fields__", kind.__annotations__)]


def _groups(hint: Any) -> list[Any]:
    return (
        [hint]
        if is_dataclass(hint) or is_typeddict(hint)
        else [group for part in get_args(hint) for group in _groups(part)]
    )


def _joined(path: str, keys: tuple[int | str, ...]) -> str:
    for key in keys:
        path += f"[{key}]" if isinstance(key, int) else f".{key}"
    return path.removeprefix(".")
