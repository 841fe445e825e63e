"""The comparison of networks puts every network's score and cost side by side."""

import runpy
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "examples" / "compare_networks.py"
QUICK = ["--steps", "2", "--size", "64", "64", "--latency-size", "64", "128", "--batch-size", "2", "--images", "1"]


def test_prints_score_latency_multiply_adds_and_parameters_of_each_network(monkeypatch, capsys):
    networks = ["bisenet", "timm backbone=mobilenetv3_small_100"]
    monkeypatch.setenv("COLUMNS", "150")
    monkeypatch.setattr(sys, "argv", ["compare_networks.py", *networks, *QUICK, "--seconds", "0", "--threads", "1"])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    printed = capsys.readouterr().out
    assert "latency: 64x128 (HxW), fused+channels-last" in printed
    rows = {cells[1].strip(): cells[2:-1] for line in printed.splitlines() if len(cells := line.split("│")) == 8}
    assert [*rows] == networks
    for cells in rows.values():
        miou, median, p95, macs = map(float, cells[:4])
        assert 0 <= miou <= 100 and 0 < median <= p95 and macs > 0
    assert float(rows["bisenet"][4]) == 12.1
