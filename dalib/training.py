"""A run: train what a recipe says, into a folder, and evaluate, picture and report it."""

import json
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

from dalib import checkpoint
from dalib.build import build_dataset, build_engine, build_model, check_classes
from dalib.data.dataset import palette_of
from dalib.display import Display
from dalib.engine import Engine
from dalib.evaluation import Result
from dalib.loading import load_run
from dalib.plan import make_plan
from dalib.recipe import Recipe
from dalib.report import write_report
from dalib.run_folder import RunFolder, environment_of, write_json
from dalib.samples import Samples


def run(
    recipe: Recipe,
    out: str | Path = "runs/run",
    *,
    resume: bool = False,
    before: str | Path | None = None,
    console: Console | None = None,
) -> Result:
    """Train, evaluate and report; return the result on ``data.eval``.

    Args:
        out: the run's folder.
        resume: go on from the folder's last checkpoint; without one, start at step 0.
        before: another run to show beside this one in panels and report, such as the source-only one.

    Raises:
        DalibError: a user's error; the recipe, data and stack are checked before the first step.
    """
    return Run(recipe, Path(out), console or Console(quiet=True), before).go(resume)


class Run:
    """One run in its folder."""

    def __init__(self, recipe: Recipe, out: Path, console: Console, before: str | Path | None = None) -> None:
        self.recipe = recipe
        self.folder = RunFolder(out)
        self.console = console
        self.before = None if before is None else Path(before)
        source, self.target, held_out = (build_dataset(recipe, name) for name in ("source", "target", "eval"))
        assert source is not None and held_out is not None
        self.source, self.eval = source, held_out
        self.palette = palette_of(self.eval)
        self.classes = check_classes(source=self.source, target=self.target, eval=self.eval)
        device = torch.device(recipe.train.device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.engine = build_engine(recipe, build_model(recipe, self.classes, device), self.classes, device)
        make_plan(self.engine.stack, {"source": None} | ({"target": None} if self.target is not None else {}))
        self.seconds = 0.0  # trained so far, earlier sittings included
        self.best = -1.0

    def go(self, resume: bool) -> Result:
        """Train what is missing, then evaluate, picture and report."""
        self._begin(resume)
        samples = Samples(self.eval, self.palette)
        self._picture_before(samples)
        self._train()
        result = self._score(self.engine)
        samples.predict("prediction after", self.engine, teacher=self._teacher)
        samples.write(self.folder.panels)
        self._finish(result)
        return result

    def _begin(self, resume: bool) -> None:
        if resume and self.folder.last.exists():
            state = checkpoint.read(self.folder.last)
            self.engine.load_state_dict(state)
            self.seconds, self.best = state["seconds"], state["best"]
            self.folder.rewind(self.engine.index)
            self.console.print(f"resuming {self.folder.path} at step {self.engine.index}")
        elif resume and self.folder.recipe.exists():
            self.folder.rewind(0)
        else:
            self.folder.start(self.recipe.to_yaml(), environment_of(self.engine.device))

    def _train(self) -> None:
        train, data = self.recipe.train, self.recipe.data
        steps = self.engine.iterate(
            self.source, self.target, steps=train.steps, batch_size=data.batch_size, workers=data.workers
        )
        with Display(self.console, train.steps, self.engine.index) as display:
            started, logged = time.perf_counter() - self.seconds, self.engine.index
            for terms in steps:
                step = self.engine.index
                self.seconds = time.perf_counter() - started
                display.step(step)
                if step % train.log_every == 0 or step == train.steps:
                    self._log(step, terms, display)
                if train.eval_every and step % train.eval_every == 0 and step < train.steps:
                    self._evaluate_between(step, display)
                if step % train.checkpoint_every == 0 or step == train.steps:
                    self._save(self.folder.last)

    def _log(self, step: int, terms: Mapping[str, Tensor], display: Display) -> None:
        """Fetch the step's terms from the device and write them down; the only wait for it in ordinary steps."""
        values = torch.stack([term.float() for term in terms.values()]).tolist() if terms else []
        metrics = {
            "step": step,
            **dict(zip(terms, values, strict=True)),
            "lr": self.engine.optimizer.param_groups[0]["lr"],
            "seconds": round(self.seconds, 3),
            "images_per_second": round(step * self.recipe.data.batch_size / self.seconds, 3),
        }
        self.folder.log(metrics)
        display.log(step, metrics)

    def _save(self, path: Path) -> None:
        extras = {
            "recipe": self.recipe.to_yaml(),
            "classes": list(self.classes),
            "palette": [list(color) for color in self.palette],
            "seconds": self.seconds,
            "best": self.best,
        }
        checkpoint.write(self.engine.state_dict() | extras, path)

    def _evaluate_between(self, step: int, display: Display) -> None:
        """Score the model on the way; the best of these is kept, but results are the last step's."""
        result = self._score(self.engine)
        self.folder.log({"step": step, "eval/miou": result.miou})
        display.say(f"step {step}: mIoU {100 * result.miou:.2f}")
        if result.miou > self.best:
            self.best = result.miou
            self._save(self.folder.best)

    def _score(self, engine: Engine) -> Result:
        options = self.recipe.evaluate
        return engine.evaluate(
            self.eval,
            teacher=self._teacher,
            protocol=options.protocol,
            classes=options.classes,
            batch_size=options.batch_size,
            limit=options.limit,
        )

    def _picture_before(self, samples: Samples) -> None:
        """Picture the run to compare with, or else the model as it starts."""
        if self.before is None:
            if self.engine.index == 0:
                samples.predict("prediction before", self.engine)
            return
        samples.predict("prediction before", load_run(self.before).engine)

    def _finish(self, result: Result) -> None:
        clock = self.engine.clock.totals()
        results = {
            **result.to_dict(),
            "steps": self.engine.index,
            "seconds": round(self.seconds, 1),
            "model": self.recipe.evaluate.model,
            "seed": self.recipe.train.seed,
            "time": {name: round(seconds, 3) for name, seconds in clock.items()},
        }
        if self.before is not None:
            earlier = json.loads(RunFolder(self.before).results.read_text())
            results["before"] = {"miou": earlier["miou"], "iou": earlier["iou"]}
        write_json(self.folder.results, results)
        write_report(self.folder.path)
        self.console.print(result.table())
        self.console.print(f"report: {self.folder.path / 'report.html'}", soft_wrap=True)

    @property
    def _teacher(self) -> bool:
        return self.recipe.evaluate.model == "teacher"
