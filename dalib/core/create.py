"""Creation of models, data sets, strategies and what trains them by their registered names."""

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from dalib.core.modules import MakeOptimizer
from dalib.core.optim import ParameterGroups, Schedule
from dalib.core.strategy import Strategy
from dalib.discovery import default_registry
from dalib.errors import DalibError, RecipeError, RegistryError
from dalib.evaluation.validators import NEEDS, Validator
from dalib.losses import SegmentationLossFunction
from dalib.options import check_options
from dalib.registry import Factory, Kind

if TYPE_CHECKING:
    from dalib.data.dataset import SegmentationDataset

Options = Mapping[str, Any]


def create_model(
    name: str = "",
    num_classes: int = 19,
    *,
    weights: str | Path | None = None,
    freeze: Sequence[str] = (),
    **options: Any,
) -> nn.Module:
    """Create a model that maps images (B, 3, H, W) in [0, 1] to logits (B, K, H, W) of the input's size.

    Args:
        name: a registered model, see ``list_models``; ``create_model(**options)`` takes it from ``use``, as a recipe.
        weights: a file of weights, a checkpoint or a run folder to start from; of another number of classes, the rest
            of the network starts from it.
        freeze: paths of modules that do not train, see ``dalib.models.freeze``.
        options: those of the model's factory.

    Raises:
        RegistryError: no model has that name.
        RecipeError: an option is unknown or has a wrong value.
        WeightsError: the file of weights does not fit.
    """
    name = name or options.pop("use", "")
    frozen = list(freeze) if isinstance(freeze, tuple) else freeze
    return model_from({"use": name, "weights": weights, "freeze": frozen, **options}, num_classes, name or "model")


def create_dataset(name: str, **options: Any) -> "SegmentationDataset":
    """Create a data set; items are (image uint8 (3, H, W), label uint8 (H, W))."""
    return dataset_from({"use": name, **options}, name)


def create_strategy(use: str, /, **options: Any) -> Strategy:
    """Create a strategy; ``name=`` in the options is its name in the stack, by default the registered one."""
    return strategy_from({"use": use, **options}, use)


def model_from(options: Options, num_classes: int, path: str) -> nn.Module:
    """Create the model of ``{use: name, **options}``; ``path`` is their place in the recipe, for messages."""
    from dalib.models import freeze, load_weights, wrap_model

    if num_classes < 1:
        raise RecipeError(f"{path}.num_classes: expected at least 1, got {num_classes}.")
    factory, rest = _factory("model", options)
    weights, frozen = rest.get("weights"), rest.get("freeze") or ()
    checked = check_options(factory, {**_check_model(rest, path), "num_classes": num_classes}, path)
    model = wrap_model(factory(**checked), num_classes)
    if weights is not None:
        load_weights(model, weights, to_train=True)
    freeze(model.network, frozen)
    return model


def dataset_from(options: Options, path: str) -> "SegmentationDataset":
    """Create the data set of ``{use: name, **options}``."""
    factory, rest = _factory("dataset", options)
    dataset: SegmentationDataset = factory(**check_options(factory, rest, path))
    return dataset


def strategy_from(options: Options, path: str) -> Strategy:
    """Create the strategy of ``{use: name, **options}``."""
    cls, rest = _factory("strategy", options)
    checked = check_options(cls, rest, path)
    try:
        strategy: Strategy = cls(**{"name": options["use"], **checked})
    except DalibError:
        raise
    except Exception as error:  # from the class's own __post_init__
        raise RecipeError(f"{path}: {error}") from error
    return strategy


def loss_from(options: Options, path: str) -> SegmentationLossFunction:
    """Create the segmentation loss of ``{use: name, **options}``; without ``use`` it is ``cross_entropy``."""
    loss: SegmentationLossFunction = _checked("loss", {"use": "cross_entropy", **options}, path)
    taken = inspect.signature(loss).parameters
    if "across" not in taken and all(p.kind is not p.VAR_KEYWORD for p in taken.values()):
        raise RecipeError(
            f"{path}: the loss must be a function (outputs, label, weight=None, *, across); it takes "
            f"{', '.join(taken)}."
        )
    return loss


def optimizer_from(options: Options, path: str) -> tuple[MakeOptimizer, ParameterGroups]:
    """Create the factory of optimisers of ``{use: name, **options}``, and the groups that it is to be given."""
    of_groups = {name: options[name] for name in ParameterGroups.__annotations__ if name in options}
    rest = {name: value for name, value in options.items() if name not in of_groups}
    return _checked("optimizer", rest, path), ParameterGroups(**check_options(ParameterGroups, of_groups, path))


def schedule_from(options: Options, steps: int, path: str) -> Schedule:
    """Create the learning-rate schedule of ``{use: name, **options}`` over so many steps."""
    schedule: Schedule = _checked("schedule", {"steps": steps, **options}, path)
    return schedule


def validator_from(options: Options, path: str) -> Validator:
    """Create the validator of ``{use: name, **options}``."""
    validator: Validator = _checked("validator", options, path)
    if unknown := sorted(validator.needs - frozenset(NEEDS)):
        raise RecipeError(f"{path}: the validator needs {unknown[0]!r}; expected any of {', '.join(NEEDS)}.")
    return validator


def _checked(kind: Kind, options: Options, path: str) -> Any:
    check_use(kind, options, path)
    factory, rest = _factory(kind, options)
    return factory(**check_options(factory, rest, path))


def _factory(kind: Kind, options: Options) -> tuple[Factory, dict[str, Any]]:
    rest = dict(options)
    return default_registry().get(kind, rest.pop("use")), rest


def check_use(kind: Kind, options: Options, path: str) -> None:
    """Check ``{use: name, **options}`` of a recipe without creating anything."""
    name = options.get("use")
    if not isinstance(name, str):
        article = "an" if kind == "optimizer" else "a"
        raise RecipeError(f"{path}.use: expected the name of {article} {kind}, got {name!r}.")
    try:
        factory = default_registry().get(kind, name)
    except RegistryError as error:
        raise RegistryError(f"{path}.use: {error}") from None
    rest = {key: value for key, value in options.items() if key != "use"}
    if kind == "model":
        rest = _check_model(rest, path)
    check_options(factory, rest, path)


def _check_model(options: dict[str, Any], path: str) -> dict[str, Any]:
    """Check the options that all models have, and return those of the factory."""
    weights = options.pop("weights", None)
    if not isinstance(weights, str | Path | None):
        raise RecipeError(f"{path}.weights: expected a path or null, got {weights!r}.")
    frozen = options.pop("freeze", None)
    if frozen is not None and not (isinstance(frozen, list) and all(isinstance(name, str) for name in frozen)):
        raise RecipeError(f"{path}.freeze: expected a list of modules' paths, such as [backbone], got {frozen!r:.60}.")
    if "num_classes" in options:
        raise RecipeError(f"{path}.num_classes: the data sets give the number of classes; drop it.")
    return {"num_classes": 1, **options}


def list_models() -> list[str]:
    """Return the names of the registered models."""
    return default_registry().names("model")


def list_datasets() -> list[str]:
    """Return the names of the registered data sets."""
    return default_registry().names("dataset")


def list_strategies() -> list[str]:
    """Return the names of the registered strategies."""
    return default_registry().names("strategy")
