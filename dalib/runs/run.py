"""A run: training by a recipe into a folder, evaluation, pictures and report."""

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import closing, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.status import Status
from torch import Tensor

from dalib import ranks
from dalib.core import checkpoint
from dalib.core.arguments import check_sizes
from dalib.core.trained_classes import check_logits, check_trained_classes
from dalib.data.bad_items import BadItems, Readable
from dalib.data.dataset import absent_classes, label_pixels, mask_advice, palette_of
from dalib.data.loader import check_not_empty, first_look
from dalib.device import choose_device
from dalib.errors import CheckpointError, DalibError, RecipeError
from dalib.evaluation.result import Result, class_ids
from dalib.files import write_json, write_text
from dalib.labels import IGNORE
from dalib.models.activation_checkpointing import checkpoint_activations
from dalib.models.batchnorm import synchronised
from dalib.runs.build import build_dataset, build_engine, build_eval, build_model, check_classes, compiled
from dalib.runs.candidates import Candidates, check_teacher, needs_of, validators_of
from dalib.runs.environment import environment_of
from dalib.runs.folder import RunFolder
from dalib.runs.held_out import held_out_source, trained_on
from dalib.runs.loading import Earlier
from dalib.runs.lock import locked
from dalib.runs.pictures import Samples
from dalib.runs.progress import Display, image_bar, tell
from dalib.runs.recipe import MIOU, Recipe
from dalib.runs.report import write_report
from dalib.runs.resuming import check_same_data, check_same_recipe, identities
from dalib.runs.saving import Saving
from dalib.runs.signals import Interruption


def run(
    recipe: Recipe,
    out: str | Path = "runs/run",
    *,
    resume: bool = False,
    before: str | Path | None = None,
    console: Console | None = None,
) -> Result:
    """Train, evaluate and report; return the result on ``data.eval``.

    Where torch.distributed is initialised, every rank calls it; the first alone writes and says anything.

    Args:
        out: the run's folder.
        resume: continue from the folder's newest undamaged checkpoint; without one, start at step 0.
        before: another run to show beside this one in panels and report, such as the source-only one.

    Raises:
        DalibError: the user has to act; recipe, data and stack are checked before the first step.
    """
    if console is None or ranks.rank():
        console = Console(quiet=True, force_terminal=False)
    return Run(recipe, Path(out), console, before).go(resume)


