"""Checkpoint files of tensors and primitives: atomic writing, safe reading, and whether one fits a run."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from dalib.errors import CheckpointError, DalibError, DataError
from dalib.files import load_tensors, replaced


def write(state: Mapping[str, Any], path: Path, previous: Path | None = None) -> None:
    """Write ``state`` to ``path``: to a temporary file beside it, flushed to the disk, then renamed over it.

    torch's format is a ZIP archive, whose checksums reveal damage.

    Args:
        previous: where the old file at ``path`` is moved to.

    Raises:
        DalibError: the disk is full, or ``path`` cannot be written; the old file stays intact.
    """
    with replaced(path, previous) as file:
        try:
            torch.save(dict(state), file)
        except RuntimeError as error:  # how torch reports that a write has failed
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def read(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU; only tensors and primitives, so an untrusted file cannot run code.

    Raises:
        CheckpointError: the file is missing, damaged, or holds something else.
    """
    if not path.is_file():
        raise CheckpointError(f"checkpoint {path} does not exist.")
    try:
        with path.open("rb") as file:
            if file.read(2) != b"PK":
                raise DataError("it is no checkpoint of torch, or its start is damaged")
        state = load_tensors(path)
    except Exception as error:  # a damaged file fails anywhere in torch's reader
        raise CheckpointError(f"checkpoint {path} cannot be read: {_explained(error)}") from error
    if not isinstance(state, dict) or "model" not in state or "step" not in state:
        raise CheckpointError(f"{path} is not a checkpoint of a run; expected the keys 'model' and 'step'.")
    return state


def _explained(error: Exception) -> str:
    """Return what is wrong with a checkpoint and what to do, without torch's own text, which is for programmers."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}; check its permissions and the disk."
    if "unsupported global" in str(error).lower():
        return "it holds objects besides tensors, which could run code; give one that `dalib train` wrote."
    reason = str(error) if isinstance(error, DataError) else "it is damaged, such as cut short while it was copied"
    return f"{reason}; copy it again, or give another one that `dalib train` wrote."


@contextmanager
def taken_from(what: Path) -> Iterator[None]:
    """Turn errors in the body into a CheckpointError: a foreign file may hold anything under the right keys.

    Args:
        what: the checkpoint or run that the message names.
    """
    try:
        yield
    except DalibError:
        raise
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise CheckpointError(f"{what} holds what no run writes ({reason:.200}); it cannot be used.") from error


def check_fits(state: Mapping[str, Any], mine: Mapping[str, Any]) -> None:
    """Raise CheckpointError unless ``state`` has the strategies, critics, optimisers and tensors of ``mine``."""
    lacking = sorted(mine.keys() - state.keys())
    if lacking:
        raise CheckpointError(f"the checkpoint is not one of a training run: it lacks {', '.join(lacking)}.")
    if state["stack"] != mine["stack"]:
        raise CheckpointError(
            f"the checkpoint's strategies are {_listed(state['stack'])}; this run's are {_listed(mine['stack'])}. "
            "Resume with the recipe of the run, or start a new run."
        )
    if state["classes"] and mine["classes"] and state["classes"] != mine["classes"]:
        was, now = (", ".join(map(str, of["classes"])) for of in (state, mine))
        raise CheckpointError(
            f"the checkpoint's classes are {was:.200}; the data's are {now:.200}. A network's outputs keep their "
            "order: list the classes as they were, or start a new run."
        )
    if state["modules"].keys() != mine["modules"].keys():
        raise CheckpointError(
            f"the checkpoint's modules are {sorted(state['modules'])}; this run's are {sorted(mine['modules'])}."
        )
    if state["strategies"].keys() != mine["strategies"].keys():
        raise CheckpointError(
            f"the checkpoint has states of the strategies {sorted(state['strategies'])}; this run's are "
            f"{sorted(mine['strategies'])}."
        )
    if (state["teacher"] is None) != (mine["teacher"] is None):
        raise CheckpointError("one of checkpoint and run has a teacher, the other has none.")
    if bool(state["scaler"]) != bool(mine["scaler"]):
        raise CheckpointError(
            "one of checkpoint and run is in fp16, the other is not; resume in the precision of the run."
        )
    _check_tensors("the model", state["model"], mine["model"])
    _check_optimizer("the model", state["optimizer"], mine["optimizer"])
    if mine["teacher"] is not None:
        _check_tensors("the teacher", state["teacher"], mine["teacher"])
    for name, module in mine["modules"].items():
        _check_module(f"module {name!r}", state["modules"][name], module)


def _check_module(what: str, state: Mapping[str, Any], mine: Mapping[str, Any]) -> None:
    kept, expected = ([k for k, v in of.items() if v is not None or k == "fingerprint"] for of in (state, mine))
    if kept != expected:
        raise CheckpointError(f"{what}: the checkpoint has its {', '.join(kept)}; this run has {', '.join(expected)}.")
    theirs, ours = state.get("fingerprint"), mine.get("fingerprint")
    if theirs != ours and None not in (theirs, ours):  # it is not made for an evaluation
        raise CheckpointError(f"the frozen {what} has other weights than when the run began; give it the same file.")
    for part in ("module", "teacher"):
        if mine.get(part) is not None:
            _check_tensors(what, state[part], mine[part])
    if mine.get("optimizer") is not None:
        _check_optimizer(what, state["optimizer"], mine["optimizer"])


def for_stack(state: Mapping[str, Any], mine: Mapping[str, Any]) -> dict[str, Any]:
    """Return the state to evaluate a run with another stack: strategies in both keep theirs, new ones that of ``mine``.

    The model's optimiser, which an evaluation does not use, may have had parameters of other strategies' modules.
    """
    kept = [name for name, kind in mine["stack"] if [name, kind] in state["stack"]]

    def chosen(section: str) -> dict[str, Any]:
        """Its keys are strategies' names, or begin with them."""
        theirs = {key: value for key, value in state[section].items() for n in kept if f"{key}/".startswith(f"{n}/")}
        return {key: theirs.get(key, own) for key, own in mine[section].items()}

    teacher = None if mine["teacher"] is None else state["teacher"]
    if teacher is None and mine["teacher"] is not None:
        raise CheckpointError("a strategy that was added asks for the teacher, and the run was trained without one.")
    sections = {section: chosen(section) for section in ("modules", "strategies")}
    return {**state, **sections, "stack": mine["stack"], "teacher": teacher, "optimizer": mine["optimizer"]}


