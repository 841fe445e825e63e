"""Methods of the field as a plugin package, in a third party's form: it imports public names of ``dalib`` alone."""

from dalib import Registry, hookimpl
from tests.methods_plugin.cycada import Cycada
from tests.methods_plugin.feature_distance import FeatureDistance
from tests.methods_plugin.masked import MaskedConsistency
from tests.methods_plugin.prototypes import Prototypes
from tests.methods_plugin.two_scales import TwoScales
from tests.methods_plugin.vat import Vat


@hookimpl
def dalib_register(registry: Registry) -> None:
    """Register five strategies and a network."""
    registry.strategy("field_cycada", Cycada)
    registry.strategy("field_feature_distance", FeatureDistance)
    registry.strategy("field_masked", MaskedConsistency)
    registry.strategy("field_prototypes", Prototypes)
    registry.strategy("field_vat", Vat)
    registry.model("field_two_scales", TwoScales)
