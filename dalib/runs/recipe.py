"""The recipe: what to train, on what, with which strategies, checked as a whole before any work."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, field
from functools import reduce
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import AfterValidator, Field

from dalib.core.create import check_use, loss_from, optimizer_from, schedule_from
from dalib.core.guard import NonFinitePolicy
from dalib.core.precision import PrecisionName
from dalib.data.loader import place_of
from dalib.discovery import default_registry, load_module
from dalib.errors import DalibError, RecipeError, add_to
from dalib.evaluation.protocols import PROTOCOLS
from dalib.options import Count, OptionGroup, Positive, Whole, check_options
from dalib.runs.folder import RunFolder
from dalib.yaml import dump_yaml, parse_yaml, read_yaml

Options = dict[str, Any]
DataSets = Options | list[Options]

MIOU = "miou"
DEFAULT_VALIDATORS = ("entropy", "infomax", "snd", "ensv")  # those that take no further forward

_DEFAULTS: dict[str, Options] = {"optimizer": {"use": "sgd", "lr": 2.5e-4}, "schedule": {"use": "poly"}}


def _device(name: str) -> str:
    try:
        torch.device(name)
    except RuntimeError:
        raise ValueError("a device such as cpu or cuda:0") from None
    return name


def _protocol(name: str) -> str:
    if name not in PROTOCOLS:
        raise ValueError(f"one of {', '.join(PROTOCOLS)}")
    return name


def _streams(streams: dict[str, DataSets]) -> dict[str, DataSets]:
    for name in streams:
        if not name.isidentifier() or name in ("source", "target", "eval"):
            raise ValueError("names of further streams, such as few, other than source, target and eval")
    return streams


class DataOptions(OptionGroup):
    """``data:``. Each of ``source``, ``target`` and ``eval`` is a data set or a list of them, which are joined.

    ``streams``: further streams by name, with their labels, such as a few labelled images of the target. Of a list,
    images are drawn in proportion to the data sets' sizes, or to the number ``share`` in each entry.
    ``eval`` defaults to the target with ``split: val``; batch_size counts images per domain and step.

    A training image that cannot be read stops the run; ``on_bad_item: skip`` loads the data set's next one instead, and
    stops after ``max_bad_items`` different ones. Evaluation never skips, since that would change the score.
    """

    source: DataSets | None = None
    target: DataSets | None = None
    streams: Annotated[dict[str, DataSets], AfterValidator(_streams)] = field(default_factory=dict)
    eval: DataSets | None = None
    batch_size: Count = 4
    workers: Whole = 0
    on_bad_item: Literal["stop", "skip"] = "stop"
    max_bad_items: Count = 10

    def names(self) -> list[str]:
        """Return the names of the streams that have data: source, target and further ones."""
        return [name for name in ("source", "target", *self.streams) if self.of(name) is not None]

    def of(self, name: str) -> DataSets | None:
        """Return the data of a stream or ``eval`` as the recipe has it; None where there is none.

        ``eval`` defaults to the target with ``split: val``, and to the source's where there is no target.
        """
        if name == "eval" and self.eval is None:
            held_out = self.target or self.source
            if isinstance(held_out, list):
                return [{**_without_share(options), "split": "val"} for options in held_out]
            return held_out and {**held_out, "split": "val"}
        chosen: DataSets | None = self.streams[name] if name in self.streams else getattr(self, name)
        return chosen

    def entries(self, name: str) -> dict[str, Options]:
        """Return the options of each data set of a stream or ``eval``, without its ``share``, by path in the recipe."""
        path, chosen = place_of(name), self.of(name)
        if isinstance(chosen, list):
            kept = chosen if name == "eval" else [_without_share(options) for options in chosen]
            return {f"{path}[{number}]": options for number, options in enumerate(kept)}
        return {} if chosen is None else {path: chosen}

    def shares(self, name: str) -> list[float] | None:
        """Return the share of each data set of a list; None where they are drawn in proportion to their sizes.

        Raises:
            RecipeError: some entries have a share and some have none, or it is no number above 0.
        """
        chosen = self.of(name)
        if not isinstance(chosen, list) or not any("share" in options for options in chosen):
            return None
        if not all("share" in options for options in chosen):
            raise RecipeError(f"{place_of(name)}: expected `share` in each entry or in none, found it in some.")
        return [
            check_options(_share, {"share": options["share"]}, f"{place_of(name)}[{number}]")["share"]
            for number, options in enumerate(chosen)
        ]


def _share(share: Positive) -> None:
    """The option of a list's entry that is not its data set's."""


def _without_share(options: Options) -> Options:
    return {key: value for key, value in options.items() if key != "share"}


class TrainOptions(OptionGroup):
    """``train:``. Every ``*_every`` is in steps; ``eval_every: null`` evaluates only at the end.

    ``on_non_finite``: what to do when a loss term or a gradient is NaN or infinite.
    ``compile``: train through ``torch.compile``; what a run writes is the same model, without it.
    ``checkpoint_activations``: keep less of each forward and compute it again in backward; see ``dalib.models``.
    ``keep_every``: permanent checkpoints (``step_000200.pt``) beside the last, the one before it and the best.
    ``sync_batch_norm``: with several ranks, let BatchNorm use the statistics of all ranks' images; it needs GPUs.
    ``timeout``: seconds in which every rank of a job must come to where the others wait for it, or the job ends; longer
    than rank 0 takes for a checkpoint or the report.
    """

    steps: Count
    precision: PrecisionName = "fp32"
    compile: bool = False
    checkpoint_activations: bool = False
    sync_batch_norm: bool = False
    accumulate: Count = 1
    clip: Positive | None = None
    seed: Whole = 0
    on_non_finite: NonFinitePolicy = "stop"
    device: Annotated[str, AfterValidator(_device)] | None = None
    log_every: Count = 50
    checkpoint_every: Count = 1000
    keep_every: Count | None = None
    eval_every: Count | None = None
    timeout: Annotated[int, Field(ge=1, le=86_400)] = 600


class EvaluateOptions(OptionGroup):
    """``evaluate:``. ``classes``: see ``dalib.evaluate``; None = those present. ``limit``: how many images to score.

    ``validators``: what judges each evaluation without labels, names or ``{use: name, **options}``; ``best``: by what
    ``best.pt`` is chosen, ``miou`` or a validator, which is then one of the run's.
    """

    model: Literal["student", "teacher"] = "student"
    classes: list[str | int] | str | None = None
    protocol: Annotated[str, AfterValidator(_protocol)] = "full"
    batch_size: Count = 1
    limit: Count | None = None
    validators: list[str | Options] = field(default_factory=lambda: list(DEFAULT_VALIDATORS))
    best: str = "miou"

    def validator_options(self) -> dict[str, Options]:
        """Return the options of each validator by its place in the recipe, that of ``best`` included."""
        given = [{"use": entry} if isinstance(entry, str) else entry for entry in self.validators]
        chosen = {f"evaluate.validators[{number}]": options for number, options in enumerate(given)}
        if self.best != MIOU and self.best not in [options.get("use") for options in given]:
            chosen["evaluate.best"] = {"use": self.best}
        return chosen


class Recipe(OptionGroup):
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
    """Read a recipe and those it names as its ``base``, apply ``dotted.key=value`` overrides and check it as a whole.

    A run's folder means the recipe in it.

    Raises:
        RecipeError: with the file, the path to the faulty entry, what was expected and what was found.
    """
    value, files = _read(Path(path))
    for override in overrides:
        apply_override(value, override)
    try:
        return make_recipe(value)
    except DalibError as error:
        raise type(error)(f"{' over '.join(map(str, files))}: {error}") from None


def make_recipe(value: Mapping[str, Any]) -> Recipe:
    """Return the checked recipe of a mapping."""
    recipe = Recipe(**check_options(Recipe, value, ""))
    if recipe.data.batch_size % recipe.train.accumulate:
        raise RecipeError(
            f"data.batch_size: {recipe.data.batch_size} images do not divide into {recipe.train.accumulate} "
            "micro-batches (train.accumulate)."
        )
    if recipe.train.compile and recipe.train.checkpoint_activations:
        raise RecipeError("train.checkpoint_activations does not go with train.compile; leave one of the two out.")
    _check_uses(recipe)
    return recipe


def _read(path: Path) -> tuple[Options, list[Path]]:
    """Return a recipe merged over its bases, and the files that they come from, the recipe's own first."""
    values: list[Options] = []
    files: list[Path] = []
    file: Path | None = path
    while file is not None:
        stored = RunFolder(file).recipe
        file = stored if stored.is_file() else file
        try:
            value = read_yaml(file)
        except RecipeError as error:
            if files:
                add_to(error, f"It is the `base` of {files[-1]}, from whose folder its path counts.")
            raise
        if file.resolve() in [other.resolve() for other in files]:
            raise RecipeError(f"{path}: base goes round in a circle: {' -> '.join(map(str, [*files, file]))}.")
        if not isinstance(value, dict):
            raise RecipeError(
                f"{file}: a recipe is a mapping with the keys model, data, strategies, train; got {value!r:.60}."
            )
        base = value.pop("base", None)
        if not isinstance(base, str | None):
            raise RecipeError(f"{file}: base: expected the path of a recipe, got {base!r:.60}.")
        values.append(value)
        files.append(file)
        file = None if base is None else file.parent / base
    return reduce(_over, reversed(values)), files


