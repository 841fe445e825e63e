"""Train recipes with several seeds each and print their table: mean, deviation and differences paired by seed.

    python examples/ablation.py examples/recipes/diorama/*.yaml --seeds 0 1 2 --out runs/diorama train.steps=600

Every run is an ordinary ``dalib train --resume``: a finished run is not repeated, an interrupted one continues, and a
folder with another recipe's run is refused.
"""

import argparse
import json
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dalib.cli import count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("arguments", nargs="+", metavar="RECIPE or key=value")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/ablation"))
    parser.add_argument("--jobs", type=count, default=1, help="runs at a time")
    parser.add_argument("--classes", action="store_true", help="print the IoU of each class, too")
    options = parser.parse_intermixed_args()
    recipes = [Path(a) for a in options.arguments if "=" not in a]
    if len({recipe.stem for recipe in recipes}) < len(recipes):
        parser.error("two recipes have one file name, which names their runs; rename one.")
    overrides = [a for a in options.arguments if "=" in a]
    jobs = [(recipe, seed, options.out / f"{recipe.stem}-{seed}") for recipe in recipes for seed in options.seeds]
    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(lambda job: train(*job, overrides), jobs))
    results = {
        recipe.stem: [json.loads((out / "results.json").read_text()) for r, _, out in jobs if r is recipe]
        for recipe in recipes
    }
    print(table(results, options.seeds))
    if options.classes:
        print(class_table(results))


def train(recipe: Path, seed: int, out: Path, overrides: list[str]) -> None:
    """Train one recipe with one seed, from where an earlier call stopped."""
    out.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "dalib", "train", str(recipe), *overrides, f"train.seed={seed}"]
    with (out / "log.txt").open("a") as log:
        status = subprocess.run(
            [*command, "--out", str(out), "--resume"], stdout=log, stderr=log, check=False
        ).returncode
    if status:
        sys.exit(f"{recipe} with seed {seed} failed with status {status}; see {out / 'log.txt'}")
    print(f"{out}: mIoU {100 * json.loads((out / 'results.json').read_text())['miou']:.1f}", flush=True)


def table(results: dict[str, list[dict]], seeds: list[int]) -> str:
    """Return a Markdown table; differences are to the first recipe, seed by seed."""
    lines = [
        f"| system | {' | '.join(f'seed {s}' for s in seeds)} | mean | sd | difference by seed | minutes |",
        f"|---|{'---:|' * len(seeds)}---:|---:|---|---:|",
    ]
    baseline = [100 * r["miou"] for r in next(iter(results.values()))]
    for name, runs in results.items():
        scores = [100 * r["miou"] for r in runs]
        deviation = statistics.stdev(scores) if len(scores) > 1 else 0.0
        differences = ", ".join(f"{score - base:+.1f}" for score, base in zip(scores, baseline, strict=True))
        minutes = statistics.mean(r["seconds"] for r in runs) / 60
        cells = [f"{score:.1f}" for score in scores]
        cells += [f"{statistics.mean(scores):.1f}", f"{deviation:.1f}", differences, f"{minutes:.1f}"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def class_table(results: dict[str, list[dict]]) -> str:
    """Return a Markdown table of every counted class's IoU, averaged over seeds."""
    counted = next(iter(results.values()))[0]["counted"]
    lines = [f"| system | {' | '.join(counted)} |", f"|---|{'---:|' * len(counted)}"]
    for name, runs in results.items():
        means = [statistics.mean(100 * (r["iou"][c] or 0.0) for r in runs) for c in counted]
        lines.append(f"| {name} | {' | '.join(f'{m:.1f}' for m in means)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
