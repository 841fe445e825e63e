"""The training engine: one loop that every strategy hooks into."""

import copy
import logging
import math
import warnings
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from torch import Tensor, nn

from dalib import ranks
from dalib.core import checkpoint
from dalib.core.arguments import check_class_weights, check_classes, check_model, check_schedule
from dalib.core.clock import Clock
from dalib.core.context import Purpose
from dalib.core.forwards import Forwards
from dalib.core.guard import Guard, NonFinitePolicy
from dalib.core.inputs import Inputs, check_forms, check_images
from dalib.core.modules import MakeOptimizer, OwnedModule
from dalib.core.networks import Networks
from dalib.core.optim import Schedule, step_unless
from dalib.core.plan import Plan, Size, make_plan
from dalib.core.precision import Precision, PrecisionName
from dalib.core.ramp import value_at
from dalib.core.setup import set_up
from dalib.core.stack import Stack
from dalib.core.step import Step
from dalib.core.strategy import Strategy
from dalib.core.terms import Terms
from dalib.core.trained_classes import check_logits, check_trained_classes, may_leave_classes
from dalib.data.bad_items import BadItems
from dalib.data.batch import Batch
from dalib.data.dataset import (
    SegmentationDataset,
    absent_classes,
    label_pixels,
    labelled,
    own_classes,
)
from dalib.data.loader import StreamLoader
from dalib.data.sampled import Sampled
from dalib.device import choose_device
from dalib.errors import CheckpointError, StackError
from dalib.evaluation.evaluate import evaluate, inference
from dalib.evaluation.result import Result
from dalib.hooks import Predict
from dalib.labels import default_classes
from dalib.losses import SegmentationLoss, SegmentationLossFunction
from dalib.models.batchnorm import synchronised
from dalib.models.outputs import training_outputs
from dalib.models.wrapper import network_of, own_loss, unwrap
from dalib.randomness import seed_of

logger = logging.getLogger("dalib")


