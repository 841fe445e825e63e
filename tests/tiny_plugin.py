"""A plugin as a recipe names it, ``plugins: [tests.tiny_plugin]``: the tiny model, trained in an instant, and data."""

from dalib import Registry, hookimpl
from tests.tiny import TinyData, TinyModel


@hookimpl
def dalib_register(registry: Registry) -> None:
    """Register both as ``tiny``."""
    registry.model("tiny", TinyModel)
    registry.dataset("tiny", TinyData)
