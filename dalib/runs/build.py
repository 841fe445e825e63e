"""Building of the data sets, the model and the engine that a checked recipe names."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import nn

from dalib.core.context import Purpose
from dalib.core.create import dataset_from, model_from, strategy_from
from dalib.core.engine import Engine
from dalib.core.optim import OPTIMIZERS, SCHEDULES
from dalib.data.dataset import classes_of, same_classes
from dalib.data.joined import Joined
from dalib.data.loader import place_of
from dalib.errors import RecipeError, RegistryError
from dalib.losses import SegmentationLoss
from dalib.randomness import seeded
from dalib.runs.recipe import Options, Recipe

if TYPE_CHECKING:
    import torch

    from dalib.data.dataset import SegmentationDataset


def build_dataset(recipe: Recipe, name: str) -> "SegmentationDataset | None":
    """Return the data set of a stream or ``eval``, those of a list joined; None where the recipe has none."""
    datasets = {path: dataset_from(options, path) for path, options in recipe.data.entries(name).items()}
    if not datasets:
        return None
    dataset: SegmentationDataset = next(iter(datasets.values()))
    if isinstance(recipe.data.of(name), list):
        dataset = Joined(datasets, None if name == "eval" else recipe.data.shares(name))
    scored = getattr(dataset, "for_evaluation", None) if name == "eval" else None
    return scored() if scored else dataset


def forget_files(recipe: Recipe) -> None:
    """Drop weight files and downloads from the model's options, for one that is restored or never runs."""
    replaced = {"weights": None, "backbone_weights": None, "pretrained": False}
    recipe.model.update({key: value for key, value in replaced.items() if recipe.model.get(key)})


def build_model(recipe: Recipe, classes: tuple[str, ...], device: "torch.device") -> nn.Module:
    """Return the model for these classes, its random weights drawn from the recipe's seed."""
    with seeded(device, recipe.train.seed, "model"):
        try:
            return model_from(recipe.model, len(classes), "model")
        except RegistryError as error:  # an unknown backbone, found only when it is created
            raise RegistryError(f"model: {error}") from None


def build_engine(
    recipe: Recipe,
    model: nn.Module,
    classes: tuple[str, ...],
    device: "torch.device",
    purpose: Purpose = "train",
) -> Engine:
    """Return the engine with the recipe's stack, optimiser and schedule."""
    strategies = [strategy_from(options, f"strategies[{i}]") for i, options in enumerate(recipe.strategies)]
    optimizer, optimizer_options = _used(recipe.optimizer)
    schedule = None
    if recipe.schedule is not None:
        used, rest = _used(recipe.schedule)
        schedule = SCHEDULES[used](**{"steps": recipe.train.steps, **rest})
    engine = Engine(
        model,
        strategies,
        optimizer=OPTIMIZERS[optimizer](**optimizer_options),
        schedule=schedule,
        clip=recipe.train.clip,
        device=device,
        precision=recipe.train.precision,
        accumulate=recipe.train.accumulate,
        seed=recipe.train.seed,
        on_non_finite=recipe.train.on_non_finite,
        loss=_loss(recipe.loss, len(classes)),
        classes=classes,
        purpose=purpose,
        steps=recipe.train.steps,
    )
    if recipe.evaluate.model == "teacher":
        engine.network(teacher=True)  # raises here, not after the training
    return engine


def check_classes(datasets: "Mapping[str, SegmentationDataset]") -> tuple[str, ...]:
    """Return the names of the classes of all data sets, by stream or ``eval``; DataError where two sets differ."""
    present = {place_of(name): classes_of(dataset) for name, dataset in datasets.items()}
    same_classes(present)
    return next(iter(present.values()))


def _loss(options: Options | None, num_classes: int) -> SegmentationLoss | None:
    if options is None:
        return None
    weights = options.get("class_weights")
    if weights is not None and len(weights) != num_classes:
        raise RecipeError(f"loss.class_weights: expected {num_classes} values, one per class, got {len(weights)}.")
    return SegmentationLoss(**options)


def _used(options: Options) -> tuple[str, dict[str, Any]]:
    rest = dict(options)
    return rest.pop("use"), rest
