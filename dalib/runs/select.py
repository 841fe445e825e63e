"""Choosing among the checkpoints of finished runs without a label of the target."""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.table import Table

from dalib.core import checkpoint
from dalib.data.bad_items import BadItems, Readable
from dalib.data.dataset import SegmentationDataset
from dalib.errors import CheckpointError, DalibError
from dalib.evaluation.result import NONE, Result
from dalib.evaluation.validators import Evidence, Validator
from dalib.files import checkpoints_of
from dalib.runs.build import build_eval, build_pictures
from dalib.runs.candidates import finite, needs_of
from dalib.runs.folder import RunFolder
from dalib.runs.held_out import held_out_source
from dalib.runs.loading import LoadedRun, load_run
from dalib.runs.recipe import Recipe

ALIKE = 0.5  # share of one run's checkpoints among the candidates, above which EnsV is warned of


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One checkpoint of a run."""

    run: Path
    checkpoint: Path
    step: int


@dataclass(kw_only=True)
class Ranking:
    """Candidates, and how validators judge them.

    Fields:
        candidates: in the order in which they were added.
        left_out: why others cannot be compared, by path.
    """

    validators: Mapping[str, Validator]
    candidates: list[Candidate] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)

    def add(self, candidate: Candidate, evidence: Evidence) -> None:
        """Add a candidate."""
        self.candidates.append(candidate)
        for validator in self.validators.values():
            validator.add(evidence)

    def scores(self) -> dict[str, list[float]]:
        """Return the candidates' scores by validator; nan where one is not known."""
        return {name: list(validator.scores()) for name, validator in self.validators.items()}

    def order(self, by: str) -> list[int]:
        """Return the candidates' numbers, that of the best first; of equal ones the later is first, unknown ones last.

        The later one of a run has been trained for longer.
        """
        sign = 1 if self.validators[by].higher else -1
        keys = [-math.inf if math.isnan(score) else sign * score for score in self.validators[by].scores()]
        return sorted(range(len(keys)), key=lambda number: (keys[number], number), reverse=True)

    def remarks(self, by: str) -> list[str]:
        """Return sentences on how far the choice can be trusted.

        Raises:
            DalibError: ``by`` knows the score of no candidate.
        """
        scores, chosen = self.scores(), self.order(by)[0]
        if math.isnan(scores[by][chosen]):
            lacks = "it compares candidates, and there is one" if len(self.candidates) == 1 else "see its needs"
            raise DalibError(f"the validator {by!r} knows no score of these checkpoints: {lacks} (docs/choosing.md).")
        firsts = {name: self.order(name)[0] for name in self.validators if name != by}
        others = {name: first for name, first in firsts.items() if not math.isnan(scores[name][first])}
        differing = [f"{name} chooses {self.candidates[n].checkpoint}" for name, n in others.items() if n != chosen]
        said = [
            f"No label was read, so this is a guess: {by} need not rank as the mIoU does, and no validator is known to "
            "do so on every pair of domains. Try it on a pair whose target has labels (docs/choosing.md)."
        ]
        if differing:
            agreeing = len(others) - len(differing)
            said.append(f"{agreeing} of {len(others)} other validators agree with it; {'; '.join(differing)}.")
        if by.startswith("ensv"):
            said += self._on_ensemble()
        return said

    def _on_ensemble(self) -> Iterator[str]:
        total = len(self.candidates)
        runs = [candidate.run for candidate in self.candidates]
        largest = max(set(runs), key=runs.count)
        if total < 3:
            yield f"EnsV compares each candidate with the mean of all, and there are {total}: give it more."
        elif runs.count(largest) > ALIKE * total and len(set(runs)) > 1:
            yield (
                f"{runs.count(largest)} of the {total} candidates are of {largest}; checkpoints of one run predict "
                "alike, and vote for each other."
            )
        elif len(set(runs)) == 1:
            yield "All candidates are of one run, predict alike and vote for each other; runs of other recipes help."

    def to_dict(self, by: str) -> dict[str, Any]:
        """Return the ranking for a JSON file."""
        scores = self.scores()
        return {
            "by": by,
            "chosen": str(self.candidates[self.order(by)[0]].checkpoint),
            "higher": {name: validator.higher for name, validator in self.validators.items()},
            "candidates": [
                {
                    "run": str(self.candidates[number].run),
                    "checkpoint": str(self.candidates[number].checkpoint),
                    "step": self.candidates[number].step,
                    "scores": {name: finite(of[number]) for name, of in scores.items()},
                }
                for number in self.order(by)
            ],
            "left_out": self.left_out,
            "remarks": self.remarks(by),
        }

    def table(self, by: str) -> Table:
        """Return a table of the candidates, the chosen one first."""
        scores, names = self.scores(), [by, *(name for name in self.validators if name != by)]
        runs = {candidate.run for candidate in self.candidates}
        short = len({run.name for run in runs}) == len(runs)
        table = Table("run", "checkpoint", title=f"{len(self.candidates)} candidates by {by}, no label read")
        table.add_column("step", justify="right")
        for name in names:
            table.add_column(f"{name} {'↑' if self.validators[name].higher else '↓'}", justify="right")
        for number in self.order(by):
            one = self.candidates[number]
            values = [NONE if math.isnan(scores[name][number]) else f"{scores[name][number]:.4f}" for name in names]
            table.add_row(one.run.name if short else str(one.run), one.checkpoint.stem, str(one.step), *values)
        return table


