"""A plugin as a recipe names it, ``plugins: [tests.tiny_plugin]``: the tiny model, which trains in milliseconds."""

from dalib import Registry, hookimpl
from tests.tiny import TinyModel


@hookimpl
def dalib_register(registry: Registry) -> None:
    """Register the tiny model."""
    registry.model("tiny", TinyModel)
