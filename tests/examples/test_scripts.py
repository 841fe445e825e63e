"""The scripts of the examples run as their help says, on diorama and on folders."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

from dalib import create_dataset, create_model
from dalib.evaluation.panels import write_png

EXAMPLES = Path(__file__).parents[2] / "examples"
QUICK = ["--steps", "2", "--size", "64", "64", "--batch-size", "1", "--images", "1"]


@pytest.fixture
def output_of(monkeypatch, capsys):
    """Run a script in this process, which has imported torch already, and return what it prints."""
    monkeypatch.syspath_prepend(str(EXAMPLES))

    def run(script: str) -> str:
        monkeypatch.setattr(sys, "argv", [script, *QUICK])
        runpy.run_path(str(EXAMPLES / script), run_name="__main__")
        return capsys.readouterr().out

    yield run
    sys.modules.pop("common", None)


def reached(printed: str) -> dict[str, float]:
    """Return the mIoU of each system that a script printed, in percent."""
    rows = [line.split("mIoU") for line in printed.splitlines() if "mIoU" in line]
    return {name.strip(): float(score.removesuffix("%")) for name, score in rows}


@pytest.mark.parametrize(
    ("script", "systems"),
    [
        ("augmentation.py", ["source only", "jitter", "blur", "jitter and blur"]),
        ("adversarial.py", ["source only", "AdaptSegNet", "AdvEnt"]),
        ("fda.py", ["source only", "FDA"]),
        ("dacs.py", ["source only", "DACS"]),
        ("stack.py", ["untrained", "student", "teacher"]),
    ],
)
def test_a_script_prints_what_each_system_reaches(script, systems, output_of):
    scores = reached(output_of(script))
    assert list(scores) == systems and all(0 <= score <= 100 for score in scores.values())


@pytest.mark.parametrize("option", ["--size", "--steps", "--batch-size", "--images"])
def test_a_script_of_nothing_is_wrong_usage(option, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.setattr(sys, "argv", ["fda.py", option, "0", *["64"][: option == "--size"]])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(EXAMPLES / "fda.py"), run_name="__main__")
    sys.modules.pop("common", None)
    assert ended.value.code == 2 and f"argument {option}: expected a whole number" in capsys.readouterr().err


def test_a_mistake_in_the_demos_overrides_is_one_message(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["demo.py", "--out", str(tmp_path / "demo"), "train.step=3"])
    with pytest.raises(SystemExit, match=r"demo: .*Did you mean 'steps'"):
        runpy.run_path(str(EXAMPLES / "demo.py"), run_name="__main__")


def test_the_demo_tells_how_many_tensors_of_given_weights_fitted(tmp_path, monkeypatch, capsys):
    torch.save(create_model("bisenet").state_dict(), tmp_path / "w.pt")
    sizes = [f"data.{stream}.size=[64, 64]" for stream in ("source", "target")]
    steps = ["train.steps=1", "data.batch_size=2", "evaluate.limit=1", "train.device=cpu"]
    overrides = [f"model={{use: bisenet, weights: {tmp_path / 'w.pt'}}}", *steps, *sizes]
    monkeypatch.setattr(sys, "argv", ["demo.py", "--out", str(tmp_path / "demo"), *overrides])
    runpy.run_path(str(EXAMPLES / "demo.py"), run_name="__main__")
    assert str(tmp_path / "w.pt") in capsys.readouterr().err


def test_a_script_adapts_to_folders_of_ones_own(tmp_path):
    source = create_dataset("diorama", size=(64, 64))
    for images, labels in (("images", "labels"), ("images/train", None), ("images/val", "labels/val")):
        domain = "source" if images == "images" else "target"
        for index in range(2):
            image, label = source[index]
            write_png(tmp_path / domain / images / f"{index}.png", image)
            if labels:
                write_png(tmp_path / domain / labels / f"{index}.png", label[None].to(torch.uint8))
    folders = ["--source", str(tmp_path / "source"), "--target", str(tmp_path / "target")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(EXAMPLES / "fda.py"), *QUICK, *folders]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert list(reached(done.stdout)) == ["source only", "FDA"]


def test_an_ablation_trains_each_recipe_once_and_refuses_what_another_recipe_left(tmp_path, monkeypatch, capfd):
    def ablate(*more: str) -> str:
        overrides = ["train.steps=1", "data.batch_size=1", "evaluate.limit=1", "train.device=cpu"]
        sizes = [f"data.{stream}.size=[64, 64]" for stream in ("source", "target")]
        recipe = str(EXAMPLES / "recipes" / "diorama" / "source_only.yaml")
        arguments = [recipe, "--seeds", "3", "--out", str(tmp_path), *overrides, *sizes, *more]
        monkeypatch.setattr(sys, "argv", ["ablation.py", *arguments])
        runpy.run_path(str(EXAMPLES / "ablation.py"), run_name="__main__")
        return capfd.readouterr().out

    first = ablate()
    assert "| system | seed 3 | mean |" in first and "| source_only |" in first
    assert ("| system | seed 3 | mean |" in (tmp_path / "leaderboard.md").read_text()) and "| road |" not in first
    trained = (tmp_path / "source_only-3" / "metrics.jsonl").read_text()
    assert ablate().splitlines()[-1] == first.splitlines()[-1]
    assert (tmp_path / "source_only-3" / "metrics.jsonl").read_text() == trained
    with pytest.raises(SystemExit, match=r"failed with status 2; see .*log\.txt"):
        ablate("optimizer.lr=1e-5")
    assert "optimizer.lr" in (tmp_path / "source_only-3" / "log.txt").read_text()
    with pytest.raises(SystemExit):
        ablate(str(EXAMPLES / "recipes" / "gta5_to_cityscapes" / "source_only.yaml"))
    assert "two recipes have one file name" in capfd.readouterr().err


def test_the_leaderboard_of_an_ablation_has_the_same_figures_as_markdown_json_and_plot(tmp_path, monkeypatch):
    def ready(recipe: Path, seed: int, out: Path, overrides: list[str]) -> None:
        out.mkdir(parents=True)
        miou = {"source_only": 0.2, "dacs": 0.3}[recipe.stem] + seed / 100
        iou = {"road": 0.5, "car": None}
        (out / "results.json").write_text(json.dumps({"miou": miou, "seconds": 90, "counted": [*iou], "iou": iou}))

    ablation = runpy.run_path(str(EXAMPLES / "ablation.py"))
    monkeypatch.setitem(ablation["main"].__globals__, "train", ready)
    monkeypatch.setattr(
        sys, "argv", ["ablation.py", "source_only.yaml", "dacs.yaml", "--seeds", "1", "3", "--out", str(tmp_path)]
    )
    ablation["main"]()
    table, classes = (tmp_path / "leaderboard.md").read_text().strip().split("\n\n")
    assert table.splitlines()[-1] == "| dacs | 31.0 | 33.0 | 32.0 | 1.4 | +10.0, +10.0 | 1.5 |"
    assert classes.splitlines()[-1] == "| dacs | 50.0 | 0.0 |"
    board = json.loads((tmp_path / "leaderboard.json").read_text())
    assert board["seeds"] == [1, 3] and [row["system"] for row in board["systems"]] == ["source_only", "dacs"]
    assert board["systems"][1]["miou"] == pytest.approx([31, 33])
    assert board["systems"][1]["iou"] == {"road": 50, "car": 0}
    svg = ElementTree.parse(tmp_path / "leaderboard.svg").getroot()
    name = "{http://www.w3.org/2000/svg}"
    bars = [float(bar.get("width", 0)) for bar in svg.iter(f"{name}rect")]
    dots = [float(dot.get("cx", 0)) for dot in svg.iter(f"{name}circle")]
    assert bars[1] / bars[0] == pytest.approx(32 / 22, rel=1e-3)
    assert dots == sorted(dots) and len(dots) == 4
    assert {"source_only", "dacs", "22.0", "32.0"} <= {text.text for text in svg.iter(f"{name}text")}