def find_candidates(runs: Sequence[Path]) -> list[Candidate]:
    """Return the checkpoints of runs, a step once, or those that are named; in the order given, and of their steps.

    Raises:
        CheckpointError: a path is neither a run with checkpoints nor a checkpoint.
    """
    found: list[Candidate] = []
    for path in runs:
        folder = RunFolder(path)
        files = [path]
        if path.is_dir():
            kept = [file for file in checkpoints_of(path) if file != folder.previous]
            files = [*kept, folder.best] if folder.best.exists() else kept
        if not files:
            raise CheckpointError(f"{path}: expected a run with checkpoints, found none in it.")
        run = path if path.is_dir() else path.parent.parent
        by_step = {_step(file): file for file in reversed(files)}  # of one step last.pt, a kept one, then best.pt
        found += [Candidate(run=run, checkpoint=file, step=step) for step, file in sorted(by_step.items())]
    return found


def _step(file: Path) -> int:
    kept = re.fullmatch(r"step_(\d+)", file.stem)
    if kept:
        return int(kept[1])
    state = checkpoint.read(file)
    if "step" not in state:
        raise CheckpointError(f"{file} holds no step; expected a checkpoint that `dalib train` wrote.")
    return int(state["step"])


class Comparison:
    """The images and settings on which all candidates are judged, by default those of the first candidate's recipe.

    Args:
        recipe: whose evaluation data and settings count; None: the first candidate's, and what has others is left out.
        needs: of the validators, see ``dalib.Validator``.
        labels: read the labels of the evaluation data, too, and give the mIoU beside the evidence.
    """

    def __init__(self, recipe: Recipe | None, needs: frozenset[str], *, labels: bool = False) -> None:
        self._recipe, self._needs, self._labels = recipe, needs, labels
        self._own = recipe is None  # the candidates' own data are compared
        self._classes: tuple[str, ...] | None = None
        self._images: SegmentationDataset | None = None
        self._source: SegmentationDataset | None = None

    def judge(self, loaded: LoadedRun, progress: Callable[[int, int], None] | None = None) -> Result:
        """Return the result of a candidate, with the evidence for the validators.

        Raises:
            IncomparableError: its classes or evaluation data are others.
        """
        recipe = self._recipe = self._recipe or loaded.recipe
        self._classes = self._classes or loaded.classes
        if self._images is None and self._labels:
            self._images, _ = build_eval(recipe, loaded.classes)
        elif self._images is None:
            self._images = Readable(build_pictures(recipe), "target", BadItems())
        if loaded.classes != self._classes:
            differing = sorted(set(loaded.classes) ^ set(self._classes)) or ["their order"]
            raise IncomparableError(f"its classes are others: they differ in {', '.join(differing[:5])}")
        if self._own and (other := _differing(recipe, loaded.recipe, self._needs)):
            raise IncomparableError(f"its {other} are others; --recipe names what all are judged on")
        settings, engine = recipe.evaluate, loaded.engine
        options: dict[str, Any] = {
            "teacher": loaded.recipe.evaluate.model == "teacher",
            "protocol": settings.protocol,
            "classes": settings.classes,
            "batch_size": settings.batch_size,
            "workers": recipe.data.workers,
            "progress": progress,
        }
        needs = self._needs - ({"agreement"} if engine.teacher is None else set())
        result = engine.evaluate(self._images, limit=settings.limit, needs=needs, **options)
        if "source" in self._needs:
            self._source = self._source or held_out_source(recipe, result.images)
            source = engine.evaluate(self._source, **options).miou
            result = replace(result, evidence=replace(result.evidence, source=source))
        return result


class IncomparableError(DalibError):
    """A candidate was trained for other classes, or is judged on other data."""


def select(
    runs: Sequence[str | Path],
    validators: Mapping[str, Validator],
    *,
    recipe: Recipe | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Ranking:
    """Judge the checkpoints of runs by validators, without a label of the target.

    Args:
        runs: folders of runs, with all checkpoints in them, or single checkpoints.
        recipe: whose evaluation data and settings count; None: those of the first candidate.
        progress: called with (images done, images in all) of one candidate.

    Raises:
        DalibError: a path is no run, a checkpoint cannot be read, or nothing can be judged.
    """
    ranking = Ranking(validators=validators)
    comparison = Comparison(recipe, needs_of(validators))
    for candidate in find_candidates([Path(run) for run in runs]):
        try:
            result = comparison.judge(load_run(candidate.checkpoint), progress)
        except IncomparableError as error:
            ranking.left_out[str(candidate.checkpoint)] = str(error)
        else:
            ranking.add(candidate, result.evidence)
    return ranking


def _differing(recipe: Recipe, other: Recipe, needs: frozenset[str]) -> str:
    """Return what candidates are judged on that differs, "" where it is the same."""
    ours, theirs = recipe.data, other.data
    if ours.entries("eval") != theirs.entries("eval"):
        return "evaluation data"
    if "source" in needs and ours.entries("source") != theirs.entries("source"):
        return "source data"
    settings = [(one.evaluate.protocol, one.evaluate.limit) for one in (recipe, other)]
    return "" if settings[0] == settings[1] else "protocol or number of images"
