"""The bundled strategies, registered through the same entry-point group as anybody's plugin."""

from dalib import Registry, hookimpl
from dalib_plugins.adversarial import Adversarial
from dalib_plugins.augment import Augment
from dalib_plugins.crf import Crf
from dalib_plugins.dacs import Dacs
from dalib_plugins.fda import Fda
from dalib_plugins.masked_consistency import MaskedConsistency
from dalib_plugins.minent import MinEnt
from dalib_plugins.supervised import Supervised


@hookimpl
def dalib_register(registry: Registry) -> None:
    """Register the bundled strategies."""
    registry.strategy("adversarial", Adversarial)
    registry.strategy("augment", Augment)
    registry.strategy("crf", Crf)
    registry.strategy("dacs", Dacs)
    registry.strategy("fda", Fda)
    registry.strategy("masked_consistency", MaskedConsistency)
    registry.strategy("minent", MinEnt)
    registry.strategy("supervised", Supervised)
