"""The recipe: what to train, on what, with which strategies, checked as a whole before any work."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from dalib.core.create import check_use
from dalib.core.guard import NonFinitePolicy
from dalib.core.optim import OPTIMIZERS, SCHEDULES
from dalib.core.precision import PrecisionName
from dalib.discovery import default_registry, load_module
from dalib.errors import DalibError, DataError, RecipeError
from dalib.evaluation.protocols import get_protocol
from dalib.losses import SegmentationLoss
from dalib.options import check_options
from dalib.yaml import dump_yaml, parse_yaml, read_yaml

Options = dict[str, Any]

_DEFAULTS: dict[str, Options] = {"optimizer": {"use": "sgd", "lr": 2.5e-4}, "schedule": {"use": "poly"}}


@dataclass(kw_only=True)
class DataOptions:
    """``data:``. ``eval`` defaults to the target with ``split: val``; batch_size counts images a domain a step.

    A training image that cannot be read stops the run; ``on_bad_item: skip`` takes the data set's next one in its
    place, and stops after ``max_bad_items`` different ones. Evaluation skips none: it would be another score.
    """

    source: Options
    target: Options | None = None
    eval: Options | None = None
    batch_size: int = 4
    workers: int = 0
    on_bad_item: Literal["stop", "skip"] = "stop"
    max_bad_items: int = 10


@dataclass(kw_only=True)
class TrainOptions:
    """``train:``. Every ``*_every`` counts steps; ``eval_every: null`` evaluates at the end alone.

    ``on_non_finite``: what to do when a loss term or a gradient is NaN or infinite.
    ``keep_every``: checkpoints that stay (``step_000200.pt``) beside the last, the one before it and the best.
    """

    steps: int
    precision: PrecisionName = "fp32"
    accumulate: int = 1
    clip: float | None = None
    seed: int = 0
    on_non_finite: NonFinitePolicy = "stop"
    device: str | None = None
    log_every: int = 50
    checkpoint_every: int = 1000
    keep_every: int | None = None
    eval_every: int | None = None


@dataclass(kw_only=True)
class EvaluateOptions:
    """``evaluate:``. ``classes``: see ``dalib.evaluate``; None = those present. ``limit``: first images only."""

    model: Literal["student", "teacher"] = "student"
    classes: list[str | int] | str | None = None
    protocol: str = "full"
    batch_size: int = 1
    limit: int | None = None


@dataclass(kw_only=True)
class Recipe:
    """A whole recipe. ``model``, data sets and strategies are ``{use: name, **options}``."""

    model: Options
    data: DataOptions
    train: TrainOptions
    strategies: list[Options] = field(default_factory=lambda: [{"use": "supervised"}])
    loss: Options | None = None
    optimizer: Options = field(default_factory=lambda: dict(_DEFAULTS["optimizer"]))
    schedule: Options | None = field(default_factory=lambda: dict(_DEFAULTS["schedule"]))
    evaluate: EvaluateOptions = field(default_factory=EvaluateOptions)
    plugins: list[str] = field(default_factory=list)

    def to_yaml(self) -> str:
        """Return the recipe as YAML, defaults filled in."""
        return dump_yaml(asdict(self))


def load_recipe(path: str | Path, overrides: Iterable[str] = ()) -> Recipe:
    """Read a recipe, apply ``dotted.key=value`` overrides and check it as a whole.

    Raises:
        RecipeError: with the file, the path to the faulty entry, what was expected and what was found.
    """
    value = read_yaml(Path(path))
    if not isinstance(value, dict):
        raise RecipeError(
            f"{path}: a recipe is a mapping with the keys model, data, strategies, train; got {value!r:.60}."
        )
    for override in overrides:
        apply_override(value, override)
    try:
        return make_recipe(value)
    except DalibError as error:
        raise type(error)(f"{path}: {error}") from None


def make_recipe(value: Mapping[str, Any]) -> Recipe:
    """Return the checked recipe of a mapping."""
    _check_finite(value, "")
    built = {name: _section(kind, value[name], name) for name, kind in _SECTIONS.items() if name in value}
    recipe = Recipe(**check_options(Recipe, {**value, **built}, ""))
    _check_numbers(recipe)
    _check_run(recipe)
    _check_uses(recipe)
    return recipe


def apply_override(value: Any, override: str) -> None:
    """Change one entry of a recipe in place: ``train.steps=100``, ``strategies.1.beta=0.05``."""
    keys, equals, text = override.partition("=")
    if not equals or not keys:
        raise RecipeError(f"override {override!r}: expected dotted.key=value, such as train.steps=100.")
    *parents, last = keys.split(".")
    for depth, key in enumerate(parents):
        if isinstance(value, dict) and value.get(key) is None:
            value[key] = {}
        value = _entry(value, key, override, ".".join(parents[:depth]))
    new = parse_yaml(text, f"override {override!r}")
    if isinstance(value, dict):
        value[last] = new
    else:
        _entry(value, last, override, ".".join(parents))
        value[int(last)] = new


_SECTIONS: dict[str, type] = {"data": DataOptions, "train": TrainOptions, "evaluate": EvaluateOptions}

# What must be at least so much, by its path.
_AT_LEAST = {
    "data.batch_size": 1,
    "data.workers": 0,
    "data.max_bad_items": 1,
    "train.steps": 1,
    "train.accumulate": 1,
    "train.seed": 0,
    "train.log_every": 1,
    "train.checkpoint_every": 1,
    "train.keep_every": 1,
    "train.eval_every": 1,
    "evaluate.batch_size": 1,
    "evaluate.limit": 1,
}


def _section(kind: type, value: Any, path: str) -> Any:
    if not isinstance(value, dict):
        raise RecipeError(f"{path}: expected a mapping, got {value!r:.60}.")
    return kind(**check_options(kind, value, path))


def _entry(value: Any, key: str, override: str, path: str) -> Any:
    """Return the child of a mapping or list on the way of an override."""
    if isinstance(value, list):
        if not key.isdigit() or int(key) >= len(value):
            raise RecipeError(
                f"override {override!r}: {path} is a list of {len(value)}; expected an index, got {key!r}."
            )
        return value[int(key)]
    if not isinstance(value, dict):
        raise RecipeError(f"override {override!r}: {path} is {value!r:.60}, which has no entry {key!r}.")
    return value[key]


def _check_finite(value: Any, path: str) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise RecipeError(f"{path}: expected a finite number, got {value}.")
    if isinstance(value, Mapping):
        for key, child in value.items():
            _check_finite(child, f"{path}.{key}" if path else str(key))
    if isinstance(value, list):
        for index, child in enumerate(value):
            _check_finite(child, f"{path}[{index}]")


def _check_numbers(recipe: Recipe) -> None:
    values = asdict(recipe)
    for path, least in _AT_LEAST.items():
        section, name = path.split(".")
        if values[section][name] is not None and values[section][name] < least:
            raise RecipeError(f"{path}: expected at least {least}, got {values[section][name]}.")
    if recipe.train.clip is not None and recipe.train.clip <= 0:
        raise RecipeError(f"train.clip: expected a norm above 0, got {recipe.train.clip}.")
    if recipe.data.batch_size % recipe.train.accumulate:
        raise RecipeError(
            f"data.batch_size: {recipe.data.batch_size} images do not divide into {recipe.train.accumulate} "
            "micro-batches (train.accumulate)."
        )


def _check_run(recipe: Recipe) -> None:
    """Check what would else come to light after the training, or in torch's words."""
    try:
        get_protocol(recipe.evaluate.protocol)
    except DataError as error:
        raise RecipeError(f"evaluate.protocol: {error}") from None
    try:
        torch.device(recipe.train.device or "cpu")
    except RuntimeError:
        raise RecipeError(
            f"train.device: expected a device such as cpu or cuda:0, got {recipe.train.device!r}."
        ) from None


