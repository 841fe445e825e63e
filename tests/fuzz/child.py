"""A process that is fed hostile input, so that a crash, a hang or a hunger for memory ends it and not the tests."""

import faulthandler
import multiprocessing
import resource
import tempfile
import traceback
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

SECONDS = 30  # for one input, on a busy machine
MEMORY = 3 * 2**30  # bytes beyond what the libraries take: enough for the largest picture that may be decoded


class Child:
    """Answers inputs one at a time; a new process takes the place of one that died."""

    def __init__(self) -> None:
        self._process: multiprocessing.process.BaseProcess | None = None

    def check(self, target: str, content: Any) -> None:
        """Fail unless ``target`` takes or refuses ``content`` with an error of the library, in bounds."""
        if self._process is None:
            context = multiprocessing.get_context("spawn")
            self._connection, other = context.Pipe()
            self._process = context.Process(target=_serve, args=(other,), daemon=True)
            self._process.start()
            other.close()
            assert self._connection.recv() == "ready"
        self._connection.send((target, content))
        answer = self._answer()
        assert answer == "", f"{target} of {content!r}: {answer}"

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process = None

    def _answer(self) -> str:
        assert self._process is not None
        try:
            if self._connection.poll(SECONDS):
                return str(self._connection.recv())
        except EOFError:
            self._process.join()
            status, self._process = self._process.exitcode, None
            return f"the process ended with {status}"
        self.close()
        return f"no answer within {SECONDS} s"


def _serve(connection: Connection) -> None:
    """Answer with nothing where all is well, else with what escaped."""
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        targets = _targets(Path(folder))
        _limit()
        connection.send("ready")
        while True:
            target, content = connection.recv()
            connection.send(_outcome(targets[target], content))


def _limit() -> None:
    faulthandler.enable()
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _outcome(target: Callable[[Any], object], content: Any) -> str:
    from dalib.errors import DalibError

    try:
        target(content)
    except DalibError as error:
        return "" if str(error) else "an error without a message"
    except BaseException:
        return traceback.format_exc()
    return ""


def _targets(folder: Path) -> dict[str, Callable[[Any], object]]:
    import torch

    from dalib.data.decode import read_image, read_label
    from dalib.data.label_map import read_label_map
    from dalib.discovery import allow_bundled_only, default_registry
    from dalib.models import load_weights
    from dalib.runs.loading import load_run
    from dalib.runs.recipe import make_recipe
    from dalib.yaml import dump_yaml, parse_yaml
    from tests.tiny import TinyModel

    allow_bundled_only()
    default_registry().model("tiny", TinyModel)
    torch.set_num_threads(1)

    def file(content: bytes, name: str) -> Path:
        path = folder / name
        path.write_bytes(content)
        return path

    def recipe_text(text: str) -> None:
        value = parse_yaml(text)
        if isinstance(value, dict):
            make_recipe(value)

    def label_map(value: Any) -> None:
        text = value if isinstance(value, str) else dump_yaml(value)
        scheme = read_label_map(file(text.encode("utf-8", "surrogateescape"), "map.yaml"))
        scheme.label_map(torch.arange(12, dtype=torch.uint8).reshape(3, 2, 2), folder)

    return {
        "image": lambda content: read_image(file(content, "image.png")),
        "label": lambda content: read_label(file(content, "label.png")),
        "checkpoint": lambda content: load_run(file(content, "last.pt"), device="cpu"),
        "weights": lambda content: load_weights(TinyModel(num_classes=19), file(content, "weights.pt")),
        "recipe": make_recipe,
        "recipe text": recipe_text,
        "label map": label_map,
    }
