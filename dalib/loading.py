"""A trained run, ready to evaluate or predict with."""

from dataclasses import dataclass
from pathlib import Path

from dalib import checkpoint
from dalib.build import build_engine, build_model
from dalib.device import choose_device
from dalib.engine import Engine
from dalib.errors import CheckpointError
from dalib.recipe import Recipe, make_recipe
from dalib.run_folder import find_checkpoint
from dalib.yaml_text import parse_yaml


@dataclass(frozen=True)
class LoadedRun:
    """What a checkpoint of a run holds; its data sets are not needed."""

    recipe: Recipe
    engine: Engine
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]


def load_run(path: str | Path, device: str | None = None) -> LoadedRun:
    """Load a run from its folder or from one of its checkpoints.

    Raises:
        CheckpointError: there is none, it is damaged, or no run wrote it.
    """
    file = find_checkpoint(Path(path))
    state = checkpoint.read(file)
    if "recipe" not in state or "classes" not in state:
        raise CheckpointError(
            f"{file} holds no recipe, so its model is not known; expected a checkpoint that `dalib train` wrote. "
            "Weights alone are loaded by `model: {weights: FILE}` of a recipe."
        )
    recipe = make_recipe(parse_yaml(state["recipe"], f"the recipe in {file}"))
    recipe.model["weights"] = None  # the checkpoint has them, and the file may be gone
    chosen = choose_device(device)
    classes = tuple(state["classes"])
    engine = build_engine(recipe, build_model(recipe, classes, chosen), classes, chosen)
    engine.load_state_dict(state)
    return LoadedRun(recipe, engine, classes, tuple((r, g, b) for r, g, b in state["palette"]))
