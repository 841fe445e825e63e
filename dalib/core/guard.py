"""Numbers that go bad: a step with a term or a gradient that is not finite is undone and named."""

import copy
import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from dalib.core.kept import Kept, zero_where
from dalib.errors import DalibError

if TYPE_CHECKING:
    from dalib.core.engine import Engine

logger = logging.getLogger(__name__)

NonFinitePolicy = Literal["stop", "skip"]

SKIPPED_IN_A_ROW = 10
SKIPPED_IN_ALL = 100
SMALLEST_SCALE = 2.0**-14  # of fp16's scaler, which starts at 2**16 and halves whenever a gradient overflows


class NonFiniteError(DalibError):
    """A loss term or a gradient became NaN or infinite, and the run's policy is to stop."""


class Guard:
    """Makes each step of an engine whole or nothing, and keeps what is not finite out of its state.

    Nothing here waits for the device. There, a flag says whether the step's terms and gradients were finite, and what
    the update changed is put back by that flag; a copy of it travels to the host, where ``look`` acts on those that
    have arrived. On the CPU, where reading costs nothing, a bad update is left out instead.
    """

    def __init__(self, engine: "Engine", policy: NonFinitePolicy) -> None:
        self.policy = policy
        self.skipped_in_a_row = 0
        self.skipped = 0
        self.torn = False  # an error broke off an update, or what follows it
        self._updating = False
        self._engine = engine
        self._verdicts: deque[Verdict] = deque()
        self._finite_so_far: Tensor | None = None
        self._buffers = Kept(())
        self._strategies: Mapping[str, Any] = {}
        for optimizer in engine.optimizers:
            _count_steps(optimizer, on_device=engine.device.type == "cuda")

    @property
    def reads_at_once(self) -> bool:
        """Whether the host may read a flag without waiting for the device."""
        return self._engine.device.type != "cuda"

    @contextmanager
    def whole_step(self) -> Iterator[None]:
        """Undo what the body did if it raises; an error after the update began cannot be undone (``torn``)."""
        self._updating = False
        self._buffers = Kept(_buffers(self._engine))
        self._strategies = copy.deepcopy(self._engine.stack.state_dict())
        try:
            yield
        except BaseException:
            if self._updating:
                self.torn = True
            else:
                self._buffers.put_back()
                self._engine.stack.load_state_dict(self._strategies)
            raise
        self.look()

    def update(self, terms: Mapping[str, Tensor], update: Callable[[], None]) -> Tensor:
        """Call ``update`` for a finite step; return whether it is one, a bool of no dimensions on the device."""
        verdict = self._judge(terms)
        self._verdicts.append(verdict)
        finite = verdict.flags.all()
        if not self.reads_at_once:
            return self._update_on_device(finite, update)
        self.look(wait=True)
        self._updating = True
        if finite:
            update()
        else:
            self._buffers.put_back()
        return finite

    def look(self, *, wait: bool = False) -> None:
        """Act on the verdicts that have arrived, or wait for all of them.

        Raises:
            NonFiniteError: the policy is to stop, or too many steps were skipped. The engine is as before the bad step.
        """
        while self._verdicts and (wait or self._verdicts[0].arrived):
            self._act(self._verdicts.popleft())

    def state_dict(self) -> dict[str, int]:
        """Return the counts of skipped steps."""
        return {"in_a_row": self.skipped_in_a_row, "in_all": self.skipped}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Take back what ``state_dict`` returned; what was under way is forgotten."""
        self.skipped_in_a_row, self.skipped = state["in_a_row"], state["in_all"]
        self.torn = False
        self._forget()

    def _judge(self, terms: Mapping[str, Tensor]) -> "Verdict":
        """Infinite gradients are the daily life of fp16's scaler, which leaves such updates out by itself."""
        engine, scaler = self._engine, self._engine.precision.scaler
        values = {_term_fault(key): value.float() for key, value in terms.items()}
        if scaler.is_enabled():
            scale = scaler.scale(torch.ones((), device=engine.device))
            fault = f"fp16's scale of the gradients fell below {SMALLEST_SCALE:g}, and still they overflow"
            values[fault] = scale.masked_fill(scale < SMALLEST_SCALE, torch.nan)
        else:
            for name, gradients in engine.gradients().items():
                values[f"the gradient of {name} is not finite"] = torch.stack(torch._foreach_norm(gradients)).sum()
        numbers = torch.stack(list(values.values())) if values else torch.zeros(1, device=engine.device)
        return Verdict(engine.index, tuple(values), len(terms), numbers.isfinite(), self._strategies)

    def _update_on_device(self, finite: Tensor, update: Callable[[], None]) -> Tensor:
        """Update in any case and put back where the step was bad; to stop is to take no update after it, either."""
        if self.policy == "stop" and self._finite_so_far is not None:
            finite = finite & self._finite_so_far
        self._finite_so_far = finite
        before = list(_moving(self._engine))
        kept, known = Kept(before), set(map(id, before))
        self._updating = True
        update()
        kept.put_back_where(~finite)
        # State that an optimiser made in this very update; zero is what the optimisers of a recipe begin with.
        zero_where(~finite, (tensor for tensor in _moving(self._engine) if id(tensor) not in known))
        self._buffers.put_back_where(~finite)
        return finite

    def _act(self, verdict: "Verdict") -> None:
        faults = verdict.faults()
        if not faults:
            self.skipped_in_a_row = 0
            return
        what = f"step {verdict.index + 1} went bad: {', '.join(faults)}"
        if self.policy == "stop":
            self._go_back_to(verdict)
            raise NonFiniteError(f"{what}. The step is undone. {ADVICE}, or leave such steps out: {SKIP}.")
        self.skipped_in_a_row += 1
        self.skipped += 1
        logger.warning("%s; the step is skipped", what)
        if self.skipped_in_a_row >= SKIPPED_IN_A_ROW or self.skipped >= SKIPPED_IN_ALL:
            self._forget()
            raise NonFiniteError(
                f"{what}. With it {self.skipped_in_a_row} steps in a row and {self.skipped} in all were skipped; "
                f"a run stops at {SKIPPED_IN_A_ROW} and {SKIPPED_IN_ALL}. {ADVICE}."
            )

    def _go_back_to(self, verdict: "Verdict") -> None:
        """Let the host's part of the state be of the bad step's beginning, where the device's has stayed."""
        self._engine.stack.load_state_dict(verdict.strategies)
        self._engine.index = verdict.index
        self._forget()

    def _forget(self) -> None:
        self._verdicts.clear()
        self._finite_so_far = None


