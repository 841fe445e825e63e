"""A plugin package for dalib: what it registers can be named in any recipe."""

from dalib import Registry, hookimpl
from dalib_example.data import shapes
from dalib_example.model import PixelNet
from dalib_example.strategy import FlipConsistency


@hookimpl
def dalib_register(registry: Registry) -> None:
    """Register a strategy, a model and a data set."""
    registry.strategy("flip_consistency", FlipConsistency)
    registry.model("pixel_net", PixelNet)
    registry.dataset("shapes", shapes)
