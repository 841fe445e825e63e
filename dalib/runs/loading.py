"""Loading of a trained run, to evaluate it, predict with it or compare with it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dalib.core import checkpoint
from dalib.core.engine import Engine
from dalib.device import choose_device
from dalib.errors import CheckpointError, DalibError, add_to
from dalib.files import checkpoints_of, find_checkpoint
from dalib.runs.build import build_engine, build_model, forget_files
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


def load_run(path: str | Path, device: str | None = None) -> LoadedRun:
    """Load a run from its folder or from one of its checkpoints.

    Raises:
        CheckpointError: there is no checkpoint, it is damaged, or it was not written by a run.
    """
    path = Path(path)
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
    recipe = make_recipe(_mapping(state["recipe"], f"the recipe in {file}"))
    forget_files(recipe)  # the checkpoint has the weights
    chosen = choose_device(device)
    with checkpoint.taken_from(file):
        classes = tuple(map(str, state["classes"]))
        palette = tuple((int(r), int(g), int(b)) for r, g, b in state["palette"])
        engine = build_engine(recipe, build_model(recipe, classes, chosen), classes, chosen, "evaluate")
        engine.load_state_dict(state)
    return LoadedRun(recipe, engine, classes, palette)


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
        return cls(load_run(path).engine, {"miou": stored["miou"], "iou": stored["iou"]})


def _mapping(text: object, name: str) -> dict[str, Any]:
    value = parse_yaml(text, name) if isinstance(text, str) else text
    if not isinstance(value, dict):
        raise CheckpointError(f"{name} is none: expected a mapping, found {value!r:.60}.")
    return value