ADVICE = "Start again with a lower optimizer.lr, with train.clip, or in another train.precision"
SKIP = "train.on_non_finite: skip"


class Verdict:
    """What was finite in a step, on its way to the host.

    Attributes:
        index: steps done before.
        flags: bool, on the device; that of each of the terms, then of gradients.
        strategies: their state before the step.
    """

    def __init__(
        self, index: int, faults: tuple[str, ...], terms: int, flags: Tensor, strategies: Mapping[str, Any]
    ) -> None:
        self.index = index
        self.flags = flags
        self.strategies = strategies
        self._faults = faults
        self._terms = terms
        self._copy = flags.to("cpu", non_blocking=True)
        self._arrival = torch.cuda.Event() if flags.is_cuda else None  # type: ignore[no-untyped-call]
        if self._arrival is not None:
            self._arrival.record()

    @property
    def arrived(self) -> bool:
        """Whether ``faults`` can be read without waiting."""
        return self._arrival is None or bool(self._arrival.query())  # type: ignore[no-untyped-call]

    def faults(self) -> list[str]:
        """Return what was wrong; a term that is not finite accounts for the gradients."""
        if self._arrival is not None:
            self._arrival.synchronize()
        bad = [number for number, finite in enumerate(self._copy.tolist()) if not finite]
        terms = [number for number in bad if number < self._terms]
        return [self._faults[number] for number in terms or bad]


def _buffers(engine: "Engine") -> Iterator[Tensor]:
    """Go through everything that a forward may change: running statistics."""
    modules = [engine.model, *(critic.module for critic in engine.critics.values())]
    for module in [*modules, *([engine.teacher.module] if engine.teacher else [])]:
        yield from module.buffers()


def _moving(engine: "Engine") -> Iterator[Tensor]:
    """Go through everything that an update changes: weights, optimisers' and scaler's state, the teacher."""
    for optimizer in engine.optimizers:
        yield from (p for group in optimizer.param_groups for p in group["params"])
        yield from (v for state in optimizer.state.values() for v in state.values() if isinstance(v, Tensor))
    scaler = engine.precision.scaler
    if scaler.is_enabled():
        yield from (tensor for tensor in (scaler._scale, scaler._growth_tracker) if tensor is not None)
    if engine.teacher:
        yield from engine.teacher.module.parameters()


def _term_fault(key: str) -> str:
    strategy, _, term = key.partition("/")
    return f"term {term!r} of strategy {strategy!r} is not finite"


def _count_steps(optimizer: torch.optim.Optimizer, *, on_device: bool) -> None:
    """Say where Adam and its kin count their steps; on the device a flag can take a step back.

    A checkpoint's optimiser may have counted elsewhere; where it does now is no matter of the checkpoint.
    """

    def counting(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{**group, "capturable": on_device} if "capturable" in group else group for group in groups]

    def loaded(_: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
        return {**state, "param_groups": counting(state["param_groups"])}

    optimizer.param_groups[:] = counting(optimizer.param_groups)
    optimizer.register_load_state_dict_pre_hook(loaded)
