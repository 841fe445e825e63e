"""Building of the data sets, the model and the engine that a checked recipe names."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from torch import nn

from dalib.core.context import Purpose
from dalib.core.create import dataset_from, loss_from, model_from, optimizer_from, schedule_from, strategy_from
from dalib.core.engine import Engine
from dalib.data.dataset import classes_of, same_classes
from dalib.data.joined import Joined
from dalib.data.loader import place_of
from dalib.discovery import default_registry
from dalib.errors import DalibError, RecipeError, RegistryError
from dalib.losses import SegmentationLoss, SegmentationLossFunction
from dalib.models.wrapper import network_of
from dalib.randomness import seeded
from dalib.runs.recipe import Options, Recipe, apply_override, make_recipe
from dalib.yaml import parse_yaml

if TYPE_CHECKING:
    import torch

    from dalib.data.dataset import SegmentationDataset


EVALUATED = ("data", "evaluate", "strategies", "plugins")  # sections that an evaluation may change


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


def overridden(recipe: Recipe, overrides: Sequence[str]) -> Recipe:
    """Return a trained recipe with ``dotted.key=value`` changes of what an evaluation may change.

    Raises:
        RecipeError: a change of another section, which says what was trained.
    """
    for override in overrides:
        section = override.partition("=")[0].partition(".")[0]
        if section not in EVALUATED:
            raise RecipeError(
                f"override {override!r}: an evaluation may change {', '.join(EVALUATED)}; {section} says how the run "
                "was trained. Train a new run with it, or drop it."
            )
    value = parse_yaml(recipe.to_yaml())
    value["data"]["eval"] = recipe.data.of("eval")
    for override in overrides:
        apply_override(value, override)
    return make_recipe(value)


def forget_files(recipe: Recipe, *, scored: bool) -> None:
    """Drop weight files and downloads from the options of models, for a run that is restored or never trains.

    Models within the options of another model or of a strategy, ``{use: name, ...}``, forget theirs, too. But where a
    run is ``scored``, those of strategies around predictions stay: what these use need not be in the checkpoint.
    """
    recipe.model = _forgetful(recipe.model)
    for options in recipe.strategies:
        if not (scored and hasattr(default_registry().get("strategy", options["use"]), "predictor")):
            options |= {key: _forgetful(value) for key, value in options.items()}


def _forgetful(value: Any) -> Any:
    if isinstance(value, list):
        return [_forgetful(entry) for entry in value]
    if not isinstance(value, dict):
        return value
    replaced = {"weights": None, "backbone_weights": None, "pretrained": False}
    forgotten = {key: other for key, other in replaced.items() if "use" in value and value.get(key)}
    return {key: _forgetful(entry) for key, entry in value.items()} | forgotten


def build_model(recipe: Recipe, classes: tuple[str, ...], device: "torch.device") -> nn.Module:
    """Return the model for these classes, its random weights drawn from the recipe's seed."""
    with seeded(device, recipe.train.seed, "model"):
        try:
            return model_from(recipe.model, len(classes), "model")
        except RegistryError as error:  # an unknown backbone, found only when it is created
            raise RegistryError(f"model: {error}") from None


def compiled(model: nn.Module, device: "torch.device") -> nn.Module:
    """Return the model compiled by ``torch.compile``; DalibError where it does not work on this machine."""
    import torch

    try:
        torch.compile(torch.square)(torch.ones(8, device=device))  # in a second, instead of within a step
    except Exception as error:  # a missing compiler and a broken one raise different kinds
        raise DalibError(
            "train.compile needs what torch.compile needs, on a CPU a C++ compiler, and that failed: "
            f"{str(error).strip().partition(chr(10))[0]} Install one (Debian's package is g++), or leave it out."
        ) from error
    return cast(nn.Module, torch.compile(model))


def build_engine(
    recipe: Recipe,
    model: nn.Module,
    classes: tuple[str, ...],
    device: "torch.device",
    purpose: Purpose = "train",
) -> Engine:
    """Return the engine with the recipe's stack, optimiser and schedule."""
    strategies = [strategy_from(options, f"strategies[{i}]") for i, options in enumerate(recipe.strategies)]
    make, groups = optimizer_from(recipe.optimizer, "optimizer")
    schedule = None if recipe.schedule is None else schedule_from(recipe.schedule, recipe.train.steps, "schedule")
    engine = Engine(
        model,
        strategies,
        optimizer=lambda parameters: make(groups.split(parameters, network_of(model))),
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


def _loss(options: Options | None, num_classes: int) -> SegmentationLossFunction | None:
    loss = None if options is None else loss_from(options, "loss")
    weights = loss.class_weights if isinstance(loss, SegmentationLoss) else None
    if weights is not None and len(weights) != num_classes:
        raise RecipeError(f"loss.class_weights: expected {num_classes} values, one per class, got {len(weights)}.")
    return loss
