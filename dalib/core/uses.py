"""Parsing of a registered name and its options from one command-line argument."""

from typing import Any

from dalib.errors import RecipeError
from dalib.yaml import parse_yaml


def parse_use(text: str) -> dict[str, Any]:
    """Return ``{use: name, **options}`` of the text "NAME key=value ...", whose values are YAML.

    Raises:
        RecipeError: a word after the name is not key=value, a key is given twice, or a value is not YAML.
    """
    name, *pairs = text.split() or [""]
    options: dict[str, Any] = {"use": name}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not (key and equals):
            raise RecipeError(f"{text!r}: expected a name and options as key=value, got {pair!r}.")
        if key in options:
            raise RecipeError(f"{text!r}: {key!r} is given twice; give it once.")
        options[key] = parse_yaml(value, f"{name}.{key}")
    return options
