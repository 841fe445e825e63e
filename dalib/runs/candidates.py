"""The evaluations of a run as candidates for ``best.pt``, judged by the mIoU and by validators."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dalib.core.create import validator_from
from dalib.core.engine import Engine
from dalib.errors import RecipeError
from dalib.evaluation.result import Result
from dalib.evaluation.validators import Validator
from dalib.runs.recipe import MIOU, Recipe


def validators_of(recipe: Recipe) -> dict[str, Validator]:
    """Return the recipe's validators by name, that of ``evaluate.best`` included."""
    chosen = recipe.evaluate.validator_options()
    return {options["use"]: validator_from(options, path) for path, options in chosen.items()}


def finite(score: float) -> float | None:
    """Return a score, None where it is not known."""
    return score if math.isfinite(score) else None


def needs_of(validators: Mapping[str, Validator]) -> frozenset[str]:
    """Return all that validators look at."""
    return frozenset[str]().union(*(validator.needs for validator in validators.values()))


def check_teacher(validators: Mapping[str, Validator], engine: Engine) -> None:
    """Raise RecipeError if a validator compares student and teacher and there is no teacher."""
    lacking = [name for name, validator in validators.items() if "agreement" in validator.needs]
    if lacking and engine.teacher is None:
        raise RecipeError(
            f"evaluate: the validator {lacking[0]!r} compares student and teacher, and no strategy of this stack asks "
            "for a teacher; take another one."
        )


@dataclass
class Candidates:
    """The evaluations of one run so far.

    Args:
        by: what is best, ``miou`` or one of the ``validators``.
        images: how many each evaluation is on; those on fewer or more are not compared.

    Fields:
        steps: of each evaluation. mious: of each, nan without labels.
        best_step: of the evaluation whose weights ``best.pt`` has; 0 before the first.
    """

    by: str
    validators: Mapping[str, Validator]
    images: int
    steps: list[int] = field(default_factory=list)
    mious: list[float] = field(default_factory=list)
    best_step: int = 0

    def add(self, step: int, result: Result) -> dict[str, float]:
        """Add an evaluation, once a step, and return its figures by name; those that are not known are left out."""
        if step not in self.steps:
            self.steps.append(step)
            self.mious.append(math.nan if result.miou is None else result.miou)
            for validator in self.validators.values():
                validator.add(result.evidence)
        figures = result.label_free.figures() if result.label_free else {}
        figures |= {name: validator.scores()[-1] for name, validator in self.validators.items()}
        return {name: value for name, value in {MIOU: self.mious[-1], **figures}.items() if math.isfinite(value)}

    def improved(self) -> bool:
        """Return whether the last evaluation is better than that of ``best.pt``, which it then replaces.

        The first is kept before a validator that compares evaluations knows its score.
        """
        scores = self._scores()
        first = not self.best_step and self.by != MIOU
        if not first and (math.isnan(scores[-1]) or not self._better(scores[-1], self.best)):
            return False
        self.best_step = self.steps[-1]
        return True

    @property
    def best(self) -> float:
        """The score of the evaluation whose weights ``best.pt`` has, as things stand; nan before the first."""
        return self._of_best(self._scores()) if self.best_step else math.nan

    def last_scores(self) -> dict[str, float | None]:
        """Return the validators' scores of the last evaluation by name; None where one is not known."""
        return {name: finite(validator.scores()[-1]) for name, validator in self.validators.items()}

    @property
    def highest_miou(self) -> tuple[float, int]:
        """The highest mIoU so far and its step; -1 and 0 where none is known."""
        known = [(miou, -step) for miou, step in zip(self.mious, self.steps, strict=True) if not math.isnan(miou)]
        miou, step = max(known, default=(-1.0, 0))
        return miou, -step

    def describe_best(self) -> dict[str, Any]:
        """Return the best evaluation's part of ``results.json``; {} where none is known."""
        if math.isnan(self.best):
            return {}
        described = {"miou": finite(self._of_best(self.mious)), "step": self.best_step}
        return described if self.by == MIOU else {**described, "by": self.by, "score": self.best}

    def state_dict(self) -> dict[str, Any]:
        """Return all evaluations as tensors and primitives."""
        states = {name: validator.state_dict() for name, validator in self.validators.items()}
        lists = {"steps": list(self.steps), "mious": list(self.mious)}
        return {"images": self.images, "best_step": self.best_step, **lists, "validators": states}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the evaluations, unless they were on another number of images."""
        if state["images"] != self.images:
            return
        self.steps, self.mious = list(state["steps"]), list(state["mious"])
        self.best_step = int(state["best_step"])
        for name, validator in self.validators.items():
            validator.load_state_dict(state["validators"][name])

    def _scores(self) -> list[float]:
        return self.mious if self.by == MIOU else list(self.validators[self.by].scores())

    def _of_best(self, scores: list[float]) -> float:
        return scores[self.steps.index(self.best_step)]

    def _better(self, score: float, other: float) -> bool:
        higher = self.by == MIOU or self.validators[self.by].higher
        return math.isnan(other) or (score > other if higher else score < other)