class Run:
    """One run in its folder."""

    def __init__(self, recipe: Recipe, out: Path, console: Console, before: str | Path | None = None) -> None:
        self.recipe = recipe
        self.folder = RunFolder(out)
        self.console = console
        self.first = ranks.rank() == 0  # which alone has the folder
        with ranks.alone():
            self.before = Earlier.read(Path(before)) if before is not None and self.first else None
        with self.console.status("reading the data") as status:
            self._build(status)

    def _build(self, status: Status) -> None:
        recipe = self.recipe
        _check_divides(recipe)
        built = {name: build_dataset(recipe, name) for name in recipe.data.names()}
        self.streams = {name: dataset for name, dataset in built.items() if dataset is not None}
        trained = {name: dataset for name, dataset in self.streams.items() if name != "target"}
        self.eval, self.unlabelled = build_eval(recipe, check_classes(trained) if trained else None)
        self.classes = check_classes(self.streams | ({} if self.unlabelled else {"eval": self.eval}))
        self.palette = palette_of(self.streams.get("source", self.eval) if self.unlabelled else self.eval)
        class_ids(recipe.evaluate.classes, self.classes)
        status.update("building the model")
        device = choose_device(recipe.train.device)
        model = build_model(recipe, self.classes, device)
        if recipe.train.sync_batch_norm:
            model = synchronised(model, device)  # before the blocks' forwards are replaced
        if recipe.train.checkpoint_activations:
            checkpoint_activations(model)
        model = compiled(model, device) if recipe.train.compile else model
        self.engine = build_engine(recipe, model, self.classes, device)
        self.engine.stack.check_training()
        self.pixels = {name: label_pixels(dataset) for name, dataset in trained.items()}
        check_trained_classes(self.engine.stack.strategies, self.engine.segmentation_loss, self.classes, self.pixels)
        check_logits(model, self.engine.segmentation_loss)
        check_not_empty(self.eval, "eval")
        self.data = identities({**self.streams, "eval": self.eval})
        read = self.engine.stack.read(trained)
        self.seen = "" if self.unlabelled else trained_on(recipe, {**read, "eval": self.eval})
        self.bad_items = BadItems(recipe.data.max_bad_items if recipe.data.on_bad_item == "skip" else 0, self._skipping)
        if self.unlabelled and self.bad_items.limit:
            self.eval = Readable(self.eval, "target", self.bad_items)
        status.update("looking at the first images")
        seen = {name: first_look(dataset, name, self.bad_items) for name, dataset in self.streams.items()}
        sizes = {name: stream.size for name, stream in seen.items()}
        plan = self.engine.plan(sizes, {name: stream.fields() for name, stream in seen.items()})
        check_sizes(self.engine.model, plan.rows[-1].sizes if plan.rows else sizes)
        scored = min(len(self.eval), recipe.evaluate.limit or len(self.eval))
        self.candidates = Candidates(recipe.evaluate.best, validators_of(recipe), scored)
        self.needs = needs_of(self.candidates.validators)
        check_teacher(self.candidates.validators, self.engine)
        self.source = held_out_source(recipe, scored, self.streams) if "source" in self.needs else None
        self.shares = self._look_at_labels()
        self.seconds = 0.0  # of training, before a resume included
        self.saving = Saving(self.engine, self.folder, recipe.train, self._extras)
        self.time: Counter[str] = Counter()  # by section, before a resume
        self._logged = (0, 0.0)  # step and seconds of the last line of metrics

    def go(self, resume: bool) -> Result:
        """Train the missing steps, then evaluate, write the panels and report."""
        with locked(self.folder.path) if self.first else nullcontext(), closing(self.engine):
            return self._go(resume)

    def _go(self, resume: bool) -> Result:
        samples = Samples(self.eval, self.palette) if self.first else None
        fresh = self.first and not self.folder.recipe.exists()
        try:
            with self.console.status("preparing the run"):
                self._begin(resume, samples)
            self._train()
        except (DalibError, KeyboardInterrupt):
            if fresh and not self.engine.index:  # leave no run behind if no step was done
                self.folder.discard()
            raise
        with image_bar(self.console, "evaluating") as progress:
            result = self._score(progress)
        figures = self._judge(result)
        if self.recipe.train.eval_every:
            self.saving.save_judged()
        self._gather_bad_items()
        if samples is not None:
            self.folder.log_score(self.engine.index, figures)
            with ranks.alone():
                samples.predict("prediction", self.engine, teacher=self._teacher)
            samples.write(self.folder.panels)
            self._finish(result)
        ranks.from_first(None)  # for the others, too, a run is over when its files are there
        return result

    def _begin(self, resume: bool, samples: Samples | None) -> None:
        state = None if samples is None else self._begin_writing(resume or ranks.restarted(), samples)
        state = ranks.from_first(state)  # the others need no folder
        if state is not None:  # after the prediction, which shows the untrained model
            self._restore(state)
            ranks.stepped(self.engine.index)
        ranks.begun()
        if (world := ranks.world()) > 1:
            images = self.recipe.data.batch_size // world
            tell(
                self.console,
                f"{world} ranks on {self.engine.device.type}, {images} images of each stream and step each",
            )

    def _begin_writing(self, resume: bool, samples: Samples) -> dict[str, Any] | None:
        """Start the folder, or return the state to resume from."""
        state = None
        if resume and self.folder.checkpoints:
            if changed := check_same_recipe(self.folder.path, self.recipe.to_yaml()):
                self._warn(changed)
            state = self.folder.newest()
        if state is not None:
            check_same_data(self.folder.path, state.get("data", {}), self.data)
        else:
            self.folder.start(self.recipe.to_yaml(), environment_of(self.engine.device), again=resume)
        if self.before or self.recipe.model.get("weights"):  # random weights predict noise
            with ranks.alone():
                samples.predict("prediction before", self.before.engine if self.before else self.engine)
        return state

    def _restore(self, state: Mapping[str, Any]) -> None:
        if not {"seconds", "candidates", "time", "bad_items"} <= state.keys():
            raise CheckpointError(f"the checkpoint in {self.folder.path} is not one that `dalib train` wrote.")
        with checkpoint.taken_from(self.folder.path):
            self.engine.load_state_dict(state)
            if self.engine.index > self.recipe.train.steps:
                raise CheckpointError(
                    f"the run in {self.folder.path} has done {self.engine.index} steps, and the recipe has train.steps "
                    f"{self.recipe.train.steps}; give it more steps, or resume the run by its own recipe, "
                    f"`dalib train {self.folder.path} --resume`."
                )
            self.seconds = float(state["seconds"])
            self.candidates.load_state_dict(state["candidates"])
            self.time, self.bad_items.messages = Counter(state["time"]), dict(state["bad_items"])
        self._logged, self.saving.saved = (self.engine.index, self.seconds), self.engine.index
        if self.first:
            self.folder.clean()
            write_text(self.folder.recipe, self.recipe.to_yaml())
            self.folder.rewind(self.engine.index)
        tell(self.console, f"resuming {self.folder.path} at step {self.engine.index}")
        if (were := state.get("ranks", 1)) != (now := ranks.world()):
            self._warn(
                f"the number of ranks was {were} and is {now}. The batches are the same, but BatchNorm that is not "
                "synchronised sees other parts of them, and other random numbers are drawn, so the run goes on "
                "differently from here."
            )

    def _train(self) -> None:
        train, data = self.recipe.train, self.recipe.data
        earlier, started = self.seconds, time.perf_counter()
        steps = self.engine.iterate(
            streams=self.streams,
            steps=train.steps,
            batch_size=data.batch_size,
            workers=data.workers,
            bad_items=self.bad_items,
        )
        best = self.candidates.highest_miou
        agreed = ranks.Soon()
        with (
            Display(self.console, train.steps, self.engine.index, data.batch_size, best) as display,
            Interruption(partial(self._told, display)) as interruption,
            self.saving.rescued(interruption),
            closing(steps),
        ):
            if self._evaluates and self.engine.index not in self.candidates.steps:
                display.log(self.engine.index, self._score_on_the_way(display))  # the run broke off in it
            for terms in steps:
                self.seconds = earlier + time.perf_counter() - started
                self._record(terms, display)
                self.saving.save_due()
                ranks.stepped(self.engine.index)
                if number := agreed.greatest(interruption.signal or 0, last=self.engine.index == train.steps):
                    stopped = self.saving.interrupted(number)
                    ranks.from_first(None)  # the job's store, without which rank 0 gives up, may end with other ranks
                    raise stopped

    def _told(self, display: Display) -> None:
        """Note a signal, in a thread."""
        ranks.signalled()
        if self.first:
            display.stopping()

    def _record(self, terms: Mapping[str, Tensor], display: Display) -> None:
        """Log a step's metrics and evaluate, if due."""
        step, train = self.engine.index, self.recipe.train
        metrics: dict[str, float] = {}
        logs = step % train.log_every == 0 or step == train.steps
        if logs or self.saving.due:
            self._gather_bad_items()
        if logs:
            metrics |= self._metrics(terms)
        if metrics and self.first:  # before the evaluation, of which a resumed run can make up for
            self.folder.log({"step": step, **metrics})
        if self._evaluates:
            metrics |= self._score_on_the_way(display)
        if metrics and self.first:
            display.log(step, metrics)
        display.step(step)

    @property
    def _evaluates(self) -> bool:
        """Whether the run is evaluated at this step, on the way."""
        step, train = self.engine.index, self.recipe.train
        return bool(train.eval_every and step and step % train.eval_every == 0 and step < train.steps)

    def _gather_bad_items(self) -> None:
        """Count what the other ranks could not read."""
        if self.bad_items.limit:
            for messages in ranks.gathered_objects(self.bad_items.messages):
                self.bad_items.count(messages)

    def _metrics(self, terms: Mapping[str, Tensor]) -> dict[str, float]:
        """Copy the step's terms to the host, the only synchronisation of an ordinary step."""
        guard = self.engine.guard
        guard.look(wait=True)
        values = torch.stack([term.float() for term in terms.values()]).tolist() if terms else []
        images = (self.engine.index - self._logged[0]) * self.recipe.data.batch_size
        rate = images / max(self.seconds - self._logged[1], 1e-9)
        self._logged = (self.engine.index, self.seconds)
        return {
            **{name: value for name, value in zip(terms, values, strict=True) if math.isfinite(value)},
            **({"skipped": guard.skipped} if guard.skipped else {}),
            "lr": self._rate(),
            "seconds": round(self.seconds, 3),
            "images_per_second": round(rate, 3),
            **({"bad_items": len(self.bad_items.messages)} if self.bad_items.messages else {}),
        }

    def _rate(self) -> float:
        """Return the last step's learning rate, without the factors of parameter groups."""
        schedule, rate = self.engine.schedule, self.engine.optimizer.param_groups[0]["initial_lr"]
        return float(rate * (schedule(self.engine.index - 1) if schedule else 1.0))

    def _score_on_the_way(self, display: Display) -> dict[str, float]:
        """Evaluate during training and keep the best checkpoint; a run's results are those of its last step."""
        figures = self._judge(self._score(display.evaluating))
        if self.first:
            self.folder.log_score(self.engine.index, figures)
        return figures

    def _judge(self, result: Result) -> dict[str, float]:
        """Return what the metrics say of an evaluation, and keep its weights if they are the best so far."""
        figures = self.candidates.add(self.engine.index, result)
        if self.recipe.train.eval_every and self.candidates.improved():
            self.saving.save_best()
        return {f"eval/{name}": value for name, value in figures.items()}

    def _look_at_labels(self) -> dict[str, float]:
        """Say what is wrong with labels, and return the share of each class in the source's, {} without a source."""
        if self.unlabelled:
            lacks_best = self.recipe.train.eval_every and self.recipe.evaluate.best == MIOU
            kept = " Without a mIoU there is no best.pt; evaluate.best can name a validator." if lacks_best else ""
            self._warn(f"no labels to score on: {self.unlabelled}. The run is judged by label-free measures.{kept}")
        elif self.seen:
            self._warn(f"data.eval: {self.seen}")
        source = self.streams.get("source")
        pixels = torch.zeros(256, dtype=torch.int64) if source is None else self.pixels["source"]
        if source is not None and (absent := absent_classes(self.classes, pixels)):
            self._warn(f"data.source, {min(32, len(source))} of {len(source)} images looked at: {absent}")
        elif not self.unlabelled and (advice := mask_advice(self.classes, label_pixels(self.eval))):
            self._warn(f"data.eval: of the classes one alone has pixels.{advice}")
        if source is None:
            return {}
        total = max(int(pixels[:IGNORE].sum()), 1)
        return {name: count / total for name, count in zip(self.classes, pixels.tolist(), strict=False)}

    def _warn(self, message: str) -> None:
        tell(self.console, message, "yellow")

    def _extras(self) -> dict[str, Any]:
        """Return what a checkpoint of a run holds beside the engine's state."""
        return {
            "recipe": self.recipe.to_yaml(),
            "ranks": ranks.world(),
            "data": self.data,
            "palette": [list(color) for color in self.palette],
            "seconds": self.seconds,
            "time": dict(self._time()),
            "candidates": self.candidates.state_dict(),
            "bad_items": self.bad_items.messages,
        }

    def _time(self) -> Counter[str]:
        """Return seconds by clock section, before a resume included."""
        return self.time + Counter(self.engine.clock.totals())

    def _score(self, progress: Callable[[int, int], None]) -> Result:
        options = self.recipe.evaluate
        evaluate: Callable[..., Result] = partial(
            self.engine.evaluate,
            teacher=self._teacher,
            protocol=options.protocol,
            classes=options.classes,
            batch_size=options.batch_size,
            workers=self.recipe.data.workers,
            progress=progress,
        )
        result = evaluate(self.eval, limit=options.limit, needs=self.needs)
        if self.source is None:
            return result
        return replace(result, evidence=replace(result.evidence, source=evaluate(self.source).miou))

    def _skipping(self, message: str) -> None:
        self._warn(f"skipping a bad item: {message}")

    def _finish(self, result: Result) -> None:
        results = {
            **result.to_dict(),
            "steps": self.engine.index,
            "seconds": round(self.seconds, 1),
            "model": self.recipe.evaluate.model,
            "seed": self.recipe.train.seed,
            "bad_items": self.bad_items.messages,
            "time": {name: round(seconds, 3) for name, seconds in self._time().items()},
            "palette": {name: list(color) for name, color in zip(self.classes, self.palette, strict=True)},
        }
        results["validators"] = self.candidates.last_scores()
        if best := self.candidates.describe_best():
            results["best"] = best
        if self.unlabelled:
            results["unlabelled"] = self.unlabelled
        if self.seen:
            results["trained_on"] = self.seen
        if result.label_free and self.shares:
            results["label_free"]["source"] = self.shares
        if self.before is not None:
            results["before"] = self.before.scores
        write_json(self.folder.results, results)
        with self.console.status("writing the report"):
            write_report(self.folder.path)
        self.console.print(result.table(self.shares))
        if skipped := self.bad_items.messages:
            self._warn("\n  ".join([f"skipped, {len(skipped)} items in all:", *skipped.values()]))
        if best:
            scored = f"mIoU {100 * best['miou']:.1f} %" if "by" not in best else f"{best['by']} {best['score']:.4g}"
            tell(self.console, f"best: {scored} at step {best['step']}, {self.folder.best}")
        tell(self.console, f"report: {self.folder.path / 'report.html'}")

    @property
    def _teacher(self) -> bool:
        return self.recipe.evaluate.model == "teacher"


def _check_divides(recipe: Recipe) -> None:
    size, micro, world = recipe.data.batch_size, recipe.train.accumulate, ranks.world()
    if size % (micro * world):
        times = f" times {micro} micro-batches (train.accumulate)" if micro > 1 else ""
        raise RecipeError(
            f"data.batch_size: {size} images, which count all ranks, do not divide into {world} ranks{times}; expected "
            f"a multiple of {micro * world}."
        )
