"""The comparison of networks puts every network's score and cost side by side, and keeps what is done."""

import json
import runpy
import sys
from pathlib import Path

import pytest
import torch

from dalib import DalibError, Engine, create_dataset, create_model
from dalib.evaluation.panels import write_png

SCRIPT = Path(__file__).parents[2] / "examples" / "compare_networks.py"
NETWORKS = ["bisenet", "timm backbone=mobilenetv3_small_100"]
SIZES = ["--steps", "2", "--size", "64", "64", "--latency-size", "64", "128", "--batch-size", "2", "--images", "1"]
QUICK = [*SIZES, "--seconds", "0", "--threads", "1"]
DATA = ["--data", "diorama domain=target length=8"]


@pytest.fixture
def untrainable(monkeypatch: pytest.MonkeyPatch) -> None:
    def trained(*_: object, **__: object) -> None:
        raise AssertionError("trained for nothing")

    monkeypatch.setattr(Engine, "fit", trained)


def compare(out: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["compare_networks.py", *arguments, "--out", str(out)])
    runpy.run_path(str(SCRIPT), run_name="__main__")


@pytest.mark.usefixtures("untrainable")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bisenett"], "there is no model 'bisenett'. Did you mean 'bisenet'"),
        (["timm backbone"], "expected a name and options as key=value, got 'backbone'"),
        (["bisenet", "timm backbone=resnet81"], "timm has no backbone 'resnet81'. Did you mean resnet18"),
        (["deeplabv2 multi_level=maybe"], r'multi_level: expected true or false, got "maybe"'),
        (["--variant", "fast"], "fast"),
        (["--data", "diorama length=ten"], r'length: expected a whole number, got "ten"'),
        (["--data", "diorama domain=targt"], r'domain: .*"targt"'),
        (["--data", "folder root=nowhere"], "nowhere"),
    ],
)
def test_what_would_fail_is_one_message_and_leaves_no_file(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit, match=message):
        compare(tmp_path, monkeypatch, *arguments)
    assert not [*tmp_path.iterdir()]


@pytest.mark.usefixtures("untrainable")
@pytest.mark.parametrize(
    "arguments",
    [
        *(["--latency-size", "0", "3"], ["--size", "3", "-1"], ["--batch-size", "0"], ["--images", "0"]),
        *(["--steps", "-1"], ["--threads", "0"], ["--seconds", "nan"]),
    ],
)
def test_a_comparison_of_nothing_is_wrong_usage(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        compare(tmp_path, monkeypatch, *arguments)
    assert ended.value.code == 2 and f"argument {arguments[0]}: expected a" in capsys.readouterr().err
    assert not [*tmp_path.iterdir()]


@pytest.mark.usefixtures("untrainable")
def test_an_item_that_cannot_be_read_is_said_before_any_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data" / "images").mkdir(parents=True)
    (tmp_path / "data" / "images" / "0.png").write_bytes(b"no image")
    with pytest.raises(SystemExit, match=r"0\.png"):
        compare(tmp_path / "out", monkeypatch, "--data", f"folder root={tmp_path / 'data'} split=null")
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("untrainable")
def test_a_latency_that_cannot_be_measured_is_said_before_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise DalibError("no compiler")

    monkeypatch.setattr("dalib.deploy.bench.measure", refused)
    with pytest.raises(SystemExit, match="no compiler"):
        compare(tmp_path, monkeypatch, "bisenet", *QUICK, *DATA)


def test_prints_score_latency_multiply_adds_and_parameters_of_each_network_and_keeps_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "150")
    compare(tmp_path, monkeypatch, *NETWORKS, *QUICK, *DATA)
    printed = capsys.readouterr().out
    assert "latency: 64x128 (HxW), fused+channels-last" in printed
    rows = {cells[1].strip(): cells[2:-1] for line in printed.splitlines() if len(cells := line.split("│")) == 9}
    assert [*rows] == NETWORKS
    for cells in rows.values():
        miou, median, p95, processor, macs = map(float, cells[:5])
        assert 0 <= miou <= 100 and 0 < median <= p95 and processor > 0 and macs > 0
    assert float(rows["bisenet"][5]) == 12.1

    kept = tmp_path / "bisenet.json"
    kept.write_text(json.dumps(json.loads(kept.read_text()) | {"miou": 0.777}))
    compare(tmp_path, monkeypatch, *NETWORKS, *QUICK, *DATA)
    assert "77.7" in capsys.readouterr().out  # read, not trained again
    with pytest.raises(SystemExit, match=r"other settings .*settings\.json.* another --out"):
        compare(tmp_path, monkeypatch, *NETWORKS, *QUICK, *DATA, "--seed", "1")
    (tmp_path / "settings.json").write_text("{")
    with pytest.raises(SystemExit, match=r"settings\.json cannot be read: .*Remove it, or give another --out"):
        compare(tmp_path, monkeypatch, *NETWORKS, *QUICK, *DATA)


def test_networks_have_the_classes_of_the_data_and_settings_alone_lock_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    streets = create_dataset("diorama", size=(64, 64), length=2)
    for index in range(2):
        image, label = streets[index]
        write_png(tmp_path / "images" / f"{index}.png", image)
        write_png(tmp_path / "labels" / f"{index}.png", (label % 3)[None].to(torch.uint8))
    (tmp_path / "map.yaml").write_text("classes: [a, b, c]\nids: {0: a, 1: b, 2: c}\n")
    data = f"folder root={tmp_path} split=null images=images labels=labels label_map=map.yaml"
    out = tmp_path / "out"
    out.mkdir()
    (out / "settings.json").write_text('{"data": "of a call that came to nothing"}')
    compare(out, monkeypatch, "bisenet", *QUICK, "--data", data)
    assert f"mIoU: {data}" in "".join(capsys.readouterr().out.splitlines())
    cost = json.loads((out / "bisenet.json").read_text())["cost"]
    assert cost["parameters"] == sum(p.numel() for p in create_model("bisenet", 3).parameters())


def test_how_many_tensors_of_a_file_of_weights_fitted_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(create_model("bisenet").state_dict(), tmp_path / "w.pt")
    compare(tmp_path / "out", monkeypatch, f"bisenet weights={tmp_path / 'w.pt'}", *QUICK, *DATA)
    assert f"{tmp_path / 'w.pt'}" in capsys.readouterr().err
