"""The label map: a YAML file that says what the labels of custom data mean."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from dalib.data.encodings import CHANNELS, ColorMap, IdMap, LabelMap, identity
from dalib.data.palette import distinct_colors
from dalib.errors import DataError, suggest
from dalib.labels import CITYSCAPES_CLASSES, CITYSCAPES_PALETTE, IGNORE, Color
from dalib.yaml import read_yaml

_K = TypeVar("_K")

_CITYSCAPES_COLORS = dict(zip(CITYSCAPES_CLASSES, CITYSCAPES_PALETTE, strict=True))

KEYS = ("bits", "channel", "classes", "colors", "ids", "palette", "unknown")


@dataclass(frozen=True)
class LabelScheme:
    """Classes, their colours, and the map from stored labels to train ids."""

    classes: tuple[str, ...]
    palette: tuple[Color, ...]
    label_map: LabelMap


def read_label_map(file: Path) -> LabelScheme:
    """Read a label map::

        classes: [road, sidewalk, car]      # train ids 0, 1, 2; default: Cityscapes' 19
        palette: [[128, 64, 128], ...]      # a colour per class for pictures; default: that of `colors`, else generated
        ids: {7: road, 8: sidewalk, 0: ignore, 26: 2}    # stored id: class name, train id or `ignore`
        channel: red                        # the id stands in this channel of RGB files
        bits: 16                            # of a stored id; default 8
        unknown: ignore                     # ids or colours not named; default: error

    Labels that are painted, or indexed PNG whose palette is meant, take colours instead of ``ids``::

        colors:
          128,64,128: road
          0,0,0: ignore

    With neither, the files store train ids. The stored id 255 is ignored unless ``ids`` names it.

    Raises:
        RecipeError: the file is no YAML, or a key stands twice.
        DataError: the map is wrong; the message says where.
    """
    return _Parser(str(file), read_yaml(file)).scheme()


def default_palette(classes: tuple[str, ...]) -> tuple[Color, ...]:
    """Return Cityscapes' colours for its class names, and for others generated ones that a person tells apart."""
    return _filled([_CITYSCAPES_COLORS.get(name) for name in classes])


def _filled(colors: Sequence[Color | None]) -> tuple[Color, ...]:
    """Return the colours, each None replaced by one as far as can be from black, white and all others."""
    made = iter(distinct_colors(colors.count(None), [color for color in colors if color]))
    return tuple(color or next(made) for color in colors)


class _Parser:
    """Checks the content of a label map and turns it into a scheme; ``file`` is named in errors."""

    def __init__(self, file: str, content: Any) -> None:
        self.file = file
        if not isinstance(content, dict):
            self.fail("the file", "a mapping such as `ids: {7: road}`", content)
        for key in content:
            if key not in KEYS:
                raise DataError(f"{file}: unknown key {key!r}.{suggest(str(key), KEYS)}")
        if "ids" in content and "colors" in content:
            raise DataError(f"{file}: expected `ids` or `colors`, found both; label files store one or the other.")
        self.content: Mapping[str, Any] = content
        self.classes = tuple(self.names())

    def scheme(self) -> LabelScheme:
        unknown = self.choice("unknown", ("error", "ignore"), "error")
        channel = self.choice("channel", (None, *CHANNELS), None)
        bits = self.choice("bits", (8, 16), 8)
        label_map: LabelMap
        if "colors" in self.content:
            label_map = ColorMap(dict(self.entries("colors", self.color_key)), unknown=unknown)
        elif "ids" in self.content:
            ids = dict(self.entries("ids", lambda key: self.id_key(key, 2**bits - 1)))
            label_map = IdMap(ids, unknown=unknown, channel=channel, bits=bits)
        else:
            label_map = identity(len(self.classes), unknown=unknown, channel=channel, bits=bits)
        return LabelScheme(self.classes, tuple(self.palette()), label_map)

    def names(self) -> Iterator[str]:
        names = self.content.get("classes", list(CITYSCAPES_CLASSES))
        if not isinstance(names, list) or not 1 <= len(names) <= IGNORE:
            self.fail("classes", f"a list of 1 to {IGNORE} names", names)
        for index, name in enumerate(names):
            if not isinstance(name, str) or name == "ignore":
                self.fail(f"classes[{index}]", "a name (text, not `ignore`)", name)
            if name in names[:index]:
                self.fail(f"classes[{index}]", "each class once", name)
            yield name

    def palette(self) -> Iterator[Color]:
        colors = self.content.get("palette")
        if colors is None:
            yield from self.default_palette()
            return
        if not isinstance(colors, list) or len(colors) != len(self.classes):
            self.fail("palette", f"a list of {len(self.classes)} colours, one per class", colors)
        for index, color in enumerate(colors):
            yield self.color(f"palette[{index}]", color)

    def default_palette(self) -> tuple[Color, ...]:
        painted: dict[int, Color] = {}
        if "colors" in self.content:
            for color, train_id in self.entries("colors", self.color_key):
                painted.setdefault(train_id, color)
        return _filled([painted.get(i) or _CITYSCAPES_COLORS.get(name) for i, name in enumerate(self.classes)])

    def entries(self, section: str, key_of: Callable[[Any], _K]) -> Iterator[tuple[_K, int]]:
        entries = self.content[section]
        if not isinstance(entries, dict) or not entries:
            self.fail(section, "a mapping to classes", entries)
        seen: dict[_K, Any] = {}
        for stored, value in entries.items():
            key = key_of(stored)
            if key in seen:
                raise DataError(f"{self.file}: {section}: {seen[key]!r} and {stored!r} are the same; keep one.")
            seen[key] = stored
            yield key, self.train_id(f"{section}[{stored!r}]", value)

    def train_id(self, where: str, value: Any) -> int:
        if value in ("ignore", IGNORE):
            return IGNORE
        if isinstance(value, str):
            if value not in self.classes:
                advice = suggest(value, self.classes)
                if "classes" not in self.content:
                    advice += " These are Cityscapes', as the file has no `classes:`; list your own, `classes: [...]`."
                raise DataError(f"{self.file}: {where}: unknown class {value!r}.{advice}")
            return self.classes.index(value)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < len(self.classes):
            self.fail(where, f"a class name, a train id in 0..{len(self.classes) - 1} or `ignore`", value)
        return value

    def id_key(self, key: Any, largest: int) -> int:
        if not isinstance(key, int) or isinstance(key, bool) or not 0 <= key <= largest:
            self.fail("ids", f"stored ids in 0..{largest} as keys", key)
        return key

    def color_key(self, key: Any) -> Color:
        parts = key.split(",") if isinstance(key, str) else []
        return self.color("colors", [int(p) if p.strip().isdecimal() else p for p in parts] or key)

    def color(self, where: str, value: Any) -> Color:
        whole = isinstance(value, list) and all(isinstance(v, int) and not isinstance(v, bool) for v in value)
        if not whole or len(value) != 3 or not all(0 <= v <= 255 for v in value):
            self.fail(where, "red, green and blue in 0..255", value)
        return value[0], value[1], value[2]

    def choice(self, key: str, choices: tuple[Any, ...], default: Any) -> Any:
        value = self.content.get(key, default)
        if value not in choices or isinstance(value, bool):
            self.fail(key, f"one of {', '.join(str(c) for c in choices if c is not None)}", value)
        return value

    def fail(self, where: str, expected: str, found: Any) -> NoReturn:
        raise DataError(f"{self.file}: {where}: expected {expected}, found {found!s:.80}.")
