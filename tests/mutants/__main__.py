"""`python -m tests.mutants [FILE ...]`: which changes of the code no test notices, as a table and a list."""

import argparse
import os
import time
from pathlib import Path

import yaml
from rich.console import Console

from tests.mutants.mutations import mutants_of
from tests.mutants.runner import reached, survivors, warm

TARGETS = Path(__file__).with_name("targets.yaml")
console = Console(soft_wrap=True, highlight=False, markup=False)


def main() -> int:
    """Try the mutants of the files; status 1 when fewer than 90 % of those that are not equivalent are killed."""
    targets = yaml.safe_load(TARGETS.read_text())
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("files", nargs="*", metavar="FILE", help="default: every file of targets.yaml")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="forks at a time")
    options = parser.parse_args()
    warm()
    rows = []
    for file in options.files or targets:
        started, named = time.perf_counter(), targets[file].get("survivors", {})
        equivalent = targets[file].get("equivalent", {})
        tests = reached(Path(file), targets[file]["tests"])
        mutants = mutants_of(Path(file))
        survive = same = 0
        for mutant, survives in survivors(Path(file), mutants, tests, options.jobs):
            survive += survives
            same += survives and mutant.change in equivalent
            if survives and mutant.change not in {**equivalent, **named}:
                console.print(f"survives, without a reason in targets.yaml: line {mutant.lines.start}: {mutant.change}")
        rows.append((file, len(mutants) - same, len(mutants) - survive, survive - same, same))
        console.print(
            f"{file}: {' of '.join(map(str, rows[-1][2:0:-1]))} killed, {time.perf_counter() - started:.0f} s"
        )
    total = tuple(map(sum, zip(*(row[1:] for row in rows), strict=True)))
    console.print("\n| file | mutants | killed | survive | equivalent beside |\n|---|---|---|---|---|")
    for row in (*rows, ("all", *total)):
        console.print("| " + " | ".join(map(str, row)) + " |")
    return 0 if total[1] >= 0.9 * total[0] else 1


raise SystemExit(main())
