"""The ordered stack of strategies: pluggy checks the hooks, the user's list gives the order."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from itertools import count
from types import NoneType
from typing import TYPE_CHECKING, Any, TypeVar

import pluggy
import torch
from torch import Tensor

from dalib.core.hookspecs import HOOKS, StrategySpecs
from dalib.core.ramp import END, value_at
from dalib.core.step import Step
from dalib.core.strategy import DECLARATIONS, Strategy, declared_streams
from dalib.data.draws import in_range
from dalib.errors import DalibError, StackError, StrategyError, add_to, suggest
from dalib.hooks import PROJECT, Predict
from dalib.randomness import Key, seeded

if TYPE_CHECKING:
    from dalib.data.batch import Batch
    from dalib.data.dataset import Draw, SegmentationDataset

Groups = list[tuple[Strategy, ...]]
T = TypeVar("T")

_READING = ("pre_batch", "loss", "critic_loss", "post_step")  # hooks that see a step


class Stack:
    """Strategies in list order, and calls of their hooks in that order."""

    def __init__(self, strategies: Sequence[Strategy]) -> None:
        self.strategies = tuple(strategies)
        _check_names(self.strategies)
        self._hooks = _register(self.strategies)
        self._check_adapting()
        self.groups = self._make_groups()

    def implementing(self, hook: str) -> tuple[Strategy, ...]:
        """Return the strategies that implement a hook, in order."""
        return tuple(s for s in self.strategies if s in self._hooks[hook])

    def call(self, hook: str, strategy: Strategy, **arguments: Any) -> Any:
        """Call one strategy's hook within ``calling``."""
        implementation = self._hooks[hook][strategy]
        with calling(strategy, hook, arguments.get("step")):
            return implementation.function(*(arguments[name] for name in implementation.argnames))

    def streams(self) -> frozenset[str] | None:
        """Return the streams that the strategies read; None where one does not declare them: it may read any."""
        readers = [s for s in self.strategies if any(s in self._hooks[hook] for hook in _READING)]
        loss, critic_loss = self._hooks["loss"], self._hooks["critic_loss"]
        streams: set[str] = set()
        for s in readers:
            declared = declared_streams(s)
            undeclared = (s in loss and s.outputs is None) or (s in critic_loss and s.critic_outputs is None)
            if declared is None or undeclared:
                return None
            streams |= declared
        return frozenset(streams)

    def outputs(self) -> frozenset[str] | None:
        """Return the names of outputs that the strategies read, such as ``logits``; None where one declares none."""
        declared = [s.outputs for s in self.implementing("loss")]
        declared += [s.critic_outputs for s in self.implementing("critic_loss")]
        if any(of is None for of in declared):
            return None
        return frozenset(entry.partition(".")[2] for of in declared for entry in of or ())

    def scalars(self, hook: str, strategy: Strategy, step: Step) -> dict[str, Tensor]:
        """Call ``loss`` or ``critic_loss`` and check that it returned named scalars."""
        terms = self.call(hook, strategy, step=step)
        if not isinstance(terms, Mapping):
            raise StackError(
                f"{hook} of strategy {strategy.name!r} must return a dict of scalars, such as "
                f'{{"entropy": tensor}}; it returned {type(terms).__name__}.'
            )
        for name, term in terms.items():
            if not isinstance(term, Tensor) or term.ndim != 0:
                found = f"a tensor of shape {tuple(term.shape)}" if isinstance(term, Tensor) else repr(term)
                raise StackError(f"{hook} of strategy {strategy.name!r}: term {name!r} must be a scalar, got {found}.")
        return dict(terms)

    def read(self, streams: Mapping[str, T]) -> dict[str, T]:
        """Return the entries of ``streams`` that a strategy may read."""
        read = self.streams()
        return {name: what for name, what in streams.items() if read is None or name in read}

    def check_paired(self, batch: "Batch") -> None:
        """Refuse streams that a strategy pairs image by image, its ``same_size``, with other numbers of images."""
        for strategy in self.strategies:
            counts = {name: len(batch[name].image) for name in sorted(strategy.same_size) if name in batch}
            if len(set(counts.values())) > 1:
                found = ", ".join(f"{name} {count}" for name, count in counts.items())
                raise StackError(
                    f"strategy {strategy.name!r} pairs the images of {' and '.join(counts)}, so it needs as many of "
                    f"each; the batch has {found}."
                )

    def check_training(self) -> None:
        """Raise StackError where no strategy's loss counts, so that a run would train nothing to its end."""
        losses = self.implementing("loss")
        counts = any(value_at(s.weight, step) for s in losses for step in (0, END))
        if not counts and not self.implementing("critic_loss"):
            names = ", ".join(s.name for s in losses)
            found = f"the weights of {names} are 0" if losses else "no strategy of the stack has a loss"
            raise StackError(
                f"{found}, so nothing would be trained; the supervised loss is a strategy, too: {{use: supervised}}."
            )

    def draws(self, datasets: Mapping[str, "SegmentationDataset"], seed: int) -> "dict[str, Draw]":
        """Return the strategies' samplers by stream; StackError where two sample the same stream.

        Each draw is seeded by the run's seed, the strategy, the stream and the position.
        """
        device = torch.device("cpu")
        draws: dict[str, Draw] = {}
        owners: dict[str, str] = {}
        for strategy in self.implementing("sampler"):
            for stream, dataset in datasets.items():
                key = (seed, "sampler", strategy.name, stream)
                with seeded(device, *key):
                    draw = self.call("sampler", strategy, stream=stream, dataset=dataset)
                if draw is None:
                    continue
                if stream in owners:
                    raise StackError(
                        f"strategies {owners[stream]!r} and {strategy.name!r} both sample the stream {stream!r}; "
                        "a stream has one sampler: drop one of them."
                    )
                draw = in_range(draw, stream, len(dataset))
                draws[stream] = _returned(draw, strategy, "sampler", device, key)
                owners[stream] = strategy.name
        return draws

    @property
    def adapts(self) -> bool:
        """Whether a strategy's ``predictor`` changes the model from image to image."""
        return any(strategy.adapts for strategy in self.implementing("predictor"))

    def predictor(self, model: Any, predict: Predict, device: torch.device, seed: int) -> Predict:
        """Return ``predict`` wrapped by every strategy's ``predictor``, the first in the list innermost.

        Each call is seeded by the run's seed, the strategy and the number of the call.
        """
        for strategy in self.implementing("predictor"):
            key = (seed, "predictor", strategy.name)
            with seeded(device, *key):
                predict = self.call("predictor", strategy, model=model, predict=predict)
            predict = _checked_logits(_returned(predict, strategy, "predictor", device, key), strategy, model)
        return predict

    def state_dict(self) -> dict[str, dict[str, Any]]:
        """Return the strategies' states by name."""
        states = {}
        for strategy in self.strategies:
            with calling(strategy, "state_dict"):
                states[strategy.name] = dict(strategy.state_dict())
            _check_state(strategy.name, states[strategy.name])
        return states

    def load_state_dict(self, states: Mapping[str, Mapping[str, Any]]) -> None:
        """Restore what ``state_dict`` returned."""
        for strategy in self.strategies:
            with calling(strategy, "load_state_dict"):
                strategy.load_state_dict(states[strategy.name])

    def teardown(self) -> None:
        """Call ``teardown`` in reverse order."""
        for strategy in reversed(self.implementing("teardown")):
            self.call("teardown", strategy)

    def _check_adapting(self) -> None:
        """Refuse two strategies that adapt the model at prediction, since it is one copy that both would change."""
        adapting = [strategy.name for strategy in self.implementing("predictor") if strategy.adapts]
        if len(adapting) > 1:
            raise StackError(
                f"strategies {adapting[0]!r} and {adapting[1]!r} both adapt the model to the images that it predicts; "
                "a stack has one that does: drop the other."
            )

    def _make_groups(self) -> Groups:
        """Group the strategies with a loss by backward pass: those that share a student forward share a graph.

        A strategy that does not declare its outputs may read any stream, so all form one group. Those that read no
        output join the first group.
        """
        strategies = self.implementing("loss")
        if any(s.outputs is None for s in strategies) or not any(s.outputs for s in strategies):
            return [strategies] if strategies else []
        groups: list[tuple[frozenset[str], tuple[Strategy, ...]]] = []
        for strategy in (s for s in strategies if s.outputs):
            streams = frozenset(entry.split(".")[0] for entry in strategy.outputs or ())
            members: tuple[Strategy, ...] = (strategy,)
            for other in [g for g in groups if g[0] & streams]:
                groups.remove(other)
                streams, members = other[0] | streams, other[1] + members
            groups.append((streams, members))
        order = {strategy: i for i, strategy in enumerate(strategies)}
        first, *others = sorted((m for _, m in groups), key=lambda m: min(map(order.__getitem__, m)))
        first += tuple(s for s in strategies if not s.outputs)
        return [tuple(sorted(members, key=order.__getitem__)) for members in (first, *others)]


