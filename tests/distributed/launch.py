"""Jobs of several gloo ranks on this machine, started by torchrun as users start them."""

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

ROOT = Path(__file__).parents[2]
PATIENCE = 150  # seconds, within pytest's own limit


def torchrun(ranks: int, *command: object, restarts: int = 0) -> list[str]:
    """Return the command that starts ``ranks`` processes of a script, or of a module where it begins with ``-m``."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    numbers = [f"--nproc-per-node={ranks}", f"--max-restarts={restarts}", "--monitor-interval=0.1"]
    return [*launcher, *numbers, *map(str, command)]


def environment(**variables: str) -> dict[str, str]:
    """Return this process's environment, where children find what this one finds, with one thread each and no GPU."""
    own = {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return os.environ | own | variables


def dalib(ranks: int, *arguments: object, restarts: int = 0, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run ``dalib`` on some ranks, or without torchrun where they are 0, to its end, and return what came of it."""
    command = ["-m", "dalib", *map(str, arguments)]
    started = torchrun(ranks, *command, restarts=restarts) if ranks else [sys.executable, *command]
    return subprocess.run(
        started, cwd=ROOT, env=environment(**variables), capture_output=True, text=True, timeout=PATIENCE, check=False
    )


def on_ranks(ranks: int, function: Callable[..., Any], folder: Path, **options: Any) -> list[Any]:
    """Return what a module's function returns on each rank, in order: tensors, primitives and containers of them.

    Args:
        function: called on each rank, with torch.distributed initialised, as ``function(**options)``.
        folder: an empty one, for the results. options: what JSON can hold.
    """
    told = json.dumps([function.__module__, function.__qualname__, str(folder), options])
    done = subprocess.run(
        torchrun(ranks, "-m", __name__, told),
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(ranks)]


def main(told: str) -> None:
    """Call the function that ``on_ranks`` was given, on one of the ranks."""
    module, name, folder, options = json.loads(told)
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    result = getattr(importlib.import_module(module), name)(**options)
    torch.save(result, Path(folder) / f"{dist.get_rank()}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
