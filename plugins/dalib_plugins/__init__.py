"""The bundled strategies, registered through the same entry-point group as anybody's plugin."""

from dalib import Registry, hookimpl
from dalib_plugins.adversarial import Adversarial
from dalib_plugins.augment import Augment
from dalib_plugins.bn_adapt import BnAdapt
from dalib_plugins.crf import Crf
from dalib_plugins.dacs import Dacs
from dalib_plugins.distill import Distill
from dalib_plugins.fda import Fda
from dalib_plugins.feature_distance import FeatureDistance
from dalib_plugins.masked_consistency import MaskedConsistency
from dalib_plugins.minent import MinEnt
from dalib_plugins.rare_class_sampling import RareClassSampling
from dalib_plugins.supervised import Supervised
from dalib_plugins.tent import Tent


@hookimpl
def dalib_register(registry: Registry) -> None:
    """Register the bundled strategies."""
    registry.strategy("adversarial", Adversarial)
    registry.strategy("augment", Augment)
    registry.strategy("bn_adapt", BnAdapt)
    registry.strategy("crf", Crf)
    registry.strategy("dacs", Dacs)
    registry.strategy("distill", Distill)
    registry.strategy("fda", Fda)
    registry.strategy("feature_distance", FeatureDistance)
    registry.strategy("masked_consistency", MaskedConsistency)
    registry.strategy("minent", MinEnt)
    registry.strategy("rare_class_sampling", RareClassSampling)
    registry.strategy("supervised", Supervised)
    registry.strategy("tent", Tent)
