"""Checkpoint files: tensors and primitives, written whole or not at all."""

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from dalib.errors import CheckpointError
from dalib.files import replaced


def write(state: Mapping[str, Any], path: Path) -> None:
    """Write ``state`` to ``path``: to a temporary file beside it, flushed to the disk, then renamed over it."""
    with replaced(path) as file:
        torch.save(dict(state), file)


def read(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU; only tensors and primitives, so that a stranger's file can be opened.

    Raises:
        CheckpointError: the file is missing, damaged, or holds something else.
    """
    if not path.is_file():
        raise CheckpointError(f"checkpoint {path} does not exist.")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, zipfile.BadZipFile, OSError) as error:
        reason = str(error).strip().split("\n")[0]
        raise CheckpointError(f"checkpoint {path} cannot be read: {reason}") from error
    if not isinstance(state, dict) or "model" not in state or "step" not in state:
        raise CheckpointError(f"{path} is not a checkpoint of a run; expected the keys 'model' and 'step'.")
    return state


def check_fits(state: Mapping[str, Any], mine: Mapping[str, Any]) -> None:
    """Raise CheckpointError unless ``state`` has the strategies, critics and tensors of ``mine``."""
    if state["stack"] != mine["stack"]:
        raise CheckpointError(
            f"the checkpoint's strategies are {_listed(state['stack'])}; this run's are {_listed(mine['stack'])}. "
            "Resume with the recipe of the run, or start a new run."
        )
    if state["critics"].keys() != mine["critics"].keys():
        raise CheckpointError(
            f"the checkpoint's critics are {sorted(state['critics'])}; this run's are {sorted(mine['critics'])}."
        )
    if (state["teacher"] is None) != (mine["teacher"] is None):
        raise CheckpointError("one of checkpoint and run has a teacher, the other has none.")
    _check_tensors("the model", state["model"], mine["model"])
    for name, critic in mine["critics"].items():
        _check_tensors(f"critic {name!r}", state["critics"][name]["module"], critic["module"])


def _listed(stack: list[list[str]]) -> str:
    return ", ".join(name if name == kind else f"{name} ({kind})" for name, kind in stack) or "none"


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
