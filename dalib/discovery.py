"""Discovery of plugins: installed packages with the entry point ``dalib``, and modules that a recipe names."""

import importlib
import os
from functools import cache
from importlib.metadata import entry_points

from dalib.errors import RegistryError
from dalib.hooks import PROJECT
from dalib.registry import DuplicateNameError, Registry

AUTOLOAD_OFF = "DALIB_DISABLE_PLUGIN_AUTOLOAD"
SAFE = "DALIB_SAFE"
OWN = ("dalib.models", "dalib.data", "dalib.losses", "dalib.core.optim", "dalib.evaluation")
BUNDLED = frozenset({*OWN, "dalib_plugins"})


@cache
def default_registry() -> Registry:
    """Return the process's registry: dalib's own names and those of the installed plugins, loaded on first use.

    ``DALIB_DISABLE_PLUGIN_AUTOLOAD=1`` leaves the installed plugins out; ``plugins: [module]`` in a recipe still works.
    ``DALIB_SAFE=1`` leaves out both, except for dalib's own.
    """
    registry = Registry()
    for module in OWN:
        load_module(registry, module)
    if not _is_set(AUTOLOAD_OFF):
        load_entry_points(registry)
    return registry


def allow_bundled_only() -> None:
    """Import no plugin but dalib's own from here on, in this process and those it starts."""
    os.environ[SAFE] = "1"
    default_registry.cache_clear()


def load_module(registry: Registry, name: str) -> None:
    """Add an importable module by name, as ``plugins: [name]`` of a recipe does."""
    if name in registry.loaded.values():
        return
    if _is_set(SAFE) and name not in BUNDLED:
        raise RegistryError(
            f"plugin module {name!r} is not one of dalib's own, and --safe ({SAFE}=1) imports no others. Take it "
            "out of `plugins:`, or leave --safe out if you trust the module."
        )
    try:
        registry.load(name, importlib.import_module(name))
    except RegistryError:
        raise
    except Exception as error:
        raise RegistryError(f"plugin module {name!r} failed to load: {_one_line(error)}.") from error


def load_entry_points(registry: Registry) -> None:
    """Load every installed plugin in sorted order; one that fails is listed in ``broken`` and does not stop others."""
    for entry in sorted(entry_points(group=PROJECT), key=lambda e: (e.name, e.value)):
        if _is_set(SAFE) and entry.value not in BUNDLED:
            registry.broken[entry.name] = "left out by --safe"
            continue
        try:
            registry.load(entry.name, entry.load())
        except DuplicateNameError:
            raise
        except Exception as error:
            registry.broken[entry.name] = _one_line(error)


def _is_set(variable: str) -> bool:
    return os.environ.get(variable, "") not in ("", "0")


def _one_line(error: Exception) -> str:
    """Return the error on one line, without a full stop."""
    return " ".join(f"{type(error).__name__}: {error}".split()).rstrip(".")
