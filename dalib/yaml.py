"""YAML as recipes need it: ``1e-4`` is a number, a key stands once, and the text cannot hurt."""

import re
from pathlib import Path
from typing import Any

import yaml

from dalib.errors import RecipeError

MAX_BYTES = 1_000_000
MAX_DEPTH = 50
MAX_NODES = 100_000
MAX_BITS = 64


class _Loader(yaml.SafeLoader):
    """SafeLoader with YAML 1.2's floats, no duplicate keys and bounds on depth and on what aliases unfold to."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: dict[Any, int] = {}
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            line = key_node.start_mark.line + 1
            if not isinstance(key, str | int):
                raise RecipeError(f"line {line}: a key must be text, got {key!r}.")
            if key in seen:
                raise RecipeError(f"line {line}: the key {key!r} stands twice; it stands first on line {seen[key]}.")
            seen[key] = line
        return super().construct_mapping(node, deep=True)

    def construct_whole_number(self, node: yaml.ScalarNode) -> int:
        """Refuse numbers that nothing needs: Python cannot even print a long hexadecimal one in a message."""
        number = int(super().construct_yaml_int(node))
        if number.bit_length() > MAX_BITS:
            raise RecipeError(f"line {node.start_mark.line + 1}: a whole number has at most {MAX_BITS} bits.")
        return number


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_whole_number)
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:float"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^[-+]?(?:\d[\d_]*\.[\d_]*(?:[eE][-+]?\d+)?|\.\d[\d_]*(?:[eE][-+]?\d+)?|\d[\d_]*[eE][-+]?\d+|\.(?:inf|nan|Inf|NaN|INF|NAN))$"
    ),
    list("-+0123456789."),
)


class _Dumper(yaml.SafeDumper):
    """SafeDumper that quotes the texts which the loader would take for numbers."""


_Dumper.yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers


def parse_yaml(text: str, name: str = "the text") -> Any:
    """Return the value of a YAML text.

    Raises:
        RecipeError: it is no YAML, a key stands twice, or it is too large, too deep or unfolds to too much.
    """
    if len(text) > MAX_BYTES:
        raise RecipeError(f"{name}: {len(text):,} characters long; a recipe has at most {MAX_BYTES:,}.")
    try:
        _check_events(text, name)
        loader = _Loader(text)
        node = loader.get_single_node()
        _count(node, name)
        return None if node is None else loader.construct_document(node)
    except RecipeError as error:
        raise RecipeError(str(error) if str(error).startswith(name) else f"{name}: {error}") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f" on line {mark.line + 1}" if mark else ""
        raise RecipeError(f"{name}: not YAML{where}: {error.problem or error.context}.") from None
    except Exception as error:  # the parser's constructors fail in many ways on what a tag forces on them: `!!bool x`
        reason = " ".join(f"{type(error).__name__}: {error}".split()).rstrip(".: ")
        raise RecipeError(f"{name}: not YAML: {reason:.200}.") from None


def read_yaml(path: Path) -> Any:
    """Return the value of a YAML file."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise RecipeError(f"{path}: {path.stat().st_size:,} bytes long; a recipe has at most {MAX_BYTES:,}.")
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise RecipeError(f"{path} does not exist.") from None
    except UnicodeDecodeError:
        raise RecipeError(f"{path} is not a text in UTF-8; expected a YAML file.") from None
    except OSError as error:
        raise RecipeError(f"{path} cannot be read: {error.strerror}.") from None
    return parse_yaml(text, str(path))


def dump_yaml(value: Any, *, inline: bool = False) -> str:
    """Return a value as YAML in the order of its keys; ``inline`` in braces, on one line."""
    width, flow = (float("inf"), True) if inline else (120, False)
    return str(
        yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=width, default_flow_style=flow)
    )


def _check_events(text: str, name: str) -> None:
    """Walk the events before anything recursive sees the text, or anything slow."""
    depth, line, nodes = 0, 0, 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if event.start_mark:
            line = event.start_mark.line + 1
        if depth > MAX_DEPTH:
            raise RecipeError(f"{name}: nested deeper than {MAX_DEPTH} levels on line {line}.")
        nodes += isinstance(event, yaml.NodeEvent)
        if nodes > MAX_NODES:
            raise RecipeError(f"{name}: more than {MAX_NODES:,} values.")


def _count(node: yaml.Node | None, name: str) -> None:
    """Refuse aliases that unfold to more than MAX_NODES values, counting each use."""
    sizes: dict[int, int] = {}

    def size(node: yaml.Node) -> int:
        if id(node) not in sizes:
            sizes[id(node)] = MAX_NODES  # an alias to its own ancestor
            children = [n for pair in node.value for n in pair] if isinstance(node, yaml.MappingNode) else []
            children = node.value if isinstance(node, yaml.SequenceNode) else children
            sizes[id(node)] = 1 + sum(size(child) for child in children)
        return sizes[id(node)]

    if node is not None and size(node) > MAX_NODES:
        raise RecipeError(f"{name}: its aliases unfold to more than {MAX_NODES:,} values.")
