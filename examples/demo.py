"""The demo of ``make demo``: source only, then the full stack for the same steps, on procedural streets."""

import argparse
import json
from pathlib import Path

from rich.console import Console
from rich.table import Table

from dalib import DalibError, Recipe, load_recipe, run
from dalib.cli import configure_logging

RECIPE = Path(__file__).parent / "recipes" / "demo.yaml"

# Measured once, so that the demo need not train it: seed 0, 400 steps, last checkpoint, 200 test scenes, by
# dalib train examples/recipes/demo.yaml 'strategies=[{use: supervised}]' data.source.domain=target
TARGET_SUPERVISED = 0.4292


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/demo"))
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes to the recipe, e.g. train.steps=100")
    options = parser.parse_args()
    configure_logging()
    console = Console()
    source_only, adapted = options.out / "source_only", options.out / "stack"
    plain = load_recipe(RECIPE, ["strategies=[{use: supervised}]", *options.overrides])
    stack = load_recipe(RECIPE, options.overrides)
    before = train(console, "1/2  source only", plain, source_only)
    after = train(console, "2/2  the stack: jitter and blur, FDA, DACS", stack, adapted, before=source_only)
    console.print(table(before, after, stored=not options.overrides))
    console.print(f"pictures: {adapted / 'panels'}", soft_wrap=True)
    console.print(f"report:   {adapted / 'report.html'}", soft_wrap=True)


def train(console: Console, title: str, recipe: Recipe, out: Path, before: Path | None = None) -> dict:
    """Run a recipe, or resume it where an earlier demo was interrupted, and return its results."""
    console.rule(title)
    run(recipe, out, resume=True, before=before, console=console)
    return json.loads((out / "results.json").read_text())


def table(before: dict, after: dict, stored: bool) -> Table:
    """Return the comparison; the stored figure belongs to the unchanged recipe alone."""
    made = Table(
        "trained with", "mIoU %", "minutes", title=f"{before['images']} scenes never seen, of the target domain"
    )
    made.columns[1].justify = made.columns[2].justify = "right"
    made.add_row("labels of the source alone", f"{100 * before['miou']:.1f}", f"{before['seconds'] / 60:.1f}")
    made.add_row("the stack, no label of the target", f"{100 * after['miou']:.1f}", f"{after['seconds'] / 60:.1f}")
    if stored:
        made.add_row("labels of the target (stored)", f"{100 * TARGET_SUPERVISED:.1f}", "")
        closed = (after["miou"] - before["miou"]) / (TARGET_SUPERVISED - before["miou"])
        made.caption = f"the stack closes {100 * closed:.0f} % of the gap"
    return made


if __name__ == "__main__":
    try:
        main()
    except DalibError as error:
        raise SystemExit(f"demo: {error}") from None
