"""Building of the data sets, the model and the engine that a checked recipe names."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any, cast, get_args

import torch
from torch import nn

from dalib.core.context import Purpose
from dalib.core.create import dataset_from, loss_from, model_from, optimizer_from, schedule_from, strategy_from
from dalib.core.engine import Engine
from dalib.data.dataset import checked_item, classes_of, label_pixels, labelled, same_classes, spread
from dalib.data.joined import Joined
from dalib.data.loader import place_of
from dalib.discovery import default_registry
from dalib.errors import DalibError, DataError, RecipeError, RegistryError
from dalib.files import find_checkpoint, load_tensors
from dalib.labels import IGNORE
from dalib.losses import SegmentationLoss, SegmentationLossFunction
from dalib.models.wrapper import network_of
from dalib.options import options_type
from dalib.randomness import seeded
from dalib.runs.recipe import Options, Recipe, apply_override, make_recipe
from dalib.yaml import parse_yaml

if TYPE_CHECKING:
    from dalib.data.dataset import SegmentationDataset


EVALUATED = ("data", "evaluate", "strategies", "plugins")  # sections that an evaluation may change


def build_dataset(recipe: Recipe, name: str) -> "SegmentationDataset | None":
    """Return the data set of a stream or ``eval``, those of a list joined; None where the recipe has none."""
    datasets = {path: open_dataset(name, options, path) for path, options in recipe.data.entries(name).items()}
    if not datasets:
        return None
    dataset: SegmentationDataset = next(iter(datasets.values()))
    if isinstance(recipe.data.of(name), list):
        dataset = Joined(datasets, None if name == "eval" else recipe.data.shares(name))
    scored = getattr(dataset, "for_evaluation", None) if name == "eval" else None
    return scored() if scored else dataset


def build_pictures(recipe: Recipe) -> "SegmentationDataset":
    """Return the images that a run is evaluated on, without their labels as far as its reader can leave these out.

    They are the target's own where ``data.eval`` is left out and the target has no split val.
    """
    own_eval = recipe.data.eval is not None or recipe.data.target is None
    try:
        entries = recipe.data.entries("eval").items()
        datasets = {path: open_dataset("target", options, path) for path, options in entries}
    except DataError:
        target = None if own_eval else build_dataset(recipe, "target")
        if target is None:
            raise
        return target
    return Joined(datasets, None) if len(datasets) > 1 else next(iter(datasets.values()))


def open_dataset(name: str, options: Options, path: str) -> "SegmentationDataset":
    """Return one data set of a stream or ``eval``; of the target the images alone, if its reader has ``labels: null``.

    Training never reads the target's labels, so they need neither be complete nor fit.
    """
    hint = options_type(default_registry().get("dataset", options["use"])).__annotations__.get("labels")
    if name == "target" and NoneType in get_args(hint):
        options = options | {"labels": None}
    return dataset_from(options, path)


def build_eval(recipe: Recipe, classes: tuple[str, ...] | None = None) -> "tuple[SegmentationDataset, str]":
    """Return the data set to evaluate on, and why it has no labels, "" where it has.

    Where ``data.eval`` is left out and the target's ``split: val`` has no labels, none that can be read or none of the
    ``classes`` that are trained, the target is evaluated on its own images.

    Raises:
        DataError: the recipe's own ``data.eval`` cannot be read, or its labels are not of the encoding that is read.
    """
    missing = "there is no label in {}; name labelled images in data.eval for a mIoU"
    if recipe.data.eval is not None or recipe.data.target is None:
        dataset = build_dataset(recipe, "eval")
        assert dataset is not None
        label_pixels(dataset)
        named = "data.source with split val" if recipe.data.eval is None else "data.eval"
        return dataset, "" if labelled(dataset) else missing.format(named)
    try:
        dataset = build_dataset(recipe, "eval")
        assert dataset is not None
        if not _has_labels(dataset):
            return dataset, missing.format("data.target with split val")
        same_classes({"the training": classes or classes_of(dataset), "it": classes_of(dataset)})
        return dataset, ""
    except DataError as error:
        target = build_dataset(recipe, "target")
        assert target is not None
        given = recipe.data.entries("target").items()
        with suppress(DataError):  # labels that cannot be read
            if not any(labelled(dataset_from(options, path)) for path, options in given):
                return target, missing.format("data.target")
        return target, f"data.target has no labelled split val ({error}); name labelled images in data.eval for a mIoU"


def _has_labels(dataset: "SegmentationDataset") -> bool:
    """Return whether any of 32 items has a labelled pixel.

    Raises:
        DataError: an item before it cannot be read, or the labels looked at are not of the encoding that is read.
    """
    label_pixels(dataset)
    labels = (checked_item(dataset, index, scored=True).label for index in spread(len(dataset), 32))
    return any(label is not None and bool((label != IGNORE).any()) for label in labels)


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
    if any(override.startswith("data.eval.") for override in overrides):  # what it changes may be the default
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


def build_model(recipe: Recipe, classes: tuple[str, ...], device: torch.device) -> nn.Module:
    """Return the model for these classes, its random weights drawn from the recipe's seed."""
    _check_order(recipe.model.get("weights"), classes)
    with seeded(device, recipe.train.seed, "model"):
        try:
            return model_from(recipe.model, len(classes), "model")
        except RegistryError as error:  # an unknown backbone, found only when it is created
            raise RegistryError(f"model: {error}") from None


def _check_order(weights: str | None, classes: tuple[str, ...]) -> None:
    """Refuse weights of a run on as many classes that are others or in another order: its head would be mixed up."""
    state: Any = None
    with suppress(Exception):  # what is wrong with the file is told where it is loaded
        state = None if weights is None else load_tensors(file := find_checkpoint(Path(weights)))
    known = tuple(map(str, state.get("classes") or ())) if isinstance(state, dict) else ()
    if len(known) == len(classes) and known != classes:
        raise RecipeError(
            f"model.weights: {file} was trained on the classes {', '.join(known)}, and the data have "
            f"{', '.join(classes)}; give the label maps one order of classes."
        )


def compiled(model: nn.Module, device: torch.device) -> nn.Module:
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
    device: torch.device,
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
        sync_batch_norm=recipe.train.sync_batch_norm,
    )
    if recipe.evaluate.model == "teacher":
        engine.network(teacher=True)  # raises here, not after the training
    return engine


def engine_on_paper(recipe: Recipe, classes: tuple[str, ...]) -> Engine:
    """Return the engine on the meta device, without data or memory; the recipe forgets its weight files."""
    meta = torch.device("meta")
    forget_files(recipe, scored=False)
    recipe.train.precision = "fp32"
    with meta:
        return build_engine(recipe, build_model(recipe, classes, meta), classes, meta, "plan")


def check_classes(datasets: "Mapping[str, SegmentationDataset]") -> tuple[str, ...]:
    """Return the names of the classes of all data sets, by stream or ``eval``; DataError where two sets differ.

    Those of the target, whose labels are not read, count where there is nothing else.
    """
    read = {name: dataset for name, dataset in datasets.items() if name != "target"} or datasets
    present = {place_of(name): classes_of(dataset) for name, dataset in read.items()}
    same_classes(present)
    return next(iter(present.values()))


def _loss(options: Options | None, num_classes: int) -> SegmentationLossFunction | None:
    loss = None if options is None else loss_from(options, "loss")
    for option in ("class_weights", "logit_adjustment") if isinstance(loss, SegmentationLoss) else ():
        values = getattr(loss, option)
        if values is not None and len(values) != num_classes:
            raise RecipeError(f"loss.{option}: expected {num_classes} values, one per class, got {len(values)}.")
    return loss
