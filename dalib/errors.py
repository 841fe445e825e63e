"""What dalib raises when the user has to act: one message that names the thing, the expectation and the value."""

import difflib
from collections.abc import Iterable


class DalibError(Exception):
    """A user's error; the command line prints its message without a traceback and exits with status 2.

    Attributes:
        raised_by: the strategy, hook and step that it left, as its message says; None for one from elsewhere.
    """

    raised_by: str | None = None


class RecipeError(DalibError):
    """A recipe, or an option in it, is wrong."""


class StackError(DalibError):
    """The strategies of a stack do not fit together, or one of them breaks a hook's rules."""


class RegistryError(DalibError):
    """A name is unknown, registered twice, or belongs to a package that failed to import."""


class DataError(DalibError):
    """A data set, an image or a label is missing or malformed.

    Attributes:
        item: what it is about, a file or an item of a set, which the message begins with; "" for a set as a whole.
        reason: the message without the item.
        kind: what it has in common with errors about other items: the reason, but for what was found in this one.
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


class StrategyError(RuntimeError):
    """A fault in a strategy's code, with its name, the hook and the step; ``__cause__`` is what was raised."""


def add_to(error: Exception, sentence: str) -> None:
    """Let a user's error say one sentence more, and a fault in code carry it below its traceback."""
    if isinstance(error, DalibError):
        error.args = (f"{error} {sentence}",)
    else:
        error.add_note(sentence)


def suggest(name: str, known: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" for the nearest known name, else the list of what there is."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        return f" Did you mean {close[0]!r}?"
    return f" Known: {', '.join(known) or 'none'}."
