"""The wheel holds the library and nothing else, works from anywhere, and imports little."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import dalib

CHECKOUT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built without a network."""
    pytest.importorskip("build")
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(CHECKOUT)]
    built = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    assert built.returncode == 0, built.stdout + built.stderr
    return next(folder.glob("*.whl"))


def python(code, path, cwd):
    """Run code in a fresh interpreter that sees ``path`` first, and neither this checkout nor its working folder."""
    inherited = [p for p in sys.path if p and not Path(p).resolve().is_relative_to(CHECKOUT)]
    environment = {"PYTHONPATH": ":".join([str(path), *inherited]), "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, "-c", code], env=environment, cwd=cwd, capture_output=True, text=True)


def test_the_wheel_holds_both_packages_whole_and_nothing_else(wheel):
    names = [name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name]
    assert {name.split("/")[0] for name in names} == {"dalib", "dalib_plugins"}
    tracked = subprocess.run(
        ["git", "ls-files", "dalib", "plugins/dalib_plugins"], cwd=CHECKOUT, capture_output=True, text=True, check=True
    )
    expected = {line.removeprefix("plugins/") for line in tracked.stdout.splitlines() if (CHECKOUT / line).exists()}
    assert expected <= set(names)
    assert {"dalib/py.typed", "dalib_plugins/py.typed", "dalib/runs/report/style.css"} <= set(names)


def test_the_wheel_names_its_command_and_its_plugins(wheel):
    archive = zipfile.ZipFile(wheel)
    entry_points = next(n for n in archive.namelist() if n.endswith("entry_points.txt"))
    text = archive.read(entry_points).decode()
    assert "dalib = dalib.__main__:run" in text and "bundled = dalib_plugins" in text
    metadata = archive.read(entry_points.replace("entry_points.txt", "METADATA")).decode()
    assert "Name: dalib-seg\n" in metadata and f"Version: {dalib.__version__}\n" in metadata


def test_the_wheel_works_from_an_empty_directory(wheel, tmp_path):
    installed, empty = tmp_path / "installed", tmp_path / "empty"
    zipfile.ZipFile(wheel).extractall(installed)
    empty.mkdir()
    code = (
        "import dalib, torch\n"
        f"assert dalib.__file__.startswith({str(installed)!r}), dalib.__file__\n"
        "model = dalib.create_model('bisenet', 19).eval()\n"
        "assert model(torch.rand(1, 3, 32, 48)).shape == (1, 19, 32, 48)\n"
        "assert 'fda' in dalib.list_strategies() and 'diorama' in dalib.list_datasets()\n"
    )
    ended = python(code, installed, empty)
    assert ended.returncode == 0, ended.stderr
    assert not list(empty.iterdir())


def test_importing_dalib_loads_neither_torch_nor_a_plugin_nor_what_they_need(tmp_path):
    heavy = ("torch", "torchvision", "kornia", "timm", "pluggy", "pydantic", "rich", "yaml", "dalib_plugins", "numpy")
    code = f"import sys, dalib; sys.exit(', '.join(m for m in {heavy} if m in sys.modules) or 0)"
    ended = python(code, CHECKOUT, tmp_path)
    assert ended.returncode == 0, ended.stderr


def test_using_the_engine_loads_neither_kornia_nor_timm_nor_a_plugin(tmp_path):
    heavy = ("kornia", "timm", "dalib_plugins")
    code = f"import sys; from dalib import Engine; sys.exit(', '.join(m for m in {heavy} if m in sys.modules) or 0)"
    ended = python(code, CHECKOUT, tmp_path)
    assert ended.returncode == 0, ended.stderr


def test_every_public_name_resolves_and_is_listed():
    assert sorted(dalib.__all__) == dir(dalib)
    assert set(dalib.__all__) == set(dalib._HOMES)
    for name in set(dalib.__all__) - {"IGNORE"}:  # a number has no home
        assert getattr(dalib, name).__module__.startswith(("dalib.", "collections"))  # Predict is an alias
    assert dalib.IGNORE == 255


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'dalib' has no attribute 'Engin'"):
        dalib.Engin  # noqa: B018