def _over(base: Any, own: Any) -> Any:
    """Merge mappings key by key, unless ``use`` differs: the options of one factory mean nothing to another."""
    if not (isinstance(base, dict) and isinstance(own, dict)) or own.get("use", base.get("use")) != base.get("use"):
        return own
    return base | {key: _over(base.get(key), value) for key, value in own.items()}


def apply_override(value: Any, override: str) -> None:
    """Change one entry of a recipe in place: ``train.steps=100``, ``strategies.1.beta=0.05``."""
    keys, equals, text = override.partition("=")
    if not equals or not keys:
        raise RecipeError(f"override {override!r}: expected dotted.key=value, such as train.steps=100.")
    *parents, last = keys.split(".")
    if [*parents, last][0] == "base":
        raise RecipeError(f"override {override!r}: a base is named in a recipe's file; write `base: FILE` there.")
    for depth, key in enumerate(parents):
        if isinstance(value, dict) and value.get(key) is None:
            value[key] = {}
        value = _entry(value, key, override, ".".join(parents[:depth]))
    new = parse_yaml(text, f"override {override!r}")
    if isinstance(value, dict):
        value[last] = new
    else:
        if isinstance(value, list) and last == str(len(value)):
            value.append(new)
            return
        _entry(value, last, override, ".".join(parents))
        value[int(last)] = new