def _check_uses(recipe: Recipe) -> None:
    """Check everything that names a plugin, an optimiser or a schedule, with its options."""
    for module in recipe.plugins:
        load_module(default_registry(), module)
    check_use("model", recipe.model, "model")
    for name in ("source", "target", "eval"):
        options = getattr(recipe.data, name)
        if options is not None:
            check_use("dataset", options, f"data.{name}")
    for index, options in enumerate(recipe.strategies):
        check_use("strategy", options, f"strategies[{index}]")
        if options.get("weight", 1.0) < 0:
            raise RecipeError(f"strategies[{index}].weight: expected at least 0, got {options['weight']}.")
    if recipe.loss is not None:
        check_options(SegmentationLoss, recipe.loss, "loss")
    make_optimizer = _check_choice(OPTIMIZERS, recipe.optimizer, "optimizer")
    if recipe.optimizer["lr"] <= 0:
        raise RecipeError(f"optimizer.lr: expected a rate above 0, got {recipe.optimizer['lr']}.")
    try:
        make_optimizer([torch.nn.Parameter(torch.zeros(1))])
    except ValueError as error:  # torch knows the bounds of its options
        raise RecipeError(f"optimizer: {error}.") from None
    if recipe.schedule is not None:
        _check_schedule({"steps": recipe.train.steps, **recipe.schedule})


def _default(path: str, options: Options) -> str:
    """Say what a section without its name would have replaced, as an override such as ``optimizer.lr=0.1`` makes it."""
    if "use" in options:
        return ""
    default, whole = (dump_yaml(o, inline=True).strip() for o in (_DEFAULTS[path], _DEFAULTS[path] | options))
    return f" Without this section a run uses {default}; write it whole, such as {path}={whole}."


def _check_schedule(options: Options) -> None:
    _check_choice(SCHEDULES, options, "schedule")
    for name, least in {"steps": 1, "power": 0, "warmup": 0}.items():
        if options.get(name, least) < least:
            raise RecipeError(f"schedule.{name}: expected at least {least}, got {options[name]}.")


def _check_choice(choices: Mapping[str, Callable[..., Any]], options: Options, path: str) -> Any:
    """Check ``{use: name, ...}`` against the choices and return what the chosen one makes."""
    name = options.get("use")
    if not isinstance(name, str) or name not in choices:
        raise RecipeError(f"{path}.use: expected one of {', '.join(choices)}, got {name!r}.{_default(path, options)}")
    rest = check_options(choices[name], {k: v for k, v in options.items() if k != "use"}, path)
    return choices[name](**rest)
