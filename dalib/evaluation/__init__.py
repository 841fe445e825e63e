"""Scores, predictions and pictures."""

from typing import TYPE_CHECKING

from dalib.hooks import hookimpl

if TYPE_CHECKING:
    from dalib.registry import Registry


@hookimpl
def dalib_register(registry: "Registry") -> None:
    """Register the bundled validators."""
    from dalib.evaluation import validators

    registry.validator("agreement", validators.Agreement)
    registry.validator("ensv", validators.EnsV)
    registry.validator("ensv_miou", validators.EnsVByIoU)
    registry.validator("entropy", validators.Entropy)
    registry.validator("infomax", validators.InformationMaximisation)
    registry.validator("snd", validators.SoftNeighbourhoodDensity)
    registry.validator("source", validators.Source)
