"""srun, scancel and scontrol as far as the batch script needs them; every node is this machine.

They are copies of this file in a folder of the test's, to which they write: ``steps``, the processes that srun has
started, and ``requeued``, the job that is to start again.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

ROOM = Path(sys.argv[0]).parent


def srun(*arguments: str) -> int:
    """Start a command once per node, and wait for all."""
    options = dict(word[2:].partition("=")[::2] for word in arguments if word.startswith("--"))
    command = arguments[next(i for i, word in enumerate(arguments) if not word.startswith("--")) :]
    started = [subprocess.Popen(command) for _ in range(int(options["nodes"]))]
    (ROOM / "steps").write_text(" ".join(str(process.pid) for process in started))
    return max(process.wait() for process in started)


def scancel(option: str, job: str) -> int:
    """Send a signal to all processes of the step, as SLURM does to those of its container."""
    for pid in map(int, (ROOM / "steps").read_text().split()):
        for each in [pid, *descendants(pid)]:
            os.kill(each, signal.Signals[f"SIG{option.removeprefix('--signal=')}"])
    return 0


def scontrol(what: str, *arguments: str) -> int:
    if what == "requeue":
        (ROOM / "requeued").write_text(*arguments)
    else:
        assert (what, *arguments) == ("show", "hostnames", "node[1-2]")
        sys.stdout.write("localhost\nlocalhost\n")
    return 0


def descendants(pid: int) -> list[int]:
    files = Path(f"/proc/{pid}/task").glob("*/children")
    children = [int(child) for file in files for child in file.read_text().split()]
    return children + [each for child in children for each in descendants(child)]


if __name__ == "__main__":
    sys.exit({"srun": srun, "scancel": scancel, "scontrol": scontrol}[Path(sys.argv[0]).name](*sys.argv[1:]))