class Engine:
    """Trains a model with an ordered stack of strategies.

    Args:
        model: maps images (B, 3, H, W) in [0, 1] to logits (B, K, H, W), as models of ``create_model`` do.
        strategies: the stack; list order is call order.
        optimizer: makes the model's optimiser from its parameters; default: SGD with a learning rate of 2.5e-4.
        schedule: maps the optimiser step (from 0) to a factor on every learning rate, the critics' included.
        clip: maximum norm of the model's gradient. precision: ``fp32``, ``bf16`` or ``fp16``.
        accumulate: micro-batches per optimiser step in ``fit``.
        seed: random draws depend on it, the step, the micro-batch, the hook and the strategy's name alone.
        on_non_finite: when a loss term or a gradient is NaN or infinite, ``stop`` in the state before that step, or
            ``skip`` the step, a limited number of times.
        loss: the segmentation loss; default: the model's own ``segmentation_loss``, else cross-entropy.
        device: default: the GPU if there is one. classes: class names; default: those that the data of ``fit`` name.
        purpose: what for; strategies' ``setup`` sees it, and frozen references are made for ``"train"`` alone.
        steps: of the whole run, for ``setup``; None where they are not known yet.
        sync_batch_norm: where there are several ranks, let BatchNorm use the statistics of all ranks' images.

    Raises:
        StackError: the strategies do not fit together.
    """

    def __init__(
        self,
        model: nn.Module,
        strategies: Sequence[Strategy],
        *,
        optimizer: MakeOptimizer | None = None,
        schedule: Schedule | None = None,
        clip: float | None = None,
        device: torch.device | str | None = None,
        precision: PrecisionName = "fp32",
        accumulate: int = 1,
        seed: int = 0,
        on_non_finite: NonFinitePolicy = "stop",
        loss: SegmentationLossFunction | None = None,
        classes: Sequence[str] | None = None,
        purpose: Purpose = "train",
        steps: int | None = None,
        sync_batch_norm: bool = False,
    ) -> None:
        check_model(model)
        check_schedule(schedule)
        self.device = choose_device(device)
        model = synchronised(model, self.device) if sync_batch_norm else model
        self.model: nn.Module = model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.stack = Stack(strategies)
        self.precision = Precision(precision, self.device)
        self.schedule = schedule
        self.clip = clip
        self.accumulate = accumulate
        self.seed = seed
        self.index = 0
        self.classes = tuple(classes) if classes else None  # their names, once they are known
        self.clock = Clock(self.device)
        self.segmentation_loss = loss or own_loss(network_of(model)) or SegmentationLoss()
        check_class_weights(self.segmentation_loss, self.num_classes)
        self.modules: dict[str, OwnedModule] = {}  # by strategy and name, "adversarial/logits"
        self._taps: dict[str, int] = {}
        self._planned: dict[str, tuple[int, int]] = {}
        self._watched: set[tuple[str, Strategy]] = set()
        self._closed = self._idle = False
        if purpose == "train":
            ranks.warn_of_copies()
        ranks.copy_from_first(self.model.state_dict().values())
        self.teacher = set_up(
            self.stack,
            model=self.model,
            num_classes=self.num_classes,
            classes=tuple(classes or default_classes(self.num_classes)),
            device=self.device,
            loss=self.segmentation_loss,
            purpose=purpose,
            steps=steps,
            seed=self.seed,
            _sync_batch_norm=sync_batch_norm,
            _precision=self.precision,
            _modules=self.modules,
            _taps=self._taps,
        )
        self.networks = Networks(self.model, self.teacher, self.modules, optimizer)
        self.guard = Guard(on_non_finite, self.device, self.precision, self.networks.all())

    # ------------------------------------------------------------------------------------------------ one step

    def step(self, *micro_batches: Batch) -> dict[str, Tensor]:
        """Do one optimiser step; return unweighted loss terms and logged scalars, detached, by ``strategy/name``."""
        check_forms(micro_batches)
        for batch in micro_batches:
            self.stack.check_paired(batch)
        self._plan(micro_batches[0])
        self.networks.begin(self._factor())
        parts, inputs = len(micro_batches), Inputs(self.num_classes)
        terms, forwards = Terms(parts), self._forwards()
        with self.guard.whole_step(self.index, self._undo_strategies()):
            for micro, batch in enumerate(micro_batches):
                given = inputs.given(batch.to(self.device))
                step = Step(self.index, micro, given, terms, forwards, self.segmentation_loss)
                with torch.no_grad():
                    self._call("pre_batch", step)
                    inputs.written(step.batch)
                for group in self.stack.groups:
                    weights = {s: weight for s in group if (weight := value_at(s.weight, self.index))}
                    self._backward([(w, self._scalars("loss", s, step, terms)) for s, w in weights.items()], parts)
                    step.detach_outputs()
                for strategy in self.stack.implementing("critic_loss"):
                    with self.networks.training_critics(strategy):
                        self._backward([(1.0, self._scalars("critic_loss", strategy, step, terms))], parts)
            step.finite = self._update(terms, inputs) == 0
            if self.stack.implementing("post_step"):
                with torch.no_grad(), self.networks.refusing_forwards("post_step"):
                    self._call("post_step", step)
            self.index += 1
        return terms.means()

    def _undo_strategies(self) -> Callable[[], None]:
        """Return a function that restores the strategies' present state."""
        states = copy.deepcopy(self.stack.state_dict())
        return lambda: self.stack.load_state_dict(states)

    def _factor(self) -> float:
        """Return the schedule's factor on every learning rate."""
        factor = self.schedule(self.index) if self.schedule else 1.0
        if isinstance(factor, complex) or not math.isfinite(factor) or factor < 0:
            raise StackError(f"the schedule gave {factor} for step {self.index + 1}; expected a number of at least 0.")
        return float(factor)

    def _backward(self, weighted: Sequence[tuple[float, Mapping[str, Tensor]]], accumulate: int) -> None:
        """Backpropagate the weighted sum of the terms that require a gradient."""
        terms = [weight * term.float() for weight, terms in weighted for term in terms.values() if term.requires_grad]
        if terms:
            total = self.precision.scaler.scale(torch.stack(terms).sum() / accumulate)
            with self.clock.section("backward"):
                try:
                    total.backward()  # type: ignore[no-untyped-call]
                except RuntimeError as error:
                    if "a second time" not in str(error):
                        raise
                    raise StackError(
                        "a term reaches into the graph of an earlier step or of another backward pass; detach what a "
                        "strategy keeps from step to step, and read outputs through the step."
                    ) from error

    def _update(self, terms: Terms, inputs: Inputs) -> Tensor:
        """Step every optimiser that received a gradient, with one gradient scaler; then update the teacher.

        Returns:
            The guard's flag, 0-d float32: 1 where nothing was updated.
        """
        with self.clock.section("backward"):
            self.networks.check_alike([*terms.listed(), *inputs.listed()])
            self.networks.reduce_gradients()
        gradients = self.networks.gradients()
        self._idle = bool(terms.losses) and not gradients
        received = [self.networks.optimizers[name] for name in gradients]
        fault = self.guard.judge(terms.losses, gradients, inputs)
        with self.clock.section("optimizer"):
            for optimizer in received:
                self.precision.scaler.unscale_(optimizer)
            flag = torch.maximum(fault, self.precision.overflow(received))
            if self.clip is not None:
                nn.utils.clip_grad_norm_(self.networks.trained_with_student(), self.clip)
            for optimizer in received:
                step_unless(flag, optimizer)
            if received:
                self.precision.update(fault)
            self.guard.put_back(flag)
        if self.teacher:
            with self.clock.section("teacher"):
                self.teacher.update(self.model, self.index, flag)
        return flag

    def _scalars(self, hook: str, strategy: Strategy, step: Step, terms: Terms) -> dict[str, Tensor]:
        if (hook, strategy) not in self._watched:  # an author's mistake shows in the first call
            self._watched.add((hook, strategy))
            before = self.networks.gradient_versions()
            scalars = self.stack.scalars(hook, strategy, step)
            if self.networks.gradient_versions() != before:
                raise StackError(
                    f"strategy {strategy.name!r} calls backward in its hook {hook!r}; return the term, and the engine "
                    "backpropagates it. For gradients of your own take torch.autograd.grad."
                )
        else:
            scalars = self.stack.scalars(hook, strategy, step)
        if hook == "critic_loss":
            for name, term in scalars.items():
                if not term.requires_grad:
                    raise StackError(
                        f"critic_loss of strategy {strategy.name!r}: term {name!r} reaches none of its own critics, so "
                        "it trains nothing. Pass the outputs through what ctx.critic returned."
                    )
        terms.add(strategy.name, hook, scalars)
        return scalars

    def _call(self, hook: str, step: Step) -> None:
        for strategy in self.stack.implementing(hook):
            self.stack.call(hook, strategy, step=step)

    def _forwards(self) -> Forwards:
        teacher = self.teacher.module if self.teacher else None
        read, rank = self.stack.outputs(), ranks.rank()
        seed = seed_of(self.seed, "rank", rank) if rank else self.seed
        return Forwards(self.model, teacher, self.precision, self.clock, self.device, seed, tuple(self._taps), read)

    # --------------------------------------------------------------------------------------------- many steps

    def iterate(
        self,
        source: SegmentationDataset | None = None,
        target: SegmentationDataset | None = None,
        *,
        steps: int,
        batch_size: int,
        streams: Mapping[str, SegmentationDataset] | None = None,
        workers: int = 0,
        bad_items: BadItems | None = None,
    ) -> Generator[dict[str, Tensor], None, None]:
        """Train up to step number ``steps``, counted from the run's start, yielding the terms of each step.

        A stream that no strategy reads is not loaded.

        Args:
            batch_size: images per domain and optimiser step, over all micro-batches.
            streams: further data sets by the name of their stream, with their labels, such as a few target images.
            bad_items: counts unreadable images and limits their number; default: the first ends the run.
        """
        given = {"source": source, "target": target, **(streams or {})}
        datasets = self.stack.read({name: dataset for name, dataset in given.items() if dataset is not None})
        self.classes = check_classes(datasets, self.num_classes, self.classes)
        bad_items = bad_items or BadItems()
        sampled = {name: Sampled(dataset, name, bad_items) for name, dataset in datasets.items()}
        draws = self.stack.draws(sampled, self.seed)
        loader = StreamLoader(datasets, draws, batch_size, self.accumulate, self.seed, workers, bad_items)
        with loader.batches(self.index, steps, self.device) as batches:
            while self.index < steps:
                with self.clock.section("data"):
                    micro_batches = next(batches)
                terms = self.step(*micro_batches)
                if self._idle:
                    raise StackError(
                        "no loss term reaches a parameter, so nothing is trained; does the network's forward run under "
                        "torch.no_grad() or detach its output?"
                    )
                yield terms
        self.guard.look(wait=True)

    def fit(
        self,
        source: SegmentationDataset | None = None,
        target: SegmentationDataset | None = None,
        *,
        steps: int,
        batch_size: int,
        streams: Mapping[str, SegmentationDataset] | None = None,
        workers: int = 0,
        eval: SegmentationDataset | None = None,
        progress: bool = False,
    ) -> Result | None:
        """Train up to step number ``steps`` and, where ``eval`` is given, return the student's result on it.

        ``progress`` shows a bar, of several ranks on rank 0; ``iterate`` takes the same arguments and gives the terms
        of each step.

        Raises:
            DataError: the classes of the data sets are not the network's, or those of ``eval``, if it has labels, not
                the source's. The target's labels are never read.
        """
        given = {"source": source, **(streams or {}), **({"eval": eval} if eval is not None and labelled(eval) else {})}
        datasets = {name: dataset for name, dataset in given.items() if dataset is not None}
        self.classes = check_classes(datasets, self.num_classes, self.classes)
        if eval is not None and any(eval is dataset for name, dataset in datasets.items() if name != "eval"):
            logger.warning("the images to evaluate on are trained on, too, so their score says nothing about others.")
        own = None if source is None else own_classes(source)
        looked_at = datasets if own or may_leave_classes(self.stack.strategies, self.segmentation_loss) else {}
        pixels = {name: label_pixels(dataset) for name, dataset in looked_at.items() if name != "eval"}
        if source is not None and own and (absent := absent_classes(own, pixels["source"])):
            logger.warning("the source, %d of %d images looked at: %s", min(32, len(source)), len(source), absent)
        self.stack.check_training()
        names = self.classes or default_classes(self.num_classes)
        check_trained_classes(self.stack.strategies, self.segmentation_loss, names, pixels)
        check_logits(self.model, self.segmentation_loss)
        done = self.iterate(source, target, steps=steps, batch_size=batch_size, streams=streams, workers=workers)
        for _ in track(done, "training", total=steps - self.index, disable=not progress or ranks.rank() > 0):
            pass
        return None if eval is None else self.evaluate(eval, workers=workers)

    def evaluate(self, dataset: SegmentationDataset, *, teacher: bool = False, **options: Any) -> Result:
        """Evaluate the student, or the teacher, through the strategies' predictors; see ``dalib.evaluate``."""
        model = self.network(teacher)
        options = {"names": self.classes, "other": self._other(teacher), "in_order": self.stack.adapts} | options
        with self.clock.section("evaluation"), inference(self.model):  # a predictor may have kept it
            return evaluate(model, dataset, device=self.device, predict=self.predictor(model), **options)

    def _other(self, teacher: bool) -> Predict | None:
        """Return the predictor of the network to compare the teacher, or the student, with; None without a teacher."""
        if self.teacher is None:
            return None
        network = self.network(not teacher)
        predictor = cache(lambda: self.predictor(network))  # made only if there is an image without labels

        def predict(images: Tensor) -> Tensor:
            with inference(network):
                return predictor()(images)

        return predict

    def network(self, teacher: bool) -> nn.Module:
        """Return the student, or the teacher; StackError where no strategy asked for one."""
        if not teacher:
            return self.model
        if self.teacher is None:
            raise StackError("there is no teacher to evaluate: no strategy of this stack asked for one.")
        return self.teacher.module

    def predict(self, images: Tensor, *, teacher: bool = False) -> Tensor:
        """Return train ids (B, H, W) uint8 on the CPU for images (B, 3, H, W) uint8, through the predictors.

        A strategy that adapts to the images begins anew with each call; ``predictor`` returns one that goes on.
        """
        check_images(images)
        model = self.network(teacher)
        with inference(model):
            logits = self.predictor(model)(images.to(self.device).float() / 255)
        return logits.argmax(1).to(torch.uint8).cpu()

    def predictor(self, model: nn.Module) -> Predict:
        """Return ``predict(images) -> logits`` wrapped by the strategies' ``predictor`` hooks.

        Where one of them adapts the model to the images, it is a copy, made anew by each call of this method.
        """
        model = copy.deepcopy(unwrap(model)).eval() if self.stack.adapts else model

        def predict(images: Tensor) -> Tensor:
            with self.precision.autocast():
                logits: Tensor = model(images)
            return logits.float()

        wrapped = self.stack.predictor(model, predict, self.device, self.seed)

        def predict_all(images: Tensor) -> Tensor:
            with inference(*self.networks.all()):  # strategies' modules in a predictor, too
                return wrapped(images)

        return predict_all

    # --------------------------------------------------------------------------------------------------- state

    @property
    def num_classes(self) -> int:
        """Number of classes K."""
        return int(self.model.num_classes)  # type: ignore[arg-type]

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The model's optimiser."""
        return self.networks.optimizer

    @property
    def optimizers(self) -> tuple[torch.optim.Optimizer, ...]:
        """The model's optimiser and those of strategies' modules."""
        return tuple(self.networks.optimizers.values())

    def state_dict(self) -> dict[str, Any]:
        """Return all training state as tensors and primitives; only after a complete, finite step.

        Its tensors are those of the engine, which the next step changes; ``copy.deepcopy`` keeps them.

        Raises:
            NonFiniteError: a step that the host had not yet checked was not finite.
            CheckpointError: the state is not that of a complete step.
        """
        self.guard.look(wait=True)
        if self.guard.broken:
            raise CheckpointError(f"{self.guard.broken}. Go on from the last checkpoint.")
        return self._state()

    def _state(self) -> dict[str, Any]:
        return {
            **self.networks.state_dict(),
            "scaler": self.precision.scaler.state_dict(),
            "strategies": self.stack.state_dict(),
            "skipped": self.guard.state_dict(),
            "classes": None if self.classes is None else list(self.classes),
            "stack": [[s.name, s.registered_name] for s in self.stack.strategies],
            "seed": self.seed,
            "step": self.index,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` returned; CheckpointError, and no change, if it does not fit."""
        checkpoint.check_fits(state, self._state())
        undo = self._undo_strategies()
        try:
            self.stack.load_state_dict(state["strategies"])
        except BaseException:
            undo()
            raise
        self.networks.load_state_dict(state)
        self.precision.scaler.load_state_dict(state["scaler"])
        self.guard.load_state_dict(state["skipped"])
        self.seed, self.index = state["seed"], state["step"]
        self.classes = self.classes or (None if state["classes"] is None else tuple(state["classes"]))

    def save(self, path: str | Path) -> None:
        """Write a checkpoint atomically; of several ranks, rank 0 writes and the others go on without waiting."""
        state = self.state_dict()
        if ranks.rank() == 0:
            checkpoint.write(state, Path(path))

    def load(self, path: str | Path) -> None:
        """Restore a checkpoint; training continues from it bit for bit."""
        state = checkpoint.read(Path(path))
        with checkpoint.taken_from(Path(path)):
            self.load_state_dict(state)

    def close(self) -> None:
        """Call the strategies' ``teardown`` hooks, once."""
        if not self._closed:
            self._closed = True
            self.stack.teardown()

    def plan(self, sizes: Mapping[str, Size], fields: Mapping[str, Collection[str]] | None = None) -> Plan:
        """Check the stack against the streams' (H, W) and fields, where known, and against what the model gives.

        Raises:
            StackError: the strategies do not fit together.
        """
        declared = {entry for s in self.stack.strategies for of in (s.outputs, s.critic_outputs) for entry in of or ()}
        given: Collection[str] | None = None
        if not all(entry.endswith(".logits") for entry in declared):
            with suppress(Exception):  # a network that takes images of one size only; reading what it lacks is an error
                given = {*training_outputs(self.model), *self._taps}
        return make_plan(self.stack, sizes, given, fields)

    def _plan(self, batch: Batch) -> None:
        """Check the model, and the stack against the batch's streams, whenever their sizes change."""
        sizes = {name: stream.size for name, stream in batch.items()}
        if sizes != self._planned:
            if not any(p.requires_grad for p in self.model.parameters()):
                raise StackError(
                    "no parameter of the model requires a gradient, so nothing would be trained; what fuse() "
                    "returns is for inference."
                )
            for message in self.plan(sizes, {name: stream.fields() for name, stream in batch.items()}).warnings:
                warnings.warn(message, stacklevel=3)
            self._planned = sizes
