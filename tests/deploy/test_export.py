"""Exported files run without dalib and give the model's classes at any size."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dalib import DalibError, __version__, create_model, wrap_model
from dalib.data.decode import read_image
from dalib.deploy.export import Export, _checked, _least, _refuse_disagreement, export, size_multiple
from dalib.deploy.fuse import fuse
from dalib.deploy.runtimes import ExportedFile, Sizes, read_metadata
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


def onnxruntime_session(path: Path) -> Any:
    onnxruntime = pytest.importorskip("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def photograph(shared: Path) -> torch.Tensor:
    return read_image(sorted((shared / CAMVID).rglob("*.png"))[0]).float() / 255


def test_onnx_runtime_gives_the_models_classes_at_two_sizes(
    model: SegmentationModel, photograph: torch.Tensor, tmp_path: Path
) -> None:
    onnx = pytest.importorskip("onnx")
    written = export(model, tmp_path / "net.onnx", (96, 128), image=photograph)
    assert set(written.agreement) == {(96, 128), (72, 160), (120, 96)}
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
    assert written.sizes.multiple == 1 and min(written.agreement.values()) >= 0.999
    run = torch.export.load(written.path).module()
    image = torch.rand(1, 3, 45, 77)
    with torch.inference_mode():
        torch.testing.assert_close(run(image), model.eval()(image), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("suffix", ["onnx", "pt2"])
def test_a_file_says_what_it_is_and_takes_batches(suffix: str, model: SegmentationModel, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    names, colours = ["a", "b", "c", "d", "e"], [(i, i, i) for i in range(5)]
    path = export(model, tmp_path / f"net.{suffix}", (64, 96), classes=names, palette=colours).path
    if suffix == "onnx":
        said, run = read_metadata(path), ExportedFile(path)
        axes = pytest.importorskip("onnx").load(path).graph.input[0].type.tensor_type.shape.dim
        assert [axis.dim_param for axis in axes] == ["batch", "", "height", "width"]
        assert run.classes == tuple(names)
    else:
        texts = dict.fromkeys(("dalib", "classes", "palette", "images", "mean", "size", "multiple", "precision"), "")
        run = torch.export.load(path, extra_files=texts).module()
        plain = ("dalib", "images", "precision")
        said = {name: text if name in plain else json.loads(text) for name, text in texts.items()}
    assert (said["dalib"], said["classes"], said["palette"]) == (__version__, names, [[i] * 3 for i in range(5)])
    assert (said["size"], said["multiple"], said["precision"]) == ([64, 96], 1, "float32")
    assert said["mean"] == pytest.approx([0.485, 0.456, 0.406]) and "subtracts mean" in said["images"]
    images = torch.rand(3, 3, 40, 56)
    with torch.inference_mode():
        torch.testing.assert_close(run(images), model.eval()(images), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("suffix", ["onnx", "pt2"])
def test_a_pyramid_whose_pools_are_one_pixel_where_it_is_traced_runs_at_any_size(suffix: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = create_model("pidnet_s", num_classes=5).eval().to(memory_format=torch.channels_last)  # as training has it
    path = export(model, tmp_path / f"net.{suffix}", (64, 96)).path
    if suffix == "onnx":
        session = onnxruntime_session(path)

    def run(image: torch.Tensor) -> torch.Tensor:
        if suffix == "pt2":
            return torch.export.load(path).module()(image)
        return torch.from_numpy(session.run(None, {"images": image.numpy()})[0])

    for size in ((160, 320), (31, 200), (600, 33), (1, 1)):
        image = torch.rand(1, 3, *size)
        with torch.inference_mode():
            same = run(image).argmax(1) == model(image).argmax(1)
        assert same.shape[1:] == size and same.float().mean() > 0.999


def test_a_refused_export_leaves_the_file_that_was_there(
    model: SegmentationModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "net.pt2"
    path.write_bytes(b"good")
    monkeypatch.setattr("dalib.deploy.export.REQUIRED_AGREEMENT", 1.1)
    with pytest.raises(DalibError, match="It was not kept"):
        export(model, path, (64, 96))
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("net.pt2", b"good")]


def test_a_place_that_cannot_be_written_is_said(model: SegmentationModel, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "net.pt2").mkdir()
    for path in (tmp_path / "file" / "net.pt2", tmp_path / "net.pt2"):
        with pytest.raises(DalibError, match=r"net\.pt2 cannot be written"):
            export(model, path, (64, 96))


def test_a_fused_model_is_exported(model: SegmentationModel, tmp_path: Path) -> None:
    assert min(export(fuse(model), tmp_path / "net.pt2", (64, 96)).agreement.values()) >= 0.999


@pytest.mark.parametrize("least", [1, 33])  # a ResNet's coarsest cells are of 32 pixels
def test_the_least_sides_of_a_file_are_found_and_said(least: int, model: SegmentationModel, tmp_path: Path) -> None:
    def run(image: torch.Tensor) -> torch.Tensor:
        if image.shape[-1] < least:
            raise AssertionError("Guard failed")
        return image

    assert _least(run, model) == least
    said = str(Sizes(size=(64, 96), multiple=1, least=least))
    assert said == f"any H and W{' of at least 33' if least > 1 else ''}"


def test_what_wraps_a_model_is_taken_off(tmp_path: Path) -> None:
    model = wrap_model(nn.Conv2d(3, 5, 3, padding=1), 5)
    for wrapped in (nn.DataParallel(model), torch.compile(model)):
        assert "for any H and W" in str(export(wrapped, tmp_path / "net.pt2", (64, 96)))


@pytest.mark.parametrize(
    ("own", "what"),
    [(nn.Conv2d(3, 5, 1), "Conv2d in float32"), (wrap_model(nn.Conv2d(3, 5, 1), 5).bfloat16(), "in bfloat16")],
)
def test_a_bare_network_and_one_of_another_type_are_refused(own: nn.Module, what: str, tmp_path: Path) -> None:
    with pytest.raises(DalibError, match=rf"which normalises its images, in float32; this one is .*{what}"):
        export(own, tmp_path / "net.pt2", (64, 96))


@pytest.mark.parametrize("suffix", ["onnx", pytest.param("pt2", marks=pytest.mark.slow)])
def test_a_network_with_tensorflows_padding_is_written_for_multiples_of_its_stride(suffix: str, tmp_path: Path) -> None:
    if suffix == "onnx":
        pytest.importorskip("onnx")
    torch.manual_seed(0)
    model = create_model("bisenet", num_classes=5, backbone="tf_efficientnet_lite0")
    written = export(model, tmp_path / f"net.{suffix}", (96, 128))
    assert "for H and W that are multiples of 32;" in str(written)
    assert list(written.agreement) == [(96, 128), (64, 160), (96, 96)]
    assert min(written.agreement.values()) >= 0.999
    if suffix == "pt2":
        with pytest.raises(AssertionError, match=r"Guard failed|multiples of 32"):
            torch.export.load(tmp_path / "net.pt2").module()(torch.rand(1, 3, 80, 96))
    else:
        with pytest.raises(DalibError, match=r"for H and W that are multiples of 32; these images are 120x160 \(HxW\)"):
            ExportedFile(written.path)(torch.rand(1, 3, 120, 160))
        session = onnxruntime_session(written.path)  # whoever runs it without dalib is refused as well
        with pytest.raises(Exception, match="Reshape"):
            session.run(None, {"images": torch.rand(1, 3, 120, 160).numpy()})


def test_a_network_with_tensorflows_padding_is_written_for_one_size_that_is_no_such_multiple() -> None:
    model = create_model("bisenet", num_classes=5, backbone="tf_efficientnet_lite0")
    assert (size_multiple(model, (64, 96)), size_multiple(model, (64, 90))) == (32, None)
    assert _checked(Sizes(size=(64, 90), multiple=None)) == [(64, 90)]


class Branching(nn.Module):
    """A network whose classes come otherwise from wide images or batches than from others, or that asks for a pixel."""

    mean = std = (0.5, 0.5, 0.5)

    def __init__(self, asks: str) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 1)
        self.asks = asks

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.asks == "pixel":
            asked = x[0, 0, 0, 0].item() > 0
        else:
            asked = x.shape[-1] > 100 if self.asks == "width" else x.shape[0] > 1
        logits: torch.Tensor = self.conv(-x if asked else x)
        return logits


def test_a_network_that_branches_on_the_size_is_written_for_one(tmp_path: Path) -> None:
    written = export(wrap_model(Branching("width"), 5), tmp_path / "net.pt2", (64, 96))
    assert "for 64x96 (HxW) alone;" in str(written) and list(written.agreement) == [(64, 96)]


def test_a_network_that_branches_on_the_batch_is_written_for_one_image_at_a_time(tmp_path: Path) -> None:
    written = export(wrap_model(Branching("batch"), 5), tmp_path / "net.pt2", (64, 96))
    assert "for any H and W, one image at a time;" in str(written) and len(written.agreement) == 3


def test_a_network_that_cannot_be_traced_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DalibError, match=r"the model cannot be exported: .*guard"):
        export(wrap_model(Branching("pixel"), 5), tmp_path / "net.pt2", (64, 96))
    assert [*tmp_path.iterdir()] == []


def test_a_file_that_disagrees_is_refused() -> None:
    exported = Export(
        path=Path("net.onnx"),
        format="ONNX",
        sizes=Sizes(size=(64, 96), multiple=1),
        agreement={(64, 96): 1, (48, 72): 0.99},
    )
    with pytest.raises(DalibError, match=r"net\.onnx .* 99\.00 % of the pixels at 48x72 .* expected 99\.9 %"):
        _refuse_disagreement(exported)


def test_says_what_is_missing(model: SegmentationModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else object())
    with pytest.raises(DalibError, match=r"missing: onnxruntime\. Install .* 'dalib-seg\[onnx\]'"):
        export(model, tmp_path / "net.onnx", (64, 96))


def test_the_suffix_says_the_format(model: SegmentationModel, tmp_path: Path) -> None:
    with pytest.raises(DalibError, match=r"net\.tflite.*expected \.onnx .* or \.pt2"):
        export(model, tmp_path / "net.tflite", (64, 96))