@contextmanager
def calling(strategy: Strategy, hook: str, step: Step | None = None) -> Iterator[None]:
    """Run a hook, or a function that it returned, in the body: its errors name strategy, hook and step.

    In a step the hook may read and write what its strategy declares, with its own seed and clock section. A
    ``DalibError`` stays one, as a message to the user; any other error becomes a ``StrategyError``.
    """
    where = f"strategy {strategy.name!r} in its hook {hook!r}" + (f" at step {step.index + 1}" if step else "")
    try:
        with step.running(hook, strategy) if step else nullcontext():
            yield
    except StrategyError:  # from a predictor that this one wraps
        raise
    except DalibError as error:
        if error.raised_by is None:
            error.raised_by = where
            add_to(error, f"It was raised by {where}.")
        raise
    except Exception as error:
        raise StrategyError(f"{where} raised {type(error).__name__}: {error}") from error


def _check_state(strategy: str, value: Any, path: str = "state") -> None:
    """Refuse state of other types than a checkpoint can hold, which could be written but not read."""
    if isinstance(value, Tensor) and value.requires_grad:
        raise StackError(f"state_dict of strategy {strategy!r} returned {path} with its graph; detach it.")
    if isinstance(value, Tensor) or type(value) in (bool, int, float, str, NoneType):
        return
    if type(value) not in (dict, list, tuple):
        raise StackError(
            f"state_dict of strategy {strategy!r} returned {path} of type {type(value).__name__}; expected tensors, "
            "numbers, text, None, or dicts, lists and tuples of them."
        )
    for key, entry in value.items() if isinstance(value, dict) else enumerate(value):
        if type(key) not in (str, int):
            raise StackError(f"state_dict of strategy {strategy!r} returned {path} with a key {key!r}; use text.")
        _check_state(strategy, entry, f"{path}[{key!r}]")


