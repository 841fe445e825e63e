"""Numbers that go bad: a step with a term or a gradient that is not finite changes nothing and is named."""

import logging
import signal
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import compress
from typing import Literal

import torch
from torch import Tensor, nn

from dalib.core.held_back import HeldBack
from dalib.core.precision import SMALLEST_SCALE, Precision
from dalib.errors import DalibError

logger = logging.getLogger(__name__)

NonFinitePolicy = Literal["stop", "skip"]

SKIPPED_IN_A_ROW = 10
SKIPPED_IN_ALL = 100
ADVICE = "Start again with a lower optimizer.lr, with train.clip, or in another train.precision"


class NonFiniteError(DalibError):
    """A loss term or a gradient became NaN or infinite, and the run's policy is to stop."""


class Guard:
    """Judges each step by a flag, float32 and exactly 0 or 1, on the device: 1 where the step must change nothing.

    Nothing waits for a GPU: whatever changes state heeds the flag there, and what was wrong travels to the host, which
    acts on it in ``look``. On a CPU it does so before the update.

    Args:
        modules: what runs forwards in a step; their buffers (BatchNorm's, spectral norm's) can go back.

    Attributes:
        broken: why the state is not that of a whole step, if it is not.
    """

    def __init__(
        self, policy: NonFinitePolicy, device: torch.device, precision: Precision, modules: Sequence[nn.Module]
    ) -> None:
        self.policy = policy
        self.skipped_in_a_row = self.skipped = 0
        self.broken: str | None = None
        self._device, self._precision, self._modules = device, precision, modules
        self._index, self._updating = 0, False
        self._buffers = _Kept(())
        self._worker_deaths = HeldBack(signal.SIGCHLD)
        self._verdicts: deque[Verdict] = deque()
        self._stopped = torch.zeros((), device=device)

    @property
    def reads_at_once(self) -> bool:
        """Whether the host may read a flag without waiting for the device."""
        return self._device.type != "cuda"

    @contextmanager
    def whole_step(self, index: int, undo: Callable[[], None]) -> Iterator[None]:
        """Undo what forwards changed if the body raises before its update; afterwards the state is ``broken``.

        Args:
            undo: called then, for what else the step has changed.
        """
        self._index, self._updating = index, False
        self._buffers = _Kept(self._modules)
        try:
            yield
        except BaseException:
            self._worker_deaths.stop(call=False)  # what raised is told; the loader looks for dead workers by itself
            if self._updating:
                self.broken = (
                    f"step {index + 1} broke off in the middle of its update, so its state is neither that before nor "
                    "that after it"
                )
            else:
                self.put_back(torch.ones((), device=self._device))
                undo()
            raise
        self._worker_deaths.stop()
        self.look()

    def judge(self, terms: Mapping[tuple[str, str], Tensor], gradients: Mapping[str | None, list[Tensor]]) -> Tensor:
        """Return the flag of the step's faults; under ``stop`` a fault counts for all later steps, too.

        Args:
            terms: by strategy and name. gradients: by critic, the model's by None. In fp16 they are still scaled and
                may be infinite (``Precision.overflow``); a scale that fell and fell is the fault.
        """
        values = {f"term {n!r} of strategy {s!r} is not finite": value.float() for (s, n), value in terms.items()}
        if (scale := self._precision.scale()) is not None:
            what = f"fp16's scale of the gradients fell below {SMALLEST_SCALE:g}, and still they overflow"
            values[what] = scale.masked_fill(scale < SMALLEST_SCALE, torch.nan)
        else:
            for critic, of in gradients.items():
                whose = "the model" if critic is None else f"critic {critic!r}"
                values[f"the gradient of {whose} is not finite"] = torch.stack(torch._foreach_norm(of)).sum()
        bad = ~torch.stack(list(values.values())).isfinite() if values else torch.zeros(0, device=self._device).bool()
        self._verdicts.append(Verdict(self._index, tuple(values), len(terms), bad))
        if self.reads_at_once:
            self.look(wait=True)
        self._worker_deaths.start()
        self._updating = True
        flag = bad.any().float()
        if self.policy == "stop":
            flag = self._stopped = torch.maximum(self._stopped, flag)
        return flag

    def put_back(self, flag: Tensor) -> None:
        """Give the modules' buffers the values from before the step where the flag is 1."""
        self._buffers.put_back(flag)

    def look(self, *, wait: bool = False) -> None:
        """Act on the verdicts that have arrived, or wait for all of them.

        Raises:
            NonFiniteError: the policy is to stop, or too many steps were skipped. No bad step has changed anything.
        """
        while self._verdicts and (wait or self._verdicts[0].arrived):
            self._act(self._verdicts.popleft())

    def state_dict(self) -> dict[str, int]:
        """Return the counts of skipped steps."""
        return {"in_a_row": self.skipped_in_a_row, "in_all": self.skipped}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Take back what ``state_dict`` returned; what was under way is forgotten."""
        self.skipped_in_a_row, self.skipped = state["in_a_row"], state["in_all"]
        self.broken = None
        self._forget()

    def _act(self, verdict: "Verdict") -> None:
        faults = verdict.faults()
        if not faults:
            self.skipped_in_a_row = 0
            return
        step = f"step {verdict.index + 1} went bad"
        what = f"{step}: {', '.join(faults)}"
        if self.policy == "stop":
            self._forget()
            if not self.reads_at_once:
                self.broken = f"{step}, and counters have gone on since"
            skip = "or leave such steps out: train.on_non_finite: skip"
            raise NonFiniteError(f"{what}. The step is undone. {ADVICE}, {skip}.")
        self.skipped_in_a_row += 1
        self.skipped += 1
        logger.warning("%s; the step is skipped", what)
        if self.skipped_in_a_row >= SKIPPED_IN_A_ROW or self.skipped >= SKIPPED_IN_ALL:
            self._forget()
            raise NonFiniteError(
                f"{what}. With it {self.skipped_in_a_row} steps in a row and {self.skipped} in all were skipped; "
                f"a run stops at {SKIPPED_IN_A_ROW} and {SKIPPED_IN_ALL}. {ADVICE}."
            )

    def _forget(self) -> None:
        self._verdicts.clear()
        self._stopped = torch.zeros((), device=self._device)


class Verdict:
    """What was wrong in step number ``index``, on its way to the host; the first ``terms`` faults are of terms."""

    def __init__(self, index: int, faults: Sequence[str], terms: int, bad: Tensor) -> None:
        self.index = index
        self._faults, self._terms = faults, terms
        self._bad = bad.to("cpu", non_blocking=True)
        self._arrival = torch.cuda.Event() if bad.is_cuda else None  # type: ignore[no-untyped-call]
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
        bad = self._bad.tolist()
        faults = list(compress(self._faults, bad))
        return faults[: sum(bad[: self._terms])] or faults


class _Kept:
    """A copy of modules' buffers: a flat one per type, since a kernel for each of them would cost a GPU more."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self._places: defaultdict[torch.dtype, list[tuple[nn.Module, str]]] = defaultdict(list)
        for module in {module: None for root in modules for module in root.modules()}:
            for name, buffer in module.named_buffers(recurse=False):
                self._places[buffer.dtype].append((module, name))
        self._copies = {dtype: _flat(self._live(dtype)) for dtype in self._places}

    def put_back(self, flag: Tensor) -> None:
        """Give the buffers those values where the flag is 1: chosen, not computed, for 0 * NaN is NaN."""
        for dtype, copy in self._copies.items():
            live = self._live(dtype)
            chosen = torch.where(flag.bool(), copy, _flat(live))
            values = torch.split(chosen, [tensor.numel() for tensor in live])
            torch._foreach_copy_(live, [value.view_as(tensor) for value, tensor in zip(values, live, strict=True)])

    def _live(self, dtype: torch.dtype) -> list[Tensor]:
        """Return the buffers as they are now, those that a forward put in place of another too."""
        return [module.get_buffer(name).detach() for module, name in self._places[dtype]]


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in tensors])
