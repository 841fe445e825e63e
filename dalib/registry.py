"""Names of strategies, models and data sets, and the packages that bring them."""

import importlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal

import pluggy

from dalib.errors import RegistryError, suggest
from dalib.hookspecs import PROJECT, PluginSpecs
from dalib.strategy import Strategy

Kind = Literal["strategy", "model", "dataset"]
Factory = Callable[..., Any]

AUTOLOAD_OFF = "DALIB_DISABLE_PLUGIN_AUTOLOAD"
SAFE = "DALIB_SAFE"
BUNDLED = frozenset({"dalib.models", "dalib.data", "dalib_plugins"})


class Registry:
    """What can be named in a recipe. ``load`` fills it from the installed plugins; tests build their own.

    Args:
        bundled_only: import none but dalib's own modules, whoever asks.
    """

    def __init__(self, *, bundled_only: bool = False) -> None:
        self.bundled_only = bundled_only
        self._entries: dict[tuple[Kind, str], tuple[Factory, str]] = {}  # -> (what, owner)
        self._owner: str | None = None
        self._manager = pluggy.PluginManager(PROJECT)
        self._manager.add_hookspecs(PluginSpecs)
        self.loaded: dict[str, str] = {}  # plugin -> module
        self.broken: dict[str, str] = {}  # plugin -> error

    def strategy(self, name: str, cls: type[Strategy]) -> None:
        """Register a strategy class; ``name`` becomes its default name in stacks."""
        self._add("strategy", name, cls)
        cls.registered_name = name

    def model(self, name: str, factory: Factory) -> None:
        """Register ``factory(num_classes, **options) -> nn.Module``."""
        self._add("model", name, factory)

    def dataset(self, name: str, factory: Factory) -> None:
        """Register ``factory(**options) -> data set``; ``split`` is one of the options."""
        self._add("dataset", name, factory)

    def get(self, kind: Kind, name: str) -> Factory:
        """Return what is registered under a name; RegistryError says what there is, and what failed to import."""
        if (kind, name) not in self._entries:
            broken = "".join(f" Plugin {plugin!r} failed to load: {why}." for plugin, why in self.broken.items())
            raise RegistryError(f"there is no {kind} {name!r}.{suggest(name, self.names(kind))}{broken or _ELSEWHERE}")
        return self._entries[kind, name][0]

    def names(self, kind: Kind) -> list[str]:
        """Return the registered names of a kind, sorted."""
        return sorted(name for k, name in self._entries if k == kind)

    def owner(self, kind: Kind, name: str) -> str:
        """Return the plugin that registered a name."""
        return self._entries[kind, name][1]

    def load(self, plugin: str, module: object) -> None:
        """Let a module with the hook ``dalib_register`` register its names."""
        self._manager.register(module, name=plugin)
        hooks = [i for i in self._manager.hook.dalib_register.get_hookimpls() if i.plugin_name == plugin]
        if not hooks:
            named = getattr(module, "__name__", repr(module))
            raise RegistryError(f"module {named!r} has no function `dalib_register` marked with @dalib.hookimpl.")
        with self._owned_by(plugin):
            hooks[0].function(registry=self)
        self.loaded[plugin] = getattr(module, "__name__", repr(module))

    def load_module(self, name: str) -> None:
        """Add an importable module by name, as ``plugins: [name]`` of a recipe does."""
        if name in self.loaded.values():
            return
        if self.bundled_only and name not in BUNDLED:
            raise RegistryError(
                f"plugin module {name!r} is not one of dalib's own, and --safe ({SAFE}=1) imports no others. Take it "
                "out of `plugins:`, or leave --safe out if you trust the module."
            )
        try:
            self.load(name, importlib.import_module(name))
        except RegistryError:
            raise
        except Exception as error:
            raise RegistryError(f"plugin module {name!r} failed to load: {_told(error)}.") from error

    def load_entry_points(self) -> None:
        """Load every installed plugin in sorted order; one that fails is kept in ``broken`` and stops nobody else."""
        for entry in sorted(entry_points(group=PROJECT), key=lambda e: (e.name, e.value)):
            if self.bundled_only and entry.value not in BUNDLED:
                self.broken[entry.name] = "left out by --safe"
            else:
                self._load_entry_point(entry)

    def _load_entry_point(self, entry: EntryPoint) -> None:
        before = dict(self._entries)
        try:
            self.load(entry.name, entry.load())
        except DuplicateNameError:
            raise
        except Exception as error:
            self._entries = before
            self.broken[entry.name] = _told(error)

    def _add(self, kind: Kind, name: str, what: Factory) -> None:
        owner = self._owner or what.__module__
        if (kind, name) in self._entries:
            raise DuplicateNameError(
                f"{kind} {name!r} is registered twice: by {self.owner(kind, name)!r} and by {owner!r}. "
                "Uninstall one of them, or rename what it registers."
            )
        self._entries[kind, name] = (what, owner)

    @contextmanager
    def _owned_by(self, plugin: str) -> Iterator[None]:
        self._owner = plugin
        try:
            yield
        finally:
            self._owner = None


_ELSEWHERE = (
    " What another package registers is there once that package is installed with pip, or its module named under "
    "`plugins:` of the recipe; `dalib plugins` lists what was found."
)


class DuplicateNameError(RegistryError):
    """Two packages register one name."""


@cache
def default_registry() -> Registry:
    """Return the process's registry: dalib's own models and data sets, and the installed plugins, loaded on first use.

    ``DALIB_DISABLE_PLUGIN_AUTOLOAD=1`` leaves the installed plugins out; ``plugins: [module]`` in a recipe still works.
    ``DALIB_SAFE=1`` leaves out both, except for dalib's own.
    """
    registry = Registry(bundled_only=_is_set(SAFE))
    registry.load_module("dalib.models")
    registry.load_module("dalib.data")
    if not _is_set(AUTOLOAD_OFF):
        registry.load_entry_points()
    return registry


def allow_bundled_only() -> None:
    """Import no plugin but dalib's own from here on, in this process and those it starts."""
    os.environ[SAFE] = "1"
    default_registry.cache_clear()


def _is_set(variable: str) -> bool:
    return os.environ.get(variable, "") not in ("", "0")


def _told(error: Exception) -> str:
    """Return the error on one line, without a full stop."""
    return " ".join(f"{type(error).__name__}: {error}".split()).rstrip(".")
