"""How well does each validator choose? Judge finished runs without labels, then look at the labels.

    python examples/choosing.py runs/diorama/dacs-0 runs/diorama/fda-0 --out runs/choosing

The runs need several kept checkpoints (`train.keep_every`), the same classes and the same labelled evaluation data. For
each validator, within every run and between the runs' last checkpoints: Spearman's rank correlation with the mIoU, the
gap (mIoU of the best candidate less that of the chosen one, in points) and whether the worst candidate was avoided.
`--out` names where `choosing.md` and `choosing.json` are written.
"""

import argparse
import math
import statistics
from pathlib import Path

from rich.console import Console

from dalib.core.create import validator_from
from dalib.discovery import default_registry
from dalib.errors import DalibError
from dalib.evaluation.validators import Evidence, Validator
from dalib.files import write_json, write_text
from dalib.runs.candidates import needs_of
from dalib.runs.loading import load_run
from dalib.runs.progress import image_bar
from dalib.runs.select import Candidate, Comparison, IncomparableError, Ranking, find_candidates

FEWEST = 3  # candidates that are worth a correlation


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--validators", nargs="+", metavar="V", help="default: all but source and agreement")
    parser.add_argument("--out", type=Path, metavar="DIR")
    options = parser.parse_args()
    known = [name for name in default_registry().names("validator") if name not in ("source", "agreement")]
    try:
        groups = judge(options.runs, options.validators or known)
    except DalibError as error:
        parser.error(str(error))
    print(text := markdown(groups))
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        write_text(options.out / "choosing.md", f"{text}\n")
        write_json(options.out / "choosing.json", {name: group.to_dict() for name, group in groups.items()})


class Group:
    """Candidates to choose among, with the mIoU that the labels give each."""

    def __init__(self, names: list[str]) -> None:
        self.ranking = Ranking(validators=validators(names))
        self.mious: list[float] = []

    def add(self, candidate: Candidate, evidence: Evidence, miou: float) -> None:
        self.ranking.add(candidate, evidence)
        self.mious.append(miou)

    def figures(self) -> dict[str, dict[str, float | bool | None]]:
        """Return of each validator the correlation, the gap in points and whether the worst was avoided."""
        return {name: self._figures(name, scores) for name, scores in self.ranking.scores().items()}

    def _figures(self, name: str, scores: list[float]) -> dict[str, float | bool | None]:
        if any(map(math.isnan, scores)):
            return {"correlation": None, "gap": None, "avoids_worst": None}
        chosen = self.mious[self.ranking.order(name)[0]]
        sign = 1 if self.ranking.validators[name].higher else -1
        return {
            "correlation": spearman([sign * score for score in scores], self.mious),
            "gap": 100 * (max(self.mious) - chosen),
            "avoids_worst": chosen > min(self.mious),
        }

    def to_dict(self) -> dict:
        scores = self.ranking.scores()
        candidates = [
            {
                "checkpoint": str(candidate.checkpoint),
                "step": candidate.step,
                "miou": miou,
                "scores": {name: None if math.isnan(of[i]) else of[i] for name, of in scores.items()},
            }
            for i, (candidate, miou) in enumerate(zip(self.ranking.candidates, self.mious, strict=True))
        ]
        return {"candidates": candidates, "validators": self.figures()}


def judge(runs: list[Path], names: list[str]) -> dict[str, Group]:
    """Return a group for each run, and one of the last checkpoints of all under the name "between runs"."""
    comparison = Comparison(None, needs_of(validators(names)), labels=True)
    groups: dict[str, Group] = {}
    between = Group(names)
    with image_bar(Console(stderr=True), "judging") as progress:
        for run in runs:
            group = groups[str(run)] = Group(names)
            candidates = find_candidates([run])
            if len(candidates) < FEWEST:
                found = f"expected at least {FEWEST} checkpoints, found {len(candidates)}"
                raise DalibError(f"{run}: {found}; train.keep_every keeps some.")
            for candidate in candidates:
                try:
                    result = comparison.judge(load_run(candidate.checkpoint), progress)
                except IncomparableError as error:
                    raise DalibError(f"{candidate.checkpoint} cannot be compared: {error}.") from None
                if result.miou is None:
                    raise DalibError(f"{run}: its evaluation data have no labels, which tell how well was chosen.")
                group.add(candidate, result.evidence, result.miou)
            between.add(candidate, result.evidence, result.miou)
    return groups | ({"between runs": between} if len(runs) >= FEWEST else {})


def spearman(one: list[float], other: list[float]) -> float | None:
    """Return the rank correlation; None where either is constant."""
    if len(set(one)) == 1 or len(set(other)) == 1:
        return None
    return statistics.correlation(ranks(one), ranks(other))


def ranks(values: list[float]) -> list[float]:
    """Return the rank of each value, equal ones having the mean of theirs."""
    return [(sum(v < value for v in values) + sum(v <= value for v in values) + 1) / 2 for value in values]


def validators(names: list[str]) -> dict[str, Validator]:
    return {name: validator_from({"use": name}, "--validators") for name in names}


def markdown(groups: dict[str, Group]) -> str:
    """Return a table of means over the runs and of the choice between them, and one of each run."""
    within = {name: group.figures() for name, group in groups.items() if name != "between runs"}
    between = groups["between runs"].figures() if "between runs" in groups else {}
    lines = [
        "| validator | correlation within | gap within | avoids the worst within | correlation between | gap between "
        "| avoids the worst between |",
        "|---|---:|---:|---:|---:|---:|---|",
    ]
    for name in next(iter(within.values())):
        of_runs = [figures[name] for figures in within.values()]
        avoided = [one["avoids_worst"] for one in of_runs if one["avoids_worst"] is not None]
        cells = [mean([one["correlation"] for one in of_runs], "+.2f"), mean([one["gap"] for one in of_runs], ".1f")]
        cells += [f"{sum(avoided)} of {len(avoided)}" if avoided else "–"]
        other = between.get(name, {"correlation": None, "gap": None, "avoids_worst": None})
        cells += [mean([other["correlation"]], "+.2f"), mean([other["gap"]], ".1f")]
        cells += [{True: "yes", False: "no", None: "–"}[other["avoids_worst"]]]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += ["", f"| correlation (gap) | {' | '.join(next(iter(within.values())))} | mIoU of the candidates |"]
    lines.append(f"|---|{'---:|' * len(next(iter(within.values())))}---|")
    for name, figures in (within | ({"between runs": between} if between else {})).items():
        cells = [f"{mean([one['correlation']], '+.2f')} ({mean([one['gap']], '.1f')})" for one in figures.values()]
        mious = ", ".join(f"{100 * miou:.1f}" for miou in groups[name].mious)
        lines.append(f"| {Path(name).name} | {' | '.join(cells)} | {mious} |")
    return "\n".join(lines)


def mean(values: list[float | None], form: str) -> str:
    known = [value for value in values if value is not None]
    return format(statistics.mean(known), form) if known else "–"


if __name__ == "__main__":
    main()
