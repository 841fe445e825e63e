"""The comparison of networks puts every network's score and cost side by side, and keeps what is done."""

import json
import runpy
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "examples" / "compare_networks.py"
NETWORKS = ["bisenet", "timm backbone=mobilenetv3_small_100"]
SIZES = ["--steps", "2", "--size", "64", "64", "--latency-size", "64", "128", "--batch-size", "2", "--images", "1"]
DATA = ["--data", "diorama domain=target length=8"]


def compare(out: Path, monkeypatch: pytest.MonkeyPatch, *options: str) -> None:
    arguments = [*NETWORKS, *SIZES, *DATA, "--seconds", "0", "--threads", "1", "--out", str(out), *options]
    monkeypatch.setattr(sys, "argv", ["compare_networks.py", *arguments])
    runpy.run_path(str(SCRIPT), run_name="__main__")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bisenett"], "there is no model 'bisenett'. Did you mean 'bisenet'"),
        (["timm backbone"], "expected a name and options as key=value, got 'backbone'"),
        (["deeplabv2 multi_level=maybe"], r'multi_level: expected true or false, got "maybe"'),
        (["--variant", "fast"], "fast"),
        (["--data", "diorama length=ten"], r'length: expected a whole number, got "ten"'),
    ],
)
def test_what_would_fail_is_one_message(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["compare_networks.py", *arguments, "--out", str(tmp_path)])
    with pytest.raises(SystemExit, match=message):
        runpy.run_path(str(SCRIPT), run_name="__main__")


def test_prints_score_latency_multiply_adds_and_parameters_of_each_network_and_keeps_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "150")
    compare(tmp_path, monkeypatch)
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
    compare(tmp_path, monkeypatch)
    assert "77.7" in capsys.readouterr().out  # read, not trained again
    with pytest.raises(SystemExit, match=r"other settings .*settings\.json.* another --out"):
        compare(tmp_path, monkeypatch, "--seed", "1")
