"""Reading of a run folder for its report."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dalib.errors import DataError

Series = list[tuple[int, float]]


@dataclass(frozen=True, eq=False, kw_only=True)
class RunRecord:
    """The parts of a run; what its folder does not hold is empty.

    Fields:
        name: of the folder.
        curves: (step, value) of everything logged, by name, in the order of first appearance; value may be nan.
        results, environment: as stored.
        recipe: the text of ``recipe.yaml``.
        panels: paths of the sample panels, sorted.
    """

    name: str
    curves: Mapping[str, Series]
    results: Mapping[str, Any]
    environment: Mapping[str, Any]
    recipe: str
    panels: tuple[Path, ...]


def read_run(folder: Path) -> RunRecord:
    """Read a run folder.

    Raises:
        DataError: it holds no part of a run.
    """
    recipe = folder / "recipe.yaml"
    run = RunRecord(
        name=folder.resolve().name,
        curves=_curves(folder / "metrics.jsonl"),
        results=_json(folder / "results.json"),
        environment=_json(folder / "environment.json"),
        recipe=recipe.read_text(encoding="utf-8") if recipe.is_file() else "",
        panels=tuple(sorted((folder / "panels").glob("*.png"))),
    )
    if not (run.curves or run.results or run.recipe):
        raise DataError(f"{folder}: expected a run folder with recipe.yaml, metrics.jsonl or results.json, found none.")
    return run


def _json(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return loaded


def _curves(path: Path) -> dict[str, Series]:
    # A step may have several lines; of two values the later one counts.
    by_step: dict[int, dict[str, Any]] = {}
    for record in _records(path):
        by_step.setdefault(record["step"], {}).update(record)
    curves: dict[str, Series] = {}
    for step in sorted(by_step):
        for name, value in by_step[step].items():
            if name != "step" and isinstance(value, int | float | None):
                curves.setdefault(name, []).append((step, math.nan if value is None else float(value)))
    return curves


def _records(path: Path) -> Iterator[dict[str, Any]]:
    if not path.is_file():
        return
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            continue  # a killed run may leave half a line
