"""Loading of a trained run, to evaluate it, predict with it or compare with it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from dalib.core import checkpoint
from dalib.core.engine import Engine
from dalib.core.hookspecs import HOOKS
from dalib.device import choose_device
from dalib.errors import CheckpointError, DalibError, StackError, add_to
from dalib.files import checkpoints_of, find_checkpoint
from dalib.models.wrapper import SegmentationModel, network_of
from dalib.runs.build import build_engine, build_model, forget_files, overridden
from dalib.runs.folder import RunFolder
from dalib.runs.recipe import Recipe, make_recipe
from dalib.yaml import parse_yaml


@dataclass(frozen=True)
class LoadedRun:
    """A run as loaded from a checkpoint, without its data sets."""

    recipe: Recipe
    engine: Engine
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]


def load_run(path: str | Path, device: str | None = None, overrides: Sequence[str] = ()) -> LoadedRun:
    """Load a run from its folder or from one of its checkpoints.

    Args:
        overrides: changes of its recipe's data, evaluation and strategies. Strategies that stay keep their state, and
            those that are added may only act around predictions.

    Raises:
        CheckpointError: there is no checkpoint, it is damaged, or it was not written by a run.
        DalibError: another change, or a strategy that had to be trained with.
    """
    file, state = _read(Path(path))
    recipe = make_recipe(_mapping(state["recipe"], f"the recipe in {file}"))
    recipe = overridden(recipe, overrides) if overrides else recipe
    forget_files(recipe, scored=True)  # the checkpoint has the weights
    chosen = choose_device(device)
    with checkpoint.taken_from(file):
        classes = tuple(map(str, state["classes"]))
        palette = tuple((int(r), int(g), int(b)) for r, g, b in state["palette"])
        model = build_model(recipe, classes, chosen)
        _preload(model, state["model"])
        engine = build_engine(recipe, model, classes, chosen, "evaluate")
        if overrides:
            _check_added(engine, state["stack"])
            state = checkpoint.for_stack(state, engine.state_dict())
        engine.load_state_dict(state)
    engine.model.eval()
    return LoadedRun(recipe, engine, classes, palette)


def load_model(path: str | Path) -> SegmentationModel:
    """Return the network of a run, as its own recipe names it, in eval mode on the CPU.

    It is the one that the recipe evaluates, the student or the teacher, without the strategies around predictions. Its
    ``classes`` are the names of those that it was trained on.

    Args:
        path: the run's folder, or one of its checkpoints.

    Raises:
        CheckpointError: there is no checkpoint, it is damaged, or it was not written by a run.
        DalibError: the recipe names a network, or a plugin, that is not there.
    """
    file, state = _read(Path(path))
    recipe = make_recipe(_mapping(state["recipe"], f"the recipe in {file}"))
    forget_files(recipe, scored=False)
    with checkpoint.taken_from(file):
        classes = tuple(map(str, state["classes"]))
        model = cast(SegmentationModel, build_model(recipe, classes, torch.device("cpu")))
        model.network.load_state_dict(state["teacher" if recipe.evaluate.model == "teacher" else "model"])
    model.classes = classes
    return model.eval()


def _read(path: Path) -> tuple[Path, dict[str, Any]]:
    """Return the checkpoint of a run's folder, or the one given, and what it holds, its recipe and classes included."""
    file = find_checkpoint(path)
    if file.suffix in (".onnx", ".pt2"):
        raise CheckpointError(
            f"{file} is an exported file; expected a run's folder or one of its checkpoints, or, for "
            "`dalib evaluate`, an exported .onnx file."
        )
    try:
        state = checkpoint.read(file)
    except CheckpointError as error:
        older = [other for other in checkpoints_of(path) if other != file]
        if older:
            add_to(error, f"The one before it can be given in the folder's place: {older[0]}.")
        raise
    if "recipe" not in state or "classes" not in state:
        raise CheckpointError(
            f"{file} holds no recipe, so its model is not known; expected a checkpoint that `dalib train` wrote. "
            "Weights alone are loaded by `model: {weights: FILE}` of a recipe."
        )
    return file, state


def _preload(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Load what fits before the strategies' ``setup``, which may copy the model; what does not is refused later."""
    network = network_of(model)
    own = network.state_dict()
    fitting = {key: value for key, value in state.items() if key in own and own[key].shape == value.shape}
    network.load_state_dict(fitting, strict=False)


def _check_added(engine: Engine, stack: list[list[str]]) -> None:
    """Refuse strategies that the run was not trained with, unless all that they do is around predictions."""
    for strategy in engine.stack.strategies:
        hooks = [hook for hook in HOOKS if strategy in engine.stack.implementing(hook)]
        trains = [hook for hook in hooks if hook not in ("setup", "predictor", "teardown")]
        if trains and [strategy.name, strategy.registered_name] not in stack:
            raise StackError(
                f"strategy {strategy.name!r} acts in training ({', '.join(trains)}), and the run was trained without "
                "it; an evaluation can add strategies with a predictor alone. Train a run with it, or drop it."
            )


@dataclass(frozen=True)
class Earlier:
    """A finished run to compare with."""

    engine: Engine
    scores: dict[str, Any]

    @classmethod
    def read(cls, path: Path) -> "Earlier":
        """Load a run from its folder; DalibError if it has no results."""
        results = RunFolder(path).results
        if not results.is_file():
            raise DalibError(f"{path}: expected a finished run to compare with, found no {results.name} in it.")
        stored = json.loads(results.read_text())
        scores = {"name": path.resolve().name, "miou": stored["miou"], "iou": stored["iou"]}
        return cls(load_run(path).engine, scores)


def _mapping(text: object, name: str) -> dict[str, Any]:
    value = parse_yaml(text, name) if isinstance(text, str) else text
    if not isinstance(value, dict):
        raise CheckpointError(f"{name} is none: expected a mapping, found {value!r:.60}.")
    return value
