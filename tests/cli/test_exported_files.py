"""`dalib export --int8` and `dalib evaluate FILE.onnx`: from a run to a score of the file that is deployed."""

import json
from pathlib import Path

import pytest
import torch

from dalib.deploy.runtimes import read_metadata, write_metadata
from dalib.evaluation.panels import write_png
from tests.command import TINY, refusal, run_dalib

for package in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(package)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that has trained a little."""
    folder = tmp_path_factory.mktemp("exported")
    (folder / "tiny.yaml").write_text(TINY)
    assert run_dalib("train", folder / "tiny.yaml", "--out", folder / "run", "train.steps=3") == 0
    return folder / "run"


@pytest.fixture(scope="module")
def file(run: Path) -> Path:
    """The run's model as ONNX."""
    assert run_dalib("export", run, "--out", run / "net.onnx") == 0
    return run / "net.onnx"


def score(*arguments: object, out: Path) -> dict[str, object]:
    assert run_dalib("evaluate", *arguments, "--json", out) == 0
    scored: dict[str, object] = json.loads(out.read_text())
    return scored


def test_an_exported_file_has_the_runs_score_by_the_runs_protocol(run: Path, file: Path, tmp_path: Path) -> None:
    settings = ("evaluate.protocol=advent", "evaluate.batch_size=2")
    own = score(run, *settings, out=tmp_path / "own.json")
    exported = score(file, "--recipe", run / "recipe.yaml", *settings, out=tmp_path / "file.json")
    assert exported["protocol"] == "advent" and exported["miou"] == pytest.approx(own["miou"], abs=1e-3)


def test_a_file_is_traced_at_the_size_of_the_runs_data_and_says_its_classes(file: Path) -> None:
    said = read_metadata(file)
    assert (
        said["size"] == [32, 64]
        and said["classes"][:2] == ["road", "sidewalk"]
        and said["palette"][0] == [128, 64, 128]
    )


@pytest.mark.parametrize("pictures", ["own", "recipe", "folder"])
def test_int8_is_calibrated_on_the_targets_pictures_and_says_what_agrees_and_nothing_else(
    pictures: str, run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for i in range(2):
        write_png(tmp_path / f"{i}.png", (torch.rand(3, 40, 70) * 255).byte())
    chosen = {"own": [], "recipe": ["--calibrate", run], "folder": ["--calibrate", tmp_path]}[pictures]
    capfd.readouterr()
    assert run_dalib("export", run, "--out", tmp_path / "net.onnx", "--int8", *chosen) == 0
    told = capfd.readouterr()
    count = "1 picture" if pictures == "folder" else "3 pictures"  # every second one
    assert f"% of the pixels of {count} keep their class" in told.out.splitlines()[0]
    warned = f"the agreement of int8 rests on {count} alone; calibrate on 8 or more, of which half are compared"
    assert [line for line in told.err.splitlines() if "looking for what loses most" not in line] == [warned]
    assert read_metadata(tmp_path / "net.onnx")["precision"] == "int8"
    score(tmp_path / "net.onnx", "--recipe", run / "recipe.yaml", out=tmp_path / "score.json")


def test_the_classes_of_file_and_data_are_compared(
    run: Path, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = read_metadata(file)
    for classes, told in (
        (["path", *said["classes"][1:]], "19 classes and data.eval has 19; they differ in path, road"),
        (said["classes"][::-1], "19 classes and data.eval has 19; they differ in their order"),
        (said["classes"][:18], "18 classes and data.eval has 19; they differ in bicycle"),
    ):
        other = tmp_path / "other.onnx"
        other.write_bytes(file.read_bytes())
        write_metadata(other, said | {"classes": classes})
        assert f"{other} has {told}" in refusal(capsys, "evaluate", other, "--recipe", run / "recipe.yaml")


def test_images_that_a_file_is_not_for_are_refused(
    run: Path, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.onnx"
    other.write_bytes(file.read_bytes())
    write_metadata(other, read_metadata(file) | {"multiple": 64})
    said = refusal(capsys, "evaluate", other, "--recipe", run / "recipe.yaml")
    assert said.startswith(f"{other} is for H and W that are multiples of 64; these images are 32x64 (HxW).")


def test_what_is_missing_on_the_command_line_is_said(
    run: Path, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "name what it is scored on with --recipe" in refusal(capsys, "evaluate", file)
    export = ("export", run, "--out")
    assert "add --int8" in refusal(capsys, *export, tmp_path / "net.onnx", "--calibrate", tmp_path)
    assert "int8 is for ONNX; expected a path ending in .onnx" in refusal(
        capsys, *export, tmp_path / "net.pt2", "--int8"
    )
    calibrate = (*export, tmp_path / "net.onnx", "--int8", "--calibrate")
    assert "found none that fit; check the path" in refusal(capsys, *calibrate, tmp_path)
    picture = next((run / "panels").glob("*.png"))
    assert refusal(capsys, *calibrate, picture).startswith(
        f"{picture}: --calibrate takes a folder of pictures, or a rec"
    )
    gone = tmp_path / "gone.onnx"
    assert refusal(capsys, "evaluate", gone, "--recipe", run) == f"{gone} does not exist; expected an ONNX file."
    assert [*tmp_path.iterdir()] == []
