"""``python -m tests.faults.limited FOLDER``: 2,000 steps on files, under limits; prints what they took, as JSON."""

import json
import multiprocessing
import os
import resource
import sys
from functools import partial
from pathlib import Path

import torch

from dalib import Engine, create_dataset, make_recipe, run
from dalib.evaluation.panels import write_png
from dalib_plugins.adversarial import DISCRIMINATORS, OutputDiscriminator

OPEN_FILES = 256
DATA_BYTES = 2 << 30  # heap, stacks and private maps of each process
STEPS, SETTLED = 2000, 200
SIZE = (32, 64)


def write_files(root: Path) -> None:
    """Write a few scenes as PNG files, those of the source with labels."""
    for domain, count in (("source", 12), ("target", 9)):
        scenes = create_dataset("diorama", domain=domain, size=SIZE, length=count)
        for i in range(count):
            image, label = scenes[i]
            write_png(root / domain / "images" / f"{i}.png", image)
            write_png(root / domain / "labels" / f"{i}.png", label[None])


def recipe(root: Path) -> dict:
    files = {name: {"use": "folder", "root": str(root / name)} for name in ("source", "target")}
    return {
        "model": {"use": "tiny", "dropout": 0.1},
        "data": {**files, "eval": files["target"], "batch_size": 2, "workers": 2},
        "strategies": [
            {"use": "augment", "streams": ["source", "target"], "flip": 0.5, "color_jitter": [0.5, 0.5, 0.5, 0.05]},
            {"use": "fda", "beta": 0.05},
            {"use": "supervised"},
            {"use": "adversarial", "weight": 0.001},
            {"use": "minent", "weight": 0.001},
            {"use": "dacs", "threshold": 0.5},
        ],
        "train": {"steps": STEPS, "log_every": 10, "checkpoint_every": 100, "eval_every": 500},
        "plugins": ["tests.tiny_plugin"],
    }


def resident(process: int | str) -> int:
    """Return the resident bytes of a process."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Watch:
    """Wraps ``Engine.step``; notes memory and open files every 100 steps."""

    def __init__(self) -> None:
        self.notes: dict[int, dict[str, float]] = {}
        step = Engine.step

        def watched(engine, *batches):
            terms = step(engine, *batches)
            if engine.index % 100 == 0:
                self.note(engine.index)
            return terms

        Engine.step = watched

    def note(self, step: int) -> None:
        workers = [child.pid for child in multiprocessing.active_children()]
        self.notes[step] = {
            "main": resident("self") / 1e6,
            "workers": sum(map(resident, workers)) / 1e6,
            "open_files": len(os.listdir("/proc/self/fd")),  # noqa: PTH208
        }


def main(folder: Path) -> None:
    multiprocessing.set_start_method("fork", force=True)
    torch.set_num_threads(1)
    DISCRIMINATORS["adaptsegnet"] = partial(OutputDiscriminator, channels=4)
    write_files(folder / "data")
    resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN_FILES, OPEN_FILES))
    resource.setrlimit(resource.RLIMIT_DATA, (DATA_BYTES, DATA_BYTES))
    watch = Watch()
    run(make_recipe(recipe(folder / "data")), folder / "run")
    status = Path("/proc/self/status").read_text()
    data = next(int(line.split()[1]) / 1e3 for line in status.splitlines() if line.startswith("VmData"))
    print(json.dumps({"notes": watch.notes, "data": data}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
