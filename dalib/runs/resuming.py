"""The checks that a resumed run has the recipe and the data that it started with."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dalib.data.dataset import identity_of
from dalib.data.joined import Joined
from dalib.data.loader import place_of
from dalib.errors import DalibError
from dalib.yaml import parse_yaml, read_yaml

if TYPE_CHECKING:
    from dalib.data.dataset import SegmentationDataset

# Options that a resumed run may change; ``train.steps`` changes the schedule from there on.
_FREE = {
    *("train.steps", "train.log_every", "train.checkpoint_every", "train.keep_every", "train.eval_every"),
    *("train.device", "train.timeout", "train.on_non_finite", "data.workers", "data.on_bad_item", "data.max_bad_items"),
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


def identities(datasets: "Mapping[str, SegmentationDataset]") -> dict[str, dict[str, Any]]:
    """Return ``identity_of`` each data set, those of a list one by one, by its place in the recipe."""
    parts: dict[str, SegmentationDataset] = {}
    for name, dataset in datasets.items():
        if isinstance(dataset, Joined):
            parts |= zip(dataset.names, dataset.datasets, strict=True)
        else:
            parts[place_of(name)] = dataset
    return {place: identity_of(dataset) for place, dataset in parts.items()}


def check_same_data(folder: Path, was: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise DalibError if data of the run in ``folder`` are others than when it began; ``identities`` then and now."""
    for place in now:
        if place in was and (changed := _changed(was[place], now[place])):
            raise DalibError(
                f"{place}: {changed}. A resumed run would not end as one that was never stopped: put the data of the "
                f"run in {folder} back as they were, or start a new run with --out."
            )


def _changed(was: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Return what differs in the identity of a data set, "" where nothing does."""
    if was["images"] != now["images"]:
        return f"its images were {was['images']} when the run began and are {now['images']}"
    if was.get("files") != now.get("files"):
        return f"among the files of its {now['images']} images are others, or in another order, than when the run began"
    stored = [identity.get("stored", {}) for identity in (was, now)]
    for value in {**stored[0], **stored[1]}:
        before, after = (of.get(value, "ignored or unknown") for of in stored)
        if before != after:
            return f"its label map made {before} of the stored value {value} when the run began and makes {after} of it"
    return ""


def _flat(value: Any, path: str) -> dict[str, Any]:
    """Return the leaves of a recipe by dotted path."""
    if isinstance(value, dict):
        children = {f"{path}.{key}" if path else str(key): child for key, child in value.items()}
    elif isinstance(value, list):
        children = {f"{path}.{index}": child for index, child in enumerate(value)}
    else:
        return {path: value}
    return {leaf: v for key, child in children.items() for leaf, v in _flat(child, key).items()}
