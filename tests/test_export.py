"""Exported files run without dalib and give the model's classes at any size."""

import importlib.util
from pathlib import Path

import pytest
import torch

from dalib import DalibError, create_model
from dalib.data.decode import read_image
from dalib.export import Export, _checked, _refuse_disagreement, export, size_multiple
from dalib.models import SegmentationModel

CAMVID = Path("data/native/camvid")


@pytest.fixture(scope="module")
def model() -> SegmentationModel:
    """A network whose classes differ over an image, with statistics unlike those of a new BatchNorm."""
    torch.manual_seed(0)
    model = create_model("bisenet", num_classes=5)
    assert isinstance(model, SegmentationModel)
    with torch.no_grad():
        for _ in range(3):
            model.train()(torch.rand(2, 3, 64, 64))
    return model


@pytest.fixture(scope="module")
def photograph(shared: Path) -> torch.Tensor:
    return read_image(sorted((shared / CAMVID).rglob("*.png"))[0]).float() / 255


def test_onnx_runtime_gives_the_models_classes_at_two_sizes(
    model: SegmentationModel, photograph: torch.Tensor, tmp_path: Path
) -> None:
    onnx = pytest.importorskip("onnx")
    written = export(model, tmp_path / "net.onnx", (96, 128), image=photograph)
    assert set(written.agreement) == {(96, 128), (72, 96)}
    assert min(written.agreement.values()) >= 0.999
    assert written.format == "ONNX, opset 20"
    file = onnx.load(tmp_path / "net.onnx")
    assert [(o.domain, o.version) for o in file.opset_import if o.domain in ("", "ai.onnx")] == [("", 20)]
    assert [i.name for i in file.graph.input] == ["images"]
    assert not any(node.op_type == "BatchNormalization" for node in file.graph.node)
    assert [p.name for p in tmp_path.iterdir()] == ["net.onnx"]  # weights lie inside
    assert model.training


def test_torch_export_runs_at_sizes_that_it_was_not_traced_at(model: SegmentationModel, tmp_path: Path) -> None:
    written = export(model, tmp_path / "net.pt2", (64, 96))
    assert written.multiple == 1 and min(written.agreement.values()) >= 0.999
    run = torch.export.load(written.path).module()
    image = torch.rand(1, 3, 45, 77)
    with torch.inference_mode():
        torch.testing.assert_close(run(image), model.eval()(image), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("suffix", ["onnx", pytest.param("pt2", marks=pytest.mark.slow)])
def test_a_network_with_tensorflows_padding_is_written_for_multiples_of_its_stride(suffix: str, tmp_path: Path) -> None:
    if suffix == "onnx":
        pytest.importorskip("onnx")
    torch.manual_seed(0)
    model = create_model("bisenet", num_classes=5, backbone="tf_efficientnet_lite0")
    written = export(model, tmp_path / f"net.{suffix}", (96, 128))
    assert "for H and W that are multiples of 32;" in str(written)
    assert list(written.agreement) == [(96, 128), (64, 96)]
    assert min(written.agreement.values()) >= 0.999
    if suffix == "pt2":
        with pytest.raises(AssertionError, match=r"Guard failed|multiples of 32"):
            torch.export.load(tmp_path / "net.pt2").module()(torch.rand(1, 3, 80, 96))


def test_a_network_with_tensorflows_padding_is_written_for_one_size_that_is_no_such_multiple() -> None:
    model = create_model("bisenet", num_classes=5, backbone="tf_efficientnet_lite0")
    assert (size_multiple(model, (64, 96)), size_multiple(model, (64, 90))) == (32, None)
    assert _checked((64, 90), None) == [(64, 90)]


def test_a_file_that_disagrees_is_refused() -> None:
    exported = Export(path=Path("net.onnx"), format="ONNX", multiple=1, agreement={(64, 96): 1.0, (48, 72): 0.99})
    with pytest.raises(DalibError, match=r"net\.onnx .* 99\.00 % of the pixels at 48x72 .* expected 99\.9 %"):
        _refuse_disagreement(exported)


def test_says_what_is_missing(model: SegmentationModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else object())
    with pytest.raises(DalibError, match=r"missing: onnxruntime\. Install .* 'dalib-seg\[onnx\]'"):
        export(model, tmp_path / "net.onnx", (64, 96))


def test_the_suffix_says_the_format(model: SegmentationModel, tmp_path: Path) -> None:
    with pytest.raises(DalibError, match=r"net\.tflite.*expected \.onnx .* or \.pt2"):
        export(model, tmp_path / "net.tflite", (64, 96))
