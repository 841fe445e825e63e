"""Detection of numbers that go bad in inputs, loss terms and gradients: their step is undone, and the message tells."""

import logging
import signal
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import compress
from typing import Literal

import torch
from torch import Tensor, nn

from dalib import ranks
from dalib.core.deferred_signal import DeferredSignal
from dalib.core.inputs import Inputs
from dalib.core.precision import SMALLEST_SCALE, Precision
from dalib.errors import DalibError, StackError, add_to

logger = logging.getLogger(__name__)

NonFinitePolicy = Literal["stop", "skip"]

SKIPPED_IN_A_ROW = 10
SKIPPED_IN_ALL = 100
ADVICE = "Start again with a lower optimizer.lr, with train.clip, or in another train.precision"


class NonFiniteError(DalibError):
    """A loss term or a gradient became NaN or infinite, and the run's policy is to stop."""


class Guard:
    """Computes a flag per step, a 0-d float32 tensor on the device: 1 if the step must change nothing, else 0.

    No step synchronises with a GPU: every update reads the flag there, while the list of faults is copied to the host,
    which acts on it in ``look``. On a CPU it does so before the update.

    Args:
        modules: those that run forwards in a step; their buffers (BatchNorm's, spectral norm's) can be restored.

    Attributes:
        broken: why the state is not that of a complete step; None if it is.
    """

    def __init__(
        self, policy: NonFinitePolicy, device: torch.device, precision: Precision, modules: Sequence[nn.Module]
    ) -> None:
        self.policy = policy
        self.skipped_in_a_row = self.skipped = 0
        self.broken: str | None = None
        self._device, self._precision, self._modules = device, precision, modules
        self._index, self._updating = 0, False
        self._buffers = _BufferCopy(())
        self._worker_deaths = DeferredSignal(signal.SIGCHLD)
        self._verdicts: deque[Verdict] = deque()
        self._stopped = torch.zeros((), device=device)

    @property
    def reads_at_once(self) -> bool:
        """Whether the host may read a flag without waiting for the device."""
        return self._device.type != "cuda"

    @contextmanager
    def whole_step(self, index: int, undo: Callable[[], None]) -> Iterator[None]:
        """Restore the buffers if the body raises before its update; if it raises later, the state is ``broken``.

        Args:
            undo: called in the first case, to restore what else the step has changed.
        """
        self._index, self._updating = index, False
        self._buffers = _BufferCopy(self._modules)
        try:
            yield
        except BaseException:
            self._worker_deaths.stop(call=False)  # this error is reported; the loader checks its workers by itself
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

    def judge(
        self,
        terms: Mapping[tuple[str, str], Tensor],
        gradients: Mapping[str | None, list[Tensor]],
        inputs: Inputs,
    ) -> Tensor:
        """Return the step's flag; a 1 holds for later steps, too, with the policy ``stop`` or for inputs out of range.

        Args:
            terms: by strategy and name. gradients: by a strategy's module, the model's under None. In fp16 they are
                still scaled and may be infinite (``Precision.overflow``); there a scale below ``SMALLEST_SCALE`` is
                the fault.
        """
        values = {f"term {n!r} of strategy {s!r} is not finite": value.float() for (s, n), value in terms.items()}
        if (scale := self._precision.scale()) is not None:
            what = f"fp16's scale of the gradients fell below {SMALLEST_SCALE:g}, and still they overflow"
            values[what] = scale.masked_fill(scale < SMALLEST_SCALE, torch.nan)
        else:
            for module, of in gradients.items():
                whose = "the model" if module is None else f"module {module!r}"
                values[f"the gradient of {whose} is not finite"] = torch.stack(torch._foreach_norm(of)).sum()
        bad = ~torch.stack(list(values.values())).isfinite() if values else torch.zeros(0, device=self._device).bool()
        bad, found = _greatest_of_ranks(bad, inputs.found)
        outside = inputs.outside(found).any().float()
        self._verdicts.append(Verdict(self._index, tuple(values), len(terms), bad, inputs, found))
        if self.reads_at_once:
            self.look(wait=True)
        self._worker_deaths.start()
        self._updating = True
        flag = torch.maximum(bad.any().float(), outside)
        self._stopped = torch.maximum(self._stopped, flag if self.policy == "stop" else outside)
        return torch.maximum(flag, self._stopped)

    def put_back(self, flag: Tensor) -> None:
        """Restore the modules' buffers from before the step where the flag is 1."""
        self._buffers.put_back(flag)

    def look(self, *, wait: bool = False) -> None:
        """Act on the verdicts that have reached the host; with ``wait``, on all of them.

        Raises:
            NonFiniteError: the policy is to stop, or too many steps were skipped. No bad step has changed anything.
            DalibError: an input was out of its range.
        """
        while self._verdicts and (wait or self._verdicts[0].arrived):
            self._act(self._verdicts.popleft())

    def state_dict(self) -> dict[str, int]:
        """Return the counts of skipped steps."""
        return {"in_a_row": self.skipped_in_a_row, "in_all": self.skipped}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Restore what ``state_dict`` returned and drop pending verdicts."""
        self.skipped_in_a_row, self.skipped = state["in_a_row"], state["in_all"]
        self.broken = None
        self._forget()

    def _act(self, verdict: "Verdict") -> None:
        step = f"step {verdict.index + 1} went bad"
        if error := verdict.out_of_range():
            self._end(step)
            add_to(error, f"{step.capitalize()} and is undone.")
            raise error
        faults = verdict.faults()
        if not faults:
            self.skipped_in_a_row = 0
            return
        what = f"{step}: {', '.join(faults)}"
        if self.policy == "stop":
            self._end(step)
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

    def _end(self, step: str) -> None:
        self._forget()
        if not self.reads_at_once:
            self.broken = f"{step}, and counters have gone on since"

    def _forget(self) -> None:
        self._verdicts.clear()
        self._stopped = torch.zeros((), device=self._device)


class Verdict:
    """The faults of step ``index``, copied to the host asynchronously; the first ``terms`` concern loss terms.

    ``found`` are the ranges of its ``inputs``.
    """

    def __init__(
        self, index: int, faults: Sequence[str], terms: int, bad: Tensor, inputs: Inputs, found: Tensor
    ) -> None:
        self.index = index
        self._faults, self._terms, self._inputs = faults, terms, inputs
        self._bad, self._found = (values.to("cpu", non_blocking=True) for values in (bad, found))
        self._arrival = torch.cuda.Event() if bad.is_cuda else None  # type: ignore[no-untyped-call]
        if self._arrival is not None:
            self._arrival.record()

    @property
    def arrived(self) -> bool:
        """Whether ``faults`` can be read without waiting."""
        return self._arrival is None or bool(self._arrival.query())  # type: ignore[no-untyped-call]

    def out_of_range(self) -> DalibError | None:
        """Return the error of an input that is out of its range; None without any."""
        self._wait()
        return self._inputs.fault(self._found)

    def faults(self) -> list[str]:
        """Return the faults; those of loss terms alone where there are any, since they explain the gradients."""
        self._wait()
        bad = self._bad.tolist()
        faults = list(compress(self._faults, bad))
        return faults[: sum(bad[: self._terms])] or faults

    def _wait(self) -> None:
        if self._arrival is not None:
            self._arrival.synchronize()


class _BufferCopy:
    """A copy of the modules' buffers, one flat tensor per dtype: a kernel per buffer would cost a GPU more."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self._places: defaultdict[torch.dtype, list[tuple[nn.Module, str]]] = defaultdict(list)
        for module in {module: None for root in modules for module in root.modules()}:
            for name, buffer in module.named_buffers(recurse=False):
                self._places[buffer.dtype].append((module, name))
        self._shapes = {dtype: [tensor.shape for tensor in self._live(dtype)] for dtype in self._places}
        self._copies = {dtype: _flat(self._live(dtype)) for dtype in self._places}

    def put_back(self, flag: Tensor) -> None:
        """Restore the copied values where the flag is 1; by ``torch.where``, since 0 * NaN is NaN."""
        for dtype, copy in self._copies.items():
            live = self._live(dtype)
            for (module, name), tensor, shape in zip(self._places[dtype], live, self._shapes[dtype], strict=True):
                if tensor.shape != shape:
                    raise StackError(
                        f"buffer {name!r} of {type(module).__name__} changed its shape within a step, from "
                        f"{tuple(shape)} to {tuple(tensor.shape)}; give it its final size from the start."
                    )
            chosen = torch.where(flag.bool(), copy, _flat(live))
            values = torch.split(chosen, [tensor.numel() for tensor in live])
            torch._foreach_copy_(live, [value.view_as(tensor) for value, tensor in zip(values, live, strict=True)])

    def _live(self, dtype: torch.dtype) -> list[Tensor]:
        """Return the current buffers, including those that a forward has replaced."""
        return [module.get_buffer(name).detach() for module, name in self._places[dtype]]


def _greatest_of_ranks(bad: Tensor, found: Tensor) -> tuple[Tensor, Tensor]:
    """Return what is bad on any rank, and the least and greatest values over all ranks, in one reduction."""
    if ranks.world() == 1:
        return bad, found
    extremes = ranks.greatest(torch.cat([bad.float(), -found[:, 0], found[:, 1]]))
    bad, least, greatest = torch.split(extremes, [len(bad), len(found), len(found)])
    return bad > 0, torch.stack([-least, greatest], 1)


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in tensors])
