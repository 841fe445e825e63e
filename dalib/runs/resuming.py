"""The check that a resumed run has the recipe that it started with."""

import re
from pathlib import Path
from typing import Any

from dalib.errors import DalibError
from dalib.yaml import parse_yaml, read_yaml

# Options that a resumed run may change; ``train.steps`` changes the schedule from there on.
_FREE = {
    *("train.steps", "train.log_every", "train.checkpoint_every", "train.keep_every", "train.eval_every"),
    *("train.device", "train.on_non_finite", "data.workers", "data.on_bad_item", "data.max_bad_items"),
    *("train.checkpoint_activations", "evaluate.limit", "evaluate.batch_size"),
}


def check_same_recipe(folder: Path, recipe: str) -> str:
    """Raise DalibError if ``recipe`` (YAML) would train other steps than the recipe of the run in ``folder``.

    What does not change a step may differ: how long to train, how often to log, save and evaluate, workers, device, and
    the place of the data.

    Returns:
        A notice for the user, that data have moved or that the learning rates change, or "".
    """
    stored = folder / "recipe.yaml"
    if not stored.exists():  # only a checkpoint was copied here; loading it checks that it fits
        return ""
    was, now = (_flat(value, "") for value in (read_yaml(stored), parse_yaml(recipe)))
    changed = [key for key in {**was, **now} if was.get(key) != now.get(key) and key not in _FREE]
    moved = [key for key in changed if re.fullmatch(r"data\..*\broot", key) and key in was and key in now]
    different = [key for key in changed if key not in moved]
    if different:
        key = different[0]
        raise DalibError(
            f"the run in {folder} has {key} = {was.get(key)!r}, this recipe has {now.get(key)!r}. Resume with "
            f"the run's own recipe ({stored}), or start a new run with --out."
        )
    steps = [value["train.steps"] for value in (was, now)]
    scheduled = steps[0] != steps[1] and "schedule" not in now  # flat key of a null schedule: constant rates
    notices = [
        f"{key} was {was[key]} and is {now[key]}: the run is the same only if the same files lie there."
        for key in moved
    ]
    if scheduled:
        notices.append(f"train.steps was {steps[0]} and is {steps[1]}: learning rates follow the new schedule.")
    return " ".join(notices)


def _flat(value: Any, path: str) -> dict[str, Any]:
    """Return the leaves of a recipe by dotted path."""
    if isinstance(value, dict):
        children = {f"{path}.{key}" if path else str(key): child for key, child in value.items()}
    elif isinstance(value, list):
        children = {f"{path}.{index}": child for index, child in enumerate(value)}
    else:
        return {path: value}
    return {leaf: v for key, child in children.items() for leaf, v in _flat(child, key).items()}
