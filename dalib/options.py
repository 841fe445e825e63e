"""Options from a recipe or a keyword call, checked against the annotations of what they configure."""

import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, get_args, get_type_hints

from pydantic import ConfigDict, PydanticSchemaGenerationError, PydanticUserError, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from dalib.errors import RecipeError, suggest

_STRICT = ConfigDict(strict=True, allow_inf_nan=False)
_UNKNOWN = "unexpected_keyword_argument"
_EXPECTED = {
    "float_type": "a number",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "finite_number": "a finite number",
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
    "less_than": "less than {lt:g}",
    "less_than_equal": "at most {le:g}",
    "value_error": "{error}",
}


def check_options(target: Callable[..., Any], options: Mapping[str, Any], path: str) -> dict[str, Any]:
    """Return ``options`` in the types that ``target`` (a class or factory) is annotated with.

    Args:
        path: where the options stand, for messages such as ``strategies[2].beta: expected a number, got [1]``.

    Raises:
        RecipeError: an unknown option, a missing one, or a value of the wrong type.
    """
    parameters = inspect.signature(target).parameters
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    named = {n: p for n, p in parameters.items() if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)}
    for name in options:
        if not isinstance(name, str) or (name not in named and not open_ended):  # YAML's keys may be numbers
            raise RecipeError(f"{_at(path, str(name))}: unknown option.{suggest(str(name), named)}")
    for name, parameter in named.items():
        if parameter.default is parameter.empty and name not in options:
            raise RecipeError(f"{_at(path, name)}: this option is required.")
    hints = get_type_hints(_annotated(target), include_extras=True)  # their bounds
    return {name: _value(hints.get(name, Any), value, _at(path, name)) for name, value in options.items()}


def _annotated(target: Any) -> Any:
    """Return what holds the annotations of the options: a dataclass itself, the constructor of another class."""
    return target.__init__ if isinstance(target, type) and not is_dataclass(target) else target  # type: ignore[misc]


def _value(hint: Any, value: Any, path: str) -> Any:
    """Check one value in pydantic's strict JSON mode: lists make tuples, but no text makes a number, nor true a 1."""
    try:
        text = json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return _unserialisable(value, path)
    try:
        adapter = TypeAdapter(hint, config=_STRICT)
    except PydanticUserError:  # a dataclass or TypedDict brings its own configuration
        adapter = TypeAdapter(hint)
    except PydanticSchemaGenerationError as error:
        raise RecipeError(f"{path}: its type {hint!r} cannot be given in a recipe.") from error
    try:
        return adapter.validate_json(text, strict=True)
    except ValidationError as error:
        raise RecipeError(_message(error, hint, path)) from None


def _unserialisable(value: Any, path: str) -> Any:
    if isinstance(value, float):
        raise RecipeError(f"{path}: expected a finite number, got {value}.")
    return value  # an object handed over in Python, such as a path or a tensor; the factory knows what to do with it


def _message(error: ValidationError, hint: Any, path: str) -> str:
    """Say what was expected in the words of a recipe's author; of a union's errors, the deepest one."""
    details = error.errors(include_url=False)
    deepest = max(len([p for p in d["loc"] if _is_key(p)]) for d in details)
    chosen = [d for d in details if len([p for p in d["loc"] if _is_key(p)]) == deepest]
    first = min(chosen, key=lambda d: d["type"] != _UNKNOWN)  # before what it was misspelt for is missing
    for part in first["loc"]:
        if _is_key(part):
            path = f"{path}[{part}]" if isinstance(part, int) else _at(path, str(part))
    if first["type"] == _UNKNOWN:
        return f"{path}: unknown option.{suggest(str(first['loc'][-1]), _fields(hint, first['loc'][:-1]))}"
    expected = " or ".join(dict.fromkeys(_expected(d) for d in chosen))
    verb = "" if expected.startswith("input should") else "expected "
    return f"{path}: {verb}{expected}, got {json.dumps(first['input'])}."


def _expected(detail: ErrorDetails) -> str:
    if detail["type"] in _EXPECTED:
        return _EXPECTED[detail["type"]].format(**detail.get("ctx", {}))
    return detail["msg"][0].lower() + detail["msg"][1:]


def _fields(hint: Any, loc: tuple[int | str, ...]) -> set[str]:
    """Return what the dataclass that stands at ``loc`` in a value of type ``hint`` is made from."""
    kinds = _dataclasses(hint)
    for part in loc:  # an index, a key of a dict or a member of a union leads to no other dataclass
        hints = [get_type_hints(kind)[part] for kind in kinds if part in get_type_hints(kind)]
        kinds = [inner for hint in hints for inner in _dataclasses(hint)] or kinds
    return {field.name for kind in kinds for field in fields(kind) if field.init}


def _dataclasses(hint: Any) -> list[Any]:
    return [hint] if is_dataclass(hint) else [kind for part in get_args(hint) for kind in _dataclasses(part)]


def _is_key(part: int | str) -> bool:
    """Tell a key of the data from the name that pydantic puts in for a member of a union."""
    return isinstance(part, int) or (
        part.isidentifier() and part not in ("float", "int", "str", "bool", "none", "list", "tuple", "dict")
    )


def _at(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