def _returned(
    function: Callable[[Any], T], strategy: Strategy, hook: str, device: torch.device, key: tuple[Key, ...]
) -> Callable[[Any], T]:
    """Return a function that a hook returned, its errors named and each call seeded.

    A sampler's call is seeded by its position, a predictor's by the number of the calls before it.
    """
    calls = count()

    def call(argument: Any) -> T:
        at = argument if hook == "sampler" else next(calls)
        with calling(strategy, hook), seeded(device, *key, at):
            return function(argument)

    return call


def _checked_logits(predict: Predict, strategy: Strategy, model: Any) -> Predict:
    """Return the function of a ``predictor`` with a check that it returns logits of the images' size."""

    def checked(images: Tensor) -> Tensor:
        logits = predict(images)
        found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        channels = getattr(model, "num_classes", found[1] if len(found) == 4 else "K")
        expected = (len(images), channels, *images.shape[-2:])
        if found != expected:
            raise StackError(
                f"the predictor of strategy {strategy.name!r} must return logits {expected} (B, K, H, W), got {found}."
            )
        return logits

    return checked


def _check_names(strategies: Sequence[Strategy]) -> None:
    seen: set[str] = set()
    for strategy in strategies:
        if not isinstance(strategy, Strategy):
            raise StackError(f"a stack holds Strategy instances; got {strategy!r}. Did you pass the class?")
        if "/" in strategy.name:
            raise StackError(
                f"strategy name {strategy.name!r}: expected one without '/', which parts it from its terms."
            )
        strategy.name = strategy.name or strategy.registered_name  # where a __post_init__ of its own replaced ours
        if strategy.name in seen:
            raise StackError(
                f"two strategies are named {strategy.name!r}; give one of them its own `name`, "
                "which is its key in logs and checkpoints."
            )
        seen.add(strategy.name)
        for declaration in DECLARATIONS:
            _check_declaration(strategy, declaration)


def _check_declaration(strategy: Strategy, declaration: str) -> None:
    value = getattr(strategy, declaration)
    optional = declaration in ("outputs", "critic_outputs")
    dotted = declaration != "same_size"
    if (optional and value is None) or (
        isinstance(value, set | frozenset)
        and all(isinstance(entry, str) and (all(entry.partition(".")) or not dotted) for entry in value)
    ):
        return
    example = '{"source.image", "target.image"}' if dotted else '{"source", "target"}'
    raise StackError(
        f"strategy {strategy.name!r}: expected {declaration} to be a set such as {example}, got {value!r:.80}."
    )


def _register(strategies: Sequence[Strategy]) -> dict[str, dict[Strategy, pluggy.HookImpl]]:
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(StrategySpecs)
    for strategy in strategies:
        _check_hooks(manager, strategy)
        try:
            manager.register(strategy, name=strategy.name)
        except pluggy.PluginValidationError as error:
            detail = "; ".join(line.strip() for line in str(error).splitlines()[1:])
            raise StackError(f"strategy {strategy.name!r} has a hook with a wrong argument: {detail}.") from error
    return {hook: {impl.plugin: impl for impl in getattr(manager.hook, hook).get_hookimpls()} for hook in HOOKS}


def _check_hooks(manager: pluggy.PluginManager, strategy: Strategy) -> None:
    """Refuse what pluggy accepts: a hook without @hookimpl, @hookimpl on no hook; and state that cannot be loaded."""
    kind = type(strategy)
    for name, method in inspect.getmembers(kind, inspect.isfunction):
        marked = manager.parse_hookimpl_opts(kind, name) is not None
        if name in HOOKS and not marked:
            raise StackError(
                f"strategy {strategy.name!r}: {kind.__name__}.{name} is named like a hook but lacks @hookimpl."
            )
        if marked and name not in HOOKS:
            raise StackError(
                f"strategy {strategy.name!r}: {kind.__name__}.{method.__name__} is not a hook.{suggest(name, HOOKS)}"
            )
    if kind.state_dict is not Strategy.state_dict and kind.load_state_dict is Strategy.load_state_dict:
        raise StackError(
            f"strategy {strategy.name!r} returns state but cannot load it: {kind.__name__} defines state_dict "
            "without load_state_dict."
        )
