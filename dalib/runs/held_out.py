"""Whether the images that a run is scored on are held out from its training."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from torch.utils.data import Dataset, Subset

from dalib.data.dataset import spread
from dalib.data.joined import Joined
from dalib.data.loader import place_of
from dalib.errors import DalibError, RecipeError, add_to
from dalib.runs.build import build_dataset
from dalib.runs.recipe import Recipe

if TYPE_CHECKING:
    from dalib.data.dataset import SegmentationDataset


def held_out_source(
    recipe: Recipe, count: int, streams: "Mapping[str, SegmentationDataset] | None" = None
) -> "SegmentationDataset":
    """Return up to ``count`` labelled images of the source with split val, spread over it, for the source's own score.

    Args:
        streams: the recipe's data sets by stream; None: they are opened.

    Raises:
        DalibError: there is no such split, or its images are trained on.
    """
    entries = [{**options, "split": "val"} for options in recipe.data.entries("source").values()]
    advice = "The validator `source` scores on labelled images that are held out, data.source with `split: val`"
    if not entries:
        raise RecipeError(f"{advice}, and there is no data.source; take another validator.")
    scored = replace(recipe, data=replace(recipe.data, eval=entries if len(entries) > 1 else entries[0]))
    try:
        dataset = build_dataset(scored, "eval")
        seen = trained_on(scored, None if streams is None else {**streams, "eval": dataset})
    except DalibError as error:
        add_to(error, f"{advice}.")
        raise
    assert dataset is not None
    if seen:
        raise RecipeError(f"{advice}, and images of that are trained on; give the splits other images.")
    return Subset(cast("Dataset[Any]", dataset), spread(len(dataset), count))


def trained_on(recipe: Recipe, datasets: "Mapping[str, SegmentationDataset | None] | None" = None) -> str:
    """Return a sentence on images of ``data.eval`` that are trained on with their labels, "" where there are none.

    Images are the same by their files, those of data sets without files by the options that make them. The target does
    not count, since its labels are not read.

    Args:
        datasets: those of the recipe by stream, and ``eval``; None: they are opened.
    """
    if datasets is None:
        datasets = {name: build_dataset(recipe, name) for name in (*recipe.data.names(), "eval")}
    names = {name: _names(recipe, name, dataset) for name, dataset in datasets.items() if name != "target"}
    scored = names.pop("eval")
    shared = {name: len(scored & trained) for name, trained in names.items() if scored & trained}
    if not shared:
        return ""
    places = " and ".join(f"{count} in {place_of(name)}" for name, count in shared.items())
    return (
        f"of its {len(scored)} images some are trained on with their labels, {places}: the score is not "
        "that of unseen images. Give data.eval others."
    )


def _names(recipe: Recipe, name: str, dataset: "SegmentationDataset | None") -> set[str]:
    parts = dataset.datasets if isinstance(dataset, Joined) else (dataset,)
    names: set[str] = set()
    for part, options in zip(parts, recipe.data.entries(name).values(), strict=True):
        assert part is not None
        if callable(item_name := getattr(part, "item_name", None)):
            files = [Path(item_name(index)) for index in range(len(part))]
            real = {folder: folder.resolve() for folder in {file.parent for file in files}}
            names |= {str(real[file.parent] / file.name) for file in files}
        else:
            made = sorted((key, str(value)) for key, value in options.items() if key not in ("size", "resize"))
            names |= {f"{made} {index}" for index in range(len(part))}
    return names
