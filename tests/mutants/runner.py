"""Tests of a mutant in a fork of a warm process: torch is imported once, the project anew in every fork."""

import gc
import importlib
import importlib.machinery
import importlib.util
import io
import json
import os
import resource
import sys
import tempfile
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, ModuleType

import coverage
import pytest

from tests.mutants.mutations import Mutant

WARM = ("torch", "torchvision", "kornia.augmentation", "timm", "pydantic", "rich.table", "hypothesis", "numpy", "yaml")
PATIENCE = 10  # times what the slowest of the tests takes without a mutant, and 20 s
MEMORY = 16 << 30  # that a mutant may grow by before it counts as killed


@dataclass
class Reached:
    """What the tests of a file do without a mutant: which reach each line, and how long each takes."""

    seconds: dict[str, float] = field(default_factory=dict)
    lines: dict[int, list[str]] = field(default_factory=dict)

    def by(self, mutant: Mutant) -> list[str]:
        """Return the tests that reach a mutant, fastest first; all of them where it runs on import."""
        reaching = {test for line in mutant.lines for test in self.lines.get(line, ())}
        return sorted(self.seconds if mutant.at_import else reaching, key=lambda test: self.seconds.get(test, 0.0))


def warm() -> None:
    """Import what every fork needs, and nothing of the project."""
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    sys.dont_write_bytecode, sys.pycache_prefix = False, str(Path(tempfile.gettempdir()) / "dalib-mutants")
    for name in WARM:
        importlib.import_module(name)
    with redirect_stdout(io.StringIO()):
        _pytest([str(Path(__file__).parent)])
    ours = [name for name in sys.modules if name.split(".")[0] in ("dalib", "dalib_plugins")]
    assert not ours, f"{ours} would not be imported anew"
    sys.modules["torch"].set_num_threads(1)
    gc.freeze()  # pytest collects garbage at its end: not that of what is warm


def reached(file: Path, tests: Sequence[str]) -> Reached:
    """Run the tests once without a mutant, noting what they reach; they must pass."""
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "reached.json"
        status = os.waitstatus_to_exitcode(os.waitpid(_fork(lambda: _observe(file, tests, found)), 0)[1])
        if status:
            raise SystemExit(f"{file}: its tests fail without a mutant (status {status}): pytest {' '.join(tests)}")
        stored = json.loads(found.read_text())
    return Reached(stored["seconds"], {int(line): names for line, names in stored["lines"].items()})


def survivors(file: Path, mutants: Sequence[Mutant], tests: Reached, jobs: int) -> Iterator[tuple[Mutant, bool]]:
    """Yield each mutant and whether it survives its tests, several at a time."""
    running: dict[int, Mutant] = {}
    waiting = list(reversed(mutants))
    while waiting or running:
        while waiting and len(running) < jobs:
            mutant = waiting.pop()
            if names := tests.by(mutant):
                patience = round(20 + PATIENCE * max(tests.seconds.get(name, 0.0) for name in names))
                running[_fork(lambda m=mutant, n=names, p=patience: _try(file, m, n, p))] = mutant
            else:
                yield mutant, True
        if running:
            pid, status = os.wait()
            yield running.pop(pid), os.waitstatus_to_exitcode(status) == 0


def _fork(work: Callable[[], int]) -> int:
    pid = os.fork()
    if pid:
        return pid
    status, said = 99, os.dup(2)
    try:
        quiet = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(quiet, stream)
        status = work()
    except BaseException:
        os.write(said, traceback.format_exc().encode())
    finally:
        os._exit(status)


def _try(file: Path, mutant: Mutant, tests: Sequence[str], patience: int) -> int:
    resource.setrlimit(resource.RLIMIT_CPU, (600, 600))
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    sys.meta_path.insert(0, _Finder(file, mutant.source))
    return _pytest(sorted({test.split("::")[0] for test in tests}), _Chosen(tests), timeout=patience)


def _pytest(files: Sequence[str], *plugins: object, timeout: int = 180) -> int:
    warmed = "ignore:Module already imported so cannot be rewritten:pytest.PytestAssertRewriteWarning"
    options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "pytest_timeout", "--timeout", str(timeout), "--tb=no"]
    return int(pytest.main([*options, "-W", warmed, *files], plugins=plugins))


class _Finder(importlib.machinery.PathFinder):
    """Gives one module the source of a mutant."""

    def __init__(self, file: Path, source: str) -> None:
        self.file, self.source = file.resolve(), source

    def find_spec(self, name: str, path: object = None, target: ModuleType | None = None) -> object:
        if name.split(".")[0] not in ("dalib", "dalib_plugins"):
            return None
        spec = super().find_spec(name, path, target)
        if spec is not None and spec.origin == str(self.file):
            spec.loader = _Loader(name, spec.origin, self.source)
        return spec


class _Loader(importlib.machinery.SourceFileLoader):
    def __init__(self, name: str, path: str, source: str) -> None:
        super().__init__(name, path)
        self.source = source

    def get_code(self, name: str) -> CodeType:
        return compile(self.source, self.path, "exec", dont_inherit=True)


class _Chosen:
    """Runs these tests alone, in this order."""

    def __init__(self, tests: Sequence[str]) -> None:
        self.order = {test: i for i, test in enumerate(tests)}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = sorted((i for i in items if i.nodeid in self.order), key=lambda item: self.order[item.nodeid])


def _observe(file: Path, tests: Sequence[str], found: Path) -> int:
    measured = coverage.Coverage(data_file=None, include=[str(file.resolve())])
    observer = _Observer(measured)
    measured.start()
    status = _pytest(tests, observer)
    measured.stop()
    lines = defaultdict(set)
    for line, contexts in measured.get_data().contexts_by_lineno(str(file.resolve())).items():
        for context in contexts:  # what a fixture of a whole file reaches counts for all of its tests
            lines[line] |= {test for test in observer.seconds if test == context or test.split("::")[0] == context}
    found.write_text(json.dumps({"seconds": observer.seconds, "lines": {k: sorted(v) for k, v in lines.items()}}))
    return status


class _Observer:
    def __init__(self, measured: coverage.Coverage) -> None:
        self.measured = measured
        self.seconds: dict[str, float] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        started = time.perf_counter()
        self.measured.switch_context(item.nodeid)
        result = yield
        self.seconds[item.nodeid] = round(time.perf_counter() - started, 3)
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: object, request: pytest.FixtureRequest) -> Iterator[None]:
        if request.scope == "function":
            return (yield)
        self.measured.switch_context(request.node.nodeid)
        try:
            return (yield)
        finally:
            self.measured.switch_context(request._pyfuncitem.nodeid)
