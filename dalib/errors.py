"""dalib's exceptions; each message names the thing at fault, what was expected and what was found."""

import difflib
from collections.abc import Iterable


class DalibError(Exception):
    """An error that the user can fix; the command line prints it without a traceback and exits with status 2.

    Attributes:
        raised_by: the strategy, hook and step that raised it; None for an error from elsewhere.
        told: another rank of the job tells the user.
    """

    raised_by: str | None = None
    told = False


class RecipeError(DalibError):
    """A recipe, or an option in it, is wrong."""


class StackError(DalibError):
    """The strategies of a stack do not fit together, or one of them breaks a hook's rules."""


class RegistryError(DalibError):
    """A name is unknown, registered twice, or belongs to a package that failed to import."""


class DataError(DalibError):
    """A data set, an image or a label is missing or malformed.

    Attributes:
        item: the file or item at fault, with which the message begins; "" for a data set as a whole.
        reason: the message without the item.
        kind: the reason without the values of this item, by which the same error of many items is counted.
    """

    def __init__(self, reason: str, *, item: object = "", kind: str = "") -> None:
        super().__init__(f"{item}: {reason}" if item else reason)
        self.item = str(item)
        self.reason = reason
        self.kind = kind or reason


class WeightsError(DalibError):
    """A file of weights does not fit the network, or is not a file of weights."""


class CheckpointError(DalibError):
    """A checkpoint cannot be read, or does not belong to this run."""


class RankError(DalibError):
    """Another rank of the job is dead, hangs or has ended.

    Attributes:
        signal: the number of the signal that ended the other rank, else 0.
    """

    raised_by = "torch.distributed"  # no strategy, though a hook may have waited for the others

    def __init__(self, message: str, *, told: bool = False, signal: int = 0) -> None:
        super().__init__(message)
        self.told = told
        self.signal = signal


class StrategyError(RuntimeError):
    """An unexpected exception in a strategy's code, ``__cause__``; the message names strategy, hook and step."""


def add_to(error: Exception, sentence: str) -> None:
    """Append a sentence to the message of a DalibError, or to any other error as a note below its traceback."""
    if isinstance(error, DalibError):
        said = str(error)
        error.args = (f"{said}{'' if said.endswith(('.', '?', '!')) else '.'} {sentence}",)
    else:
        error.add_note(sentence)


def suggest(name: str, known: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" for the nearest known name, else the list of known names."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        return f" Did you mean {close[0]!r}?"
    return f" Known: {', '.join(known) or 'none'}."
