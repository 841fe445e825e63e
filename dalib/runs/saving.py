"""Saving of a run's checkpoints: when due, at a signal and after an error."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dalib import ranks
from dalib.core import checkpoint
from dalib.core.engine import Engine
from dalib.errors import DalibError, RankError, add_to
from dalib.runs.folder import RunFolder
from dalib.runs.recipe import TrainOptions
from dalib.runs.signals import InterruptedRunError, Interruption, signal_name


class Saving:
    """Writes the checkpoints of one run; of several ranks the first writes, and all call.

    Args:
        extras: returns what a checkpoint of a run holds beside the engine's state.
    """

    def __init__(
        self, engine: Engine, folder: RunFolder, train: TrainOptions, extras: Callable[[], Mapping[str, Any]]
    ) -> None:
        self._engine = engine
        self._folder = folder
        self._train = train
        self._extras = extras
        self.saved: int | None = None  # step of the last checkpoint

    @property
    def due(self) -> bool:
        """Whether a checkpoint is due at this step."""
        step, train = self._engine.index, self._train
        return self._kept or step % train.checkpoint_every == 0 or step == train.steps

    @property
    def _kept(self) -> bool:
        every = self._train.keep_every
        return every is not None and self._engine.index % every == 0

    def save_due(self) -> None:
        """Save the checkpoints due at this step; ``last.pt`` comes last, since a resumed run starts after it."""
        if self._kept:
            self._save(self._folder.kept(self._engine.index))
        if self.due:
            self.save_last()

    def save_last(self) -> None:
        """Save ``last.pt``, at most once per step, so that ``previous.pt`` is of an earlier step."""
        if self.saved != self._engine.index:
            self._save(self._folder.last, self._folder.previous)
            self.saved = self._engine.index

    def save_judged(self) -> None:
        """Save ``last.pt`` again, with the evaluation that followed it."""
        self._save(self._folder.last)

    def save_best(self) -> None:
        """Save the model that scored best so far."""
        self._save(self._folder.best)

    @contextmanager
    def rescued(self, interruption: Interruption) -> Iterator[None]:
        """On an error in the body save the run as of its last complete step, and add to the error how to resume."""
        try:
            yield
        except InterruptedRunError:
            raise
        except Exception as error:
            number = error.signal if isinstance(error, RankError) else interruption.signal
            # torchrun ends the others by a signal where a rank has died, and the loader's workers with them
            lost = ranks.lost() if number and not isinstance(error, RankError) else None
            if number and lost is None:
                raise self.interrupted(number) from error
            if self._engine.index and ranks.rank() == 0:  # before the first step there is nothing to save
                add_to(lost or error, self._rescue())
            if lost:
                raise lost from error
            raise

    def interrupted(self, number: int) -> InterruptedRunError:
        """Save, and return the error to raise; ``number`` is the signal's."""
        self.save_last()
        error = InterruptedRunError(
            number,
            f"stopped at step {self._engine.index} of {self._train.steps} by {signal_name(number)}; it is saved. "
            f"{self._go_on}",
        )
        error.told = ranks.rank() > 0
        return error

    def _rescue(self) -> str:
        """Try to save and return a sentence on the outcome."""
        try:
            self.save_last()
        except (DalibError, OSError) as error:
            since = "it has no checkpoint" if self.saved is None else f"its last checkpoint is of step {self.saved}"
            return f"The run could not be saved, for {error} So {since}. {self._go_on}"
        return f"The run is saved as of step {self._engine.index}. {self._go_on}"

    @property
    def _go_on(self) -> str:
        return f"Go on with `dalib train {self._folder.path} --resume`."

    def _save(self, path: Path, previous: Path | None = None) -> None:
        state = self._engine.state_dict() | dict(self._extras())
        if ranks.rank() == 0:
            checkpoint.write(state, path, previous)
