"""Which recipe a run may go on with."""

from pathlib import Path
from typing import Any

from dalib.errors import DalibError
from dalib.yaml import parse_yaml, read_yaml

# What a resumed run may change; ``train.steps`` changes the schedule from there on.
_FREE = {
    *("train.steps", "train.log_every", "train.checkpoint_every", "train.keep_every", "train.eval_every"),
    *("train.device", "train.on_non_finite", "data.workers", "data.on_bad_item", "data.max_bad_items"),
    *("evaluate.limit", "evaluate.batch_size"),
}


def check_same_recipe(folder: Path, recipe: str) -> str:
    """Refuse to go on with another recipe than that of the run in ``folder``: its steps would be of one and the other.

    What decides no step may differ: how long to train, how often to log, save and evaluate, workers, device.

    Returns:
        What changes all the same, for the user to read; "" where nothing does.
    """
    stored = folder / "recipe.yaml"
    if not stored.exists():  # a checkpoint alone, brought from elsewhere; it is checked by its own names
        return ""
    was, now = (_flat(value, "") for value in (read_yaml(stored), parse_yaml(recipe)))
    different = [key for key in {**was, **now} if was.get(key) != now.get(key) and key not in _FREE]
    if different:
        key = different[0]
        raise DalibError(
            f"the run in {folder} has {key} = {was.get(key)!r}, this recipe has {now.get(key)!r}. Resume with "
            f"the run's own recipe ({stored}), or start a new run with --out."
        )
    steps = [value["train.steps"] for value in (was, now)]
    scheduled = steps[0] != steps[1] and "schedule" not in now  # which is null where rates stay as they are
    return f"train.steps was {steps[0]} and is {steps[1]}: learning rates follow the new schedule." if scheduled else ""


def _flat(value: Any, path: str) -> dict[str, Any]:
    """Return the leaves of a recipe by dotted path."""
    if isinstance(value, dict):
        children = {f"{path}.{key}" if path else str(key): child for key, child in value.items()}
    elif isinstance(value, list):
        children = {f"{path}.{index}": child for index, child in enumerate(value)}
    else:
        return {path: value}
    return {leaf: v for key, child in children.items() for leaf, v in _flat(child, key).items()}
