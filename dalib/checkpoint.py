"""Checkpoint files: tensors and primitives, written whole or not at all, with a checksum over every byte."""

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import torch

from dalib.errors import CheckpointError, DalibError
from dalib.files import replaced
from dalib.tensor_file import load_tensors

_MARK = b"dalib sha256 "
_NO_COMMENT = b"\0\0"  # the last bytes of a ZIP archive are the length of its comment, then the comment
_TRAILER = 2 + len(_MARK) + 64
_LAST_RECORD = b"PK\5\6"
_LAST_RECORD_SIZE = 22  # without a comment
_CHUNK = 1 << 20


def write(state: Mapping[str, Any], path: Path, previous: Path | None = None) -> None:
    """Write ``state`` to ``path``: to a temporary file beside it, flushed to the disk, then renamed over it.

    torch's format is a ZIP archive, and the archive's comment holds its SHA-256: one file, which ``torch.load`` reads.

    Args:
        previous: where the file that stands at ``path`` goes.

    Raises:
        DalibError: the disk is full, or the place cannot be written; the file at ``path`` is whole.
    """
    with replaced(path, previous) as file:
        summed = _Summed(file)
        try:
            torch.save(dict(state), cast(IO[bytes], summed))
        except RuntimeError as error:  # how torch reports that a write has failed
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise
        file.seek(-len(_NO_COMMENT), os.SEEK_END)
        file.write(_trailer(summed.digest.hexdigest()))


def read(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU; only tensors and primitives, so that a stranger's file can be opened.

    Raises:
        CheckpointError: the file is missing, damaged, or holds something else.
    """
    if not path.is_file():
        raise CheckpointError(f"checkpoint {path} does not exist.")
    try:
        check_sum(path)
        state = load_tensors(path)
    except Exception as error:  # a damaged file fails anywhere in torch's reader
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise CheckpointError(f"checkpoint {path} cannot be read: {reason}") from error
    if not isinstance(state, dict) or "model" not in state or "step" not in state:
        raise CheckpointError(f"{path} is not a checkpoint of a run; expected the keys 'model' and 'step'.")
    return state


class _Summed:
    """A file that sums up what goes through it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()


def _trailer(digest: str) -> bytes:
    comment = _MARK + digest.encode()
    return len(comment).to_bytes(2, "little") + comment


def check_sum(path: Path) -> None:
    """Raise ValueError where a byte differs from what was written; what torch alone has saved has no sum to compare."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _LAST_RECORD_SIZE))
        if file.read(len(_LAST_RECORD)) == _LAST_RECORD:
            return
        file.seek(0)
        left, digest = size - _TRAILER, hashlib.sha256()
        while left > 0 and (chunk := file.read(min(left, _CHUNK))):
            digest.update(chunk)
            left -= len(chunk)
        digest.update(_NO_COMMENT)
        if file.read() != _trailer(digest.hexdigest()):
            raise ValueError("its checksum differs, so it is damaged or cut short.")


@contextmanager
def taken_from(what: Path) -> Iterator[None]:
    """Turn what fails in the body, whatever a stranger put under the right keys, into a CheckpointError.

    Args:
        what: the checkpoint or run to name.
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
    if state["critics"].keys() != mine["critics"].keys():
        raise CheckpointError(
            f"the checkpoint's critics are {sorted(state['critics'])}; this run's are {sorted(mine['critics'])}."
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
    for name, critic in mine["critics"].items():
        _check_tensors(f"critic {name!r}", state["critics"][name]["module"], critic["module"])
        _check_optimizer(f"critic {name!r}", state["critics"][name]["optimizer"], critic["optimizer"])


def _listed(stack: list[list[str]]) -> str:
    return ", ".join(name if name == kind else f"{name} ({kind})" for name, kind in stack) or "none"


def _check_optimizer(what: str, state: Mapping[str, Any], mine: Mapping[str, Any]) -> None:
    """Refuse another kind of optimiser, which torch would take and then fail with in its first step."""
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
