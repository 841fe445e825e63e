"""Quantisation to int8: what agrees, what stays in float, and what the user's terminal shows."""

import logging
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dalib import wrap_model
from dalib.deploy.export import Export, export, streets
from dalib.deploy.quantize import Quantized, quantize
from dalib.deploy.runtimes import Sizes, open_onnx

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
SIZE = (32, 48)


class Uneven(nn.Module):
    """Five convolutions, of which the first makes one channel a thousand times as large as the others."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.uneven, self.even = nn.Conv2d(3, 8, 1), nn.Sequential(*(nn.Conv2d(8, 8, 3, padding=1) for _ in range(3)))
        self.head = nn.Conv2d(8, 4, 1)
        with torch.no_grad():
            self.uneven.weight[0] *= 1000
            self.even[0].weight[:, 0] /= 1000

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.even(self.uneven(x)).relu())
        return logits


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(wrap_model(Uneven(), 4), tmp_path_factory.mktemp("file") / "net.onnx", SIZE).path


@pytest.fixture(scope="module")
def pictures() -> list[Tensor]:
    return streets(SIZE, 8)


def test_what_is_said_begins_with_the_agreement_of_int8_and_whether_it_is_enough() -> None:
    made = Quantized(agreement=0.98765, pictures=4, kept=("a",), convolutions=9)
    enough, others = replace(made, agreement=0.9912), "1 of 9 convolutions stay in float32"
    assert str(made) == (f"98.77 % of the pixels of 4 pictures keep their class, less than the 99 % aimed at; {others}")
    assert str(enough) == f"99.12 % of the pixels of 4 pictures keep their class; {others}"
    file = Export(
        path=Path("a.onnx"),
        format="ONNX 20",
        sizes=Sizes(size=SIZE, multiple=None),
        agreement={SIZE: 1.0},
        quantized=made,
    )
    first, second = str(file).splitlines()
    assert first.startswith("a.onnx: ONNX 20 in int8, ") and first.endswith(str(made))
    assert second == "before it was quantised, pixels that get the model's class: 100.00 % at 32x48 (HxW)"


def test_every_convolution_reads_and_writes_8_bits_where_enough_pixels_agree(
    file: Path, pictures: list[Tensor], tmp_path: Path
) -> None:
    made = quantize(file, tmp_path / "int8.onnx", pictures, goal=0)
    assert (made.kept, made.convolutions, made.pictures) == ((), 5, 4)
    operators = Counter(node.op_type for node in onnx.load(tmp_path / "int8.onnx").graph.node)
    assert operators["Conv"] == 5 and operators["QuantizeLinear"] >= 6
    run, other = open_onnx(file), open_onnx(tmp_path / "int8.onnx")
    shares = [(run(p[None]).argmax(1) == other(p[None]).argmax(1)).float().mean().item() for p in pictures[1::2]]
    assert made.agreement == pytest.approx(sum(shares) / 4)


def test_what_loses_most_stays_in_float_and_nothing_is_said_on_the_way_but_that(
    file: Path,
    pictures: list[Tensor],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(logging.getLogger("dalib"), "level", logging.WARNING)  # the command line lowers it
    naive = quantize(file, tmp_path / "naive.onnx", pictures, goal=0)
    made = quantize(file, tmp_path / "int8.onnx", pictures, goal=1)
    assert len(made.kept) == 1 and made.agreement > naive.agreement
    graph = onnx.load(tmp_path / "int8.onnx").graph
    producers = {name: node for node in graph.node for name in node.output}
    weights = {node.name: producers.get(node.input[1]) for node in graph.node if node.op_type == "Conv"}
    assert [name for name, weight in weights.items() if weight is None] == list(made.kept)
    assert "1 of 5 convolutions stay in float32" in str(made)
    assert capfd.readouterr() == ("", "")


def test_calibration_sees_every_second_picture_and_the_comparison_the_others(tmp_path: Path) -> None:
    """Pictures that are brighter than any calibrated on are cut off, so the two must not be mistaken."""
    file = export(wrap_model(nn.Conv2d(3, 4, 3, padding=1), 4), tmp_path / "net.onnx", SIZE).path
    dark, bright = torch.rand(2, 3, *SIZE) * 0.05, torch.rand(2, 3, *SIZE)
    unlike = quantize(file, tmp_path / "a.onnx", [dark[0], bright[0], dark[1], bright[1]], goal=0)
    alike = quantize(file, tmp_path / "b.onnx", [bright[0], bright[1]], goal=0)
    assert unlike.agreement < alike.agreement - 0.05