def _listed(stack: list[list[str]]) -> str:
    return ", ".join(name if name == kind else f"{name} ({kind})" for name, kind in stack) or "none"


def _check_optimizer(what: str, state: Mapping[str, Any], mine: Mapping[str, Any]) -> None:
    """Refuse another optimiser's state, which torch would load and then fail on in its first step."""
    found, expected = ([(sorted(g), len(g["params"])) for g in s["param_groups"]] for s in (state, mine))
    if found != expected:
        raise CheckpointError(
            f"the optimiser of {what} is another one: the checkpoint's has {_groups(found)}; this run's has "
            f"{_groups(expected)}. Resume with the recipe of the run, or start a new run."
        )


def _groups(groups: list[tuple[list[str], int]]) -> str:
    return " and ".join(f"{count} parameters with {', '.join(options)}" for options, count in groups)


def _check_tensors(what: str, state: Mapping[str, Any], mine: Mapping[str, Any]) -> None:
    absent = sorted(mine.keys() - state.keys())
    extra = sorted(state.keys() - mine.keys())
    if absent or extra:
        raise CheckpointError(
            f"{what} of the checkpoint is another one: {len(absent)} tensors are absent ({', '.join(absent[:3])} ...) "
            f"and {len(extra)} are unknown ({', '.join(extra[:3])} ...)."
        )
    for key, tensor in mine.items():
        if state[key].shape != tensor.shape:
            raise CheckpointError(
                f"{what} of the checkpoint has {key} of shape {tuple(state[key].shape)}; this run's is "
                f"{tuple(tensor.shape)}. Do the class counts differ?"
            )
