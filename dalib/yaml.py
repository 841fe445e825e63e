"""Strict and safe YAML for recipes: ``1e-4`` is a number, no key is given twice, and the size is limited."""

import math
import re
from pathlib import Path
from typing import Any

import yaml

from dalib.errors import RecipeError

MAX_SIZE = 100_000  # characters, with aliases expanded; PyYAML takes a second for so many

_CORE = {f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "str", "seq", "map")}
_FLOAT = re.compile(  # underscores as in PyYAML's integers; digits alone are an integer, or text as 09 is
    r"^[-+]?(?![\d_]+$)(\.\d[\d_]*|\d[\d_]*(\.[\d_]*)?)([eE][-+]?\d+)?$|^[-+]?\.(inf|Inf|INF)$|^\.(nan|NaN|NAN)$"
)


class _Loader(yaml.SafeLoader):
    """SafeLoader with JSON's types only, YAML 1.2's floats, unique keys and a copy for each use of an alias.

    PyYAML shares the object of an alias, so a short text could become a value too large to print, check or copy.
    """

    size = 0

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        self.size += 1 + (len(node.value) if isinstance(node, yaml.ScalarNode) else 0)
        if self.size > MAX_SIZE:
            raise RecipeError(f"its aliases unfold to more than {MAX_SIZE:,} characters.")
        value = super().construct_object(node, deep=True)
        del self.constructed_objects[node]  # so that the next use of an alias makes a copy
        if (isinstance(value, int) and abs(value) >= 2**64) or (isinstance(value, float) and not math.isfinite(value)):
            raise _refusal(node, f"expected a finite number of at most 64 bits, got {node.value:.60}")
        return value

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        mapping: dict[Any, Any] = {}
        lines: dict[Any, int] = {}
        for key_node, value_node in node.value:
            key = self.construct_object(key_node)
            if not isinstance(key, str | int):
                raise _refusal(key_node, f"a key must be text, got {key!r:.60}")
            if key == "<<":
                raise _refusal(key_node, "merge keys are not supported; use `base`, or write it out")
            if key in mapping:
                raise _refusal(key_node, f"the key {key!r} stands twice; it stands first on line {lines[key]}")
            lines[key] = key_node.start_mark.line + 1
            mapping[key] = self.construct_object(value_node)
        return mapping


def _refusal(node: yaml.Node, problem: str) -> RecipeError:
    return RecipeError(f"line {node.start_mark.line + 1}: {problem}.")


_Loader.yaml_constructors = {t: make for t, make in yaml.SafeLoader.yaml_constructors.items() if t in {*_CORE, None}}
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag in _CORE and not tag.endswith("float")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))


class _Dumper(yaml.SafeDumper):
    """SafeDumper that quotes strings which the loader would read as numbers."""


_Dumper.yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers


def parse_yaml(text: str, name: str = "the text") -> Any:
    """Return the value of a YAML text, in JSON's types; keys may also be integers.

    Raises:
        RecipeError: it is not YAML, a key is given twice, a number is not finite, or it is too large or too deep.
    """
    if len(text) > MAX_SIZE:
        raise RecipeError(f"{name}: {len(text):,} characters long; a recipe has at most {MAX_SIZE:,}.")
    try:
        return yaml.load(text, _Loader)
    except RecipeError as error:
        raise RecipeError(f"{name}: {error}") from None
    except RecursionError:
        raise RecipeError(f"{name}: lists or mappings are nested too deep.") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f" on line {mark.line + 1}" if mark else ""
        raise RecipeError(f"{name}: not YAML{where}: {error.problem or error.context}.") from None
    except Exception as error:  # PyYAML's constructors fail in many ways on an explicit tag: `!!bool x`
        reason = " ".join(f"{type(error).__name__}: {error}".split()).rstrip(".: ")
        raise RecipeError(f"{name}: not YAML: {reason:.200}.") from None


def read_yaml(path: Path) -> Any:
    """Return the value of a YAML file."""
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(MAX_SIZE + 1)
    except FileNotFoundError:
        raise RecipeError(f"{path} does not exist.") from None
    except UnicodeDecodeError:
        raise RecipeError(f"{path} is not a text in UTF-8; expected a YAML file.") from None
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
        raise RecipeError(f"{path} cannot be read: {getattr(error, 'strerror', error)}.") from None
    return parse_yaml(text, str(path))


def dump_yaml(value: Any, *, inline: bool = False) -> str:
    """Return a value as YAML in the order of its keys; with ``inline`` on one line."""
    width, flow = (float("inf"), True) if inline else (120, False)
    return str(
        yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=width, default_flow_style=flow)
    )
