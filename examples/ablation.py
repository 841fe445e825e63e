"""Train recipes with several seeds each and print their table: mean, deviation and differences paired by seed.

The table, the IoU of each class and a plot are written as leaderboard.md, .json and .svg into ``--out``.

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
from typing import Any

from dalib.cli import count
from dalib.runs.report.curves import nice_ticks
from dalib.runs.report.svg import hint, line, rectangle, text

WIDTH, ROW, RIGHT, BOTTOM = 360, 30, 60, 30  # of the plot, in pixels at its natural size
STYLE = "text{font:12.5px sans-serif}.tick{fill:#666}.grid{stroke:#ddd}"


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
    board = leaderboard(results, options.seeds)
    tables = [table(board, options.seeds), class_table(board)]
    print("\n".join(tables if options.classes else tables[:1]))
    for suffix, content in (
        ("md", "\n\n".join(tables)),
        ("json", json.dumps({"seeds": options.seeds, "systems": board}, indent=1)),
        ("svg", plot(board)),
    ):
        (options.out / f"leaderboard.{suffix}").write_text(content + "\n", encoding="utf-8")


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


def leaderboard(results: dict[str, list[dict]], seeds: list[int]) -> list[dict[str, Any]]:
    """Return the figures of each system, IoU in percent; differences are to the first system, seed by seed."""
    board: list[dict[str, Any]] = []
    baseline = [100 * r["miou"] for r in next(iter(results.values()))]
    counted = next(iter(results.values()))[0]["counted"]
    for name, runs in results.items():
        scores = [100 * r["miou"] for r in runs]
        board.append(
            {
                "system": name,
                "miou": scores,
                "mean": statistics.mean(scores),
                "sd": statistics.stdev(scores) if len(seeds) > 1 else 0.0,
                "difference": [score - base for score, base in zip(scores, baseline, strict=True)],
                "minutes": statistics.mean(r["seconds"] for r in runs) / 60,
                "iou": {c: statistics.mean(100 * (r["iou"][c] or 0.0) for r in runs) for c in counted},
            }
        )
    return board


def table(board: list[dict[str, Any]], seeds: list[int]) -> str:
    """Return a Markdown table with a row for each system."""
    lines = [
        f"| system | {' | '.join(f'seed {s}' for s in seeds)} | mean | sd | difference by seed | minutes |",
        f"|---|{'---:|' * len(seeds)}---:|---:|---|---:|",
    ]
    for row in board:
        cells = [f"{score:.1f}" for score in (*row["miou"], row["mean"], row["sd"])]
        cells += [", ".join(f"{each:+.1f}" for each in row["difference"]), f"{row['minutes']:.1f}"]
        lines.append(f"| {row['system']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def class_table(board: list[dict[str, Any]]) -> str:
    """Return a Markdown table of every counted class's IoU, averaged over seeds."""
    counted = board[0]["iou"]
    lines = [f"| system | {' | '.join(counted)} |", f"|---|{'---:|' * len(counted)}"]
    lines += [f"| {row['system']} | {' | '.join(f'{iou:.1f}' for iou in row['iou'].values())} |" for row in board]
    return "\n".join(lines)


def plot(board: list[dict[str, Any]]) -> str:
    """Return an SVG file's text: a bar of each system's mean, and a dot for each seed."""
    ticks = nice_ticks(0.0, max(score for row in board for score in row["miou"]))
    bottom = ROW * len(board) + ROW / 3
    left = 16 + 7.5 * max(len(row["system"]) for row in board)

    def x(value: float) -> float:
        return left + WIDTH * value / ticks[-1]

    shapes = [line(x(tick), 0, x(tick), bottom, "grid") for tick in ticks]
    shapes += [text(x(tick), bottom + 16, f"{tick:g}", "tick", "middle") for tick in ticks]
    for index, row in enumerate(board):
        middle = ROW * (index + 2 / 3)
        shapes.append(text(left - 8, middle + 4, row["system"], "name", "end"))
        shapes.append(rectangle(left, middle - ROW / 4, x(row["mean"]) - left, ROW / 2, "#7aa6d8"))
        for score in row["miou"]:
            dot = f'<circle cx="{x(score):.5g}" cy="{middle:.5g}" r="3"/>'
            shapes.append(hint(dot, f"mIoU {score:.1f} %"))
        shapes.append(text(x(max(row["miou"])) + 8, middle + 4, f"{row['mean']:.1f}", "figure"))
    size = f'viewBox="0 0 {left + WIDTH + RIGHT} {bottom + BOTTOM:.5g}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}><style>{STYLE}</style>{"".join(shapes)}</svg>'


if __name__ == "__main__":
    main()
