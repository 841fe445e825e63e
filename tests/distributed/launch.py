"""Jobs of several gloo ranks on this machine, started by torchrun as users start them."""

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

ROOT = Path(__file__).parents[2]
PATIENCE = 150  # seconds for a job, of which a test may start two


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


class Started:
    """A job of ``dalib`` that goes on while a test acts on its processes; it ends with the block."""

    def __init__(self, ranks: int, *arguments: object, restarts: int = 0, meeting: Sequence[str] = ()) -> None:
        """Start one; ``meeting`` says to torchrun where it meets that of another host."""
        command = torchrun(ranks, "-m", "dalib", *arguments, restarts=restarts)
        command = [*command[:3], *(meeting or command[3:4]), *command[4:]]
        self._process = subprocess.Popen(
            command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self._acted = 0.0

    def __enter__(self) -> "Started":
        return self

    def __exit__(self, *_: object) -> None:
        for pid in [self._process.pid, *self.pids().values()]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def await_step(self, step: int, folder: Path) -> None:
        """Wait until the run in ``folder`` has logged this step."""
        metrics, end = folder / "metrics.jsonl", time.monotonic() + PATIENCE
        while not metrics.exists() or metrics.read_text().count("\n") < step:
            assert self._process.poll() is None and time.monotonic() < end, f"step {step} was never seen"
            time.sleep(0.002)

    def send(self, number: int, rank: int | None = None) -> None:
        """Send a signal to a rank, or to torchrun."""
        os.kill(self._process.pid if rank is None else self.pids()[rank], number)
        self._acted = time.monotonic()

    def end(self) -> tuple[int, str, float]:
        """Return torchrun's status, what the job has said, and the seconds since the last signal."""
        said, _ = self._process.communicate(timeout=PATIENCE)
        return self._process.returncode, said, time.monotonic() - self._acted

    def pids(self) -> dict[int, int]:
        """Return the ranks' process ids."""
        found = {}
        for children in Path(f"/proc/{self._process.pid}/task").glob("*/children"):
            for pid in children.read_text().split():
                with suppress(OSError):
                    variables = Path(f"/proc/{pid}/environ").read_text().split("\0")
                    found |= {int(v[5:]): int(pid) for v in variables if v.startswith("RANK=")}
        return found


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
    rank = dist.get_rank()
    result = getattr(importlib.import_module(module), name)(**options)
    torch.save(result, Path(folder) / f"{rank}.pt")
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