def _entry(value: Any, key: str, override: str, path: str) -> Any:
    """Return the child of a mapping or list on the path of an override."""
    if isinstance(value, list):
        if not key.isdigit() or int(key) >= len(value):
            raise RecipeError(
                f"override {override!r}: {path} is a list of {len(value)}; expected an index up to "
                f"{len(value) - 1}, or {len(value)} to append, got {key!r}."
            )
        return value[int(key)]
    if not isinstance(value, dict):
        raise RecipeError(f"override {override!r}: {path} is {value!r:.60}, which has no entry {key!r}.")
    return value[key]


def _check_uses(recipe: Recipe) -> None:
    """Check everything that names what a plugin may register, with its options."""
    for module in recipe.plugins:
        load_module(default_registry(), module)
    check_use("model", recipe.model, "model")
    _check_data(recipe.data)
    for index, options in enumerate(recipe.strategies):
        check_use("strategy", options, f"strategies[{index}]")
    if recipe.loss is not None:
        loss_from(recipe.loss, "loss")
    _check_whole("optimizer", recipe.optimizer)
    optimizer_from(recipe.optimizer, "optimizer")
    if recipe.schedule is not None:
        _check_whole("schedule", recipe.schedule)
        schedule_from(recipe.schedule, recipe.train.steps, "schedule")
    _check_validators(recipe.evaluate)


def _check_validators(evaluate: EvaluateOptions) -> None:
    places: dict[str, str] = {}
    for path, options in evaluate.validator_options().items():
        check_use("validator", options, path)
        if (first := places.setdefault(options["use"], path)) != path:
            raise RecipeError(f"{path}: {options['use']!r} is named at {first}, too; name each validator once.")


def _check_data(data: DataOptions) -> None:
    if not data.names():
        raise RecipeError("data: expected at least one of source, target and streams, found none.")
    if data.of("eval") is None:
        raise RecipeError("data.eval: this option is required where there is neither source nor target.")
    given = [*data.names(), *(["eval"] if data.eval is not None else [])]
    for name in given:
        entries = data.entries(name)
        if not entries:
            raise RecipeError(f"{place_of(name)}: expected at least one data set, got [].")
        for path, options in entries.items():
            check_use("dataset", options, path)
    for name in data.names():
        data.shares(name)


def _check_whole(path: str, options: Options) -> None:
    """Refuse a section that lacks ``use``, as the override ``optimizer.lr=0.1`` makes one, with what to write."""
    if "use" not in options:
        default, whole = (dump_yaml(o, inline=True).strip() for o in (_DEFAULTS[path], _DEFAULTS[path] | options))
        raise RecipeError(
            f"{path}.use: expected the name of one, got none. Without this section a run uses {default}; write it "
            f"whole, such as {path}={whole}."
        )
