"""The rooms of the house: what may import what is a contract in pyproject.toml, which import-linter reads."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def lint(root: Path) -> subprocess.CompletedProcess[str]:
    """Hold a tree against the contracts of its pyproject.toml."""
    code = (
        "import sys; sys.path[:0] = ['.', 'plugins']; from importlinter.cli import lint_imports; "
        "sys.exit(lint_imports(no_cache=True))"
    )
    return subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)


def test_each_room_imports_only_what_stands_below_it():
    done = lint(ROOT)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("file", "line", "broken"),
    [
        ("dalib/data/lists.py", "from dalib.core.step import Step", "dalib.data is not allowed to import dalib.core"),
        (
            "dalib/data/lists.py",
            "if TYPE_CHECKING:\n    from dalib.core.engine import Engine",
            "dalib.data is not allowed to import dalib.core",
        ),
        ("dalib/core/clock.py", "from dalib import Engine", "dalib.core is not allowed to import dalib"),
        ("dalib/core/clock.py", "from dalib.core.engine import Engine", "No cycles are allowed in dalib.core"),
        (
            "plugins/dalib_plugins/fda.py",
            "import dalib.core.engine",
            "dalib_plugins is not allowed to import dalib.core",
        ),
        ("dalib/newcomer.py", "", "not listed as layers"),
    ],
)
def test_an_import_from_above_is_told(file, line, broken, tmp_path):
    for part in ("dalib", "plugins"):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with (tmp_path / file).open("a") as module:
        module.write(f"\nfrom typing import TYPE_CHECKING\n{line}\n")
    done = lint(tmp_path)
    assert done.returncode == 1 and broken in done.stdout, done.stdout
