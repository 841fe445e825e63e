"""Exported files as models: the images that they take, what they say of themselves, and the runtimes."""

import importlib.util
from pathlib import Path

import pytest
import torch
from torch import nn

from dalib import DalibError, wrap_model
from dalib.deploy.export import export
from dalib.deploy.runtimes import ExportedFile, Sizes, open_onnx, write_metadata


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for package in ("onnx", "onnxruntime"):
        pytest.importorskip(package)
    torch.manual_seed(0)
    model = wrap_model(nn.Conv2d(3, 5, 3, padding=1), 5)
    return export(model, tmp_path_factory.mktemp("file") / "net.onnx", (32, 48), classes=list("abcde")).path


@pytest.mark.parametrize(
    ("sizes", "takes", "refuses", "said"),
    [
        (Sizes(size=(32, 48), multiple=1), (1, 7), (0, 7), "any H and W"),
        (Sizes(size=(32, 48), multiple=1, least=33), (33, 40), (33, 32), "any H and W of at least 33"),
        (Sizes(size=(32, 64), multiple=32), (64, 32), (64, 48), "H and W that are multiples of 32"),
        (Sizes(size=(32, 48), multiple=None), (32, 48), (48, 32), "32x48 (HxW) alone"),
        (Sizes(size=(32, 48), multiple=1, batch=1), (1, 7), (0, 7), "any H and W, one image at a time"),
    ],
)
def test_sizes_know_what_they_take(sizes: Sizes, takes: tuple[int, int], refuses: tuple[int, int], said: str) -> None:
    assert takes in sizes and refuses not in sizes and str(sizes) == said


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_runtimes_give_the_same_logits_in_as_many_threads_as_pytorch(runtime: str, file: Path) -> None:
    pytest.importorskip(runtime)
    images = torch.rand(2, 3, 20, 30)
    with torch.inference_mode():
        torch.testing.assert_close(ExportedFile(file, runtime)(images), open_onnx(file)(images), rtol=1e-4, atol=1e-5)


def test_threads_of_pytorch_are_those_of_the_runtimes(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onnxruntime, openvino = pytest.importorskip("onnxruntime"), pytest.importorskip("openvino")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    asked = []

    def session(path: str, options: object, **_: object) -> object:
        asked.append(options.intra_op_num_threads)  # type: ignore[attr-defined]
        return object()

    def compile_model(core: object, path: str, device: str, settings: dict[str, object]) -> object:
        asked.append(settings["INFERENCE_NUM_THREADS"])
        return object()

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    monkeypatch.setattr(openvino.Core, "compile_model", compile_model)
    open_onnx(file, "onnxruntime")
    open_onnx(file, "openvino")
    assert asked == [2, 2]


def test_images_of_another_size_are_refused_in_one_message(file: Path) -> None:
    exported = ExportedFile(file)
    exported.sizes = Sizes(size=(32, 48), multiple=None)
    with pytest.raises(DalibError, match=r"net\.onnx is for 32x48 \(HxW\) alone; these images are 32x32 \(HxW\)"):
        exported(torch.rand(1, 3, 32, 32))


def test_a_file_for_one_image_at_a_time_gets_them_so(file: Path) -> None:
    exported, images = ExportedFile(file), torch.rand(3, 3, 20, 30)
    expected, run, seen = exported(images), exported._run, []
    exported.sizes = Sizes(size=(32, 48), multiple=1, batch=1)
    exported._run = lambda batch: seen.append(len(batch)) or run(batch)
    torch.testing.assert_close(exported(images), expected, rtol=1e-4, atol=1e-5)
    assert seen == [1, 1, 1]


def test_a_file_that_says_nothing_of_itself_and_one_that_is_none_are_refused(file: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare.onnx"
    bare.write_bytes(file.read_bytes())
    write_metadata(bare, {"author": "somebody"})
    with pytest.raises(DalibError, match=r"bare\.onnx says nothing of its multiple; expected a file that `dalib"):
        ExportedFile(bare)
    bare.write_bytes(b"no graph")
    with pytest.raises(DalibError, match=r"bare\.onnx is no ONNX file that can be read"):
        ExportedFile(bare)
    with pytest.raises(DalibError, match=r"bare\.onnx cannot be run in onnxruntime"):
        open_onnx(bare)
    with pytest.raises(DalibError, match=r"none\.onnx does not exist; expected an ONNX file"):
        ExportedFile(tmp_path / "none.onnx")


def test_an_absent_runtime_is_named_with_its_extra(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DalibError, match=r"openvino needs .*missing: openvino\..*pip install 'dalib-seg\[openvino\]'"):
        open_onnx(file, "openvino")


def test_a_run_that_fails_in_onnx_runtime_prints_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """As when an export tries the least sides of a file, before it reports success."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    images, logits = (
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 3, *size])
        for name, size in (("images", ("height", "width")), ("logits", (2, 2)))
    )
    shape = onnx.helper.make_tensor("shape", onnx.TensorProto.INT64, [4], [1, 3, 2, 2])
    nodes = [onnx.helper.make_node("Reshape", ["images", "shape"], ["logits"])]
    graph = onnx.helper.make_graph(nodes, "fixed", [images], [logits], [shape])
    opset = [onnx.helper.make_opsetid("", 18)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=9), tmp_path / "fixed.onnx")
    run = open_onnx(tmp_path / "fixed.onnx")
    assert run(torch.zeros(1, 3, 2, 2)).shape == (1, 3, 2, 2)
    with pytest.raises(Exception, match="Reshape"):
        run(torch.zeros(1, 3, 4, 4))
    assert capfd.readouterr() == ("", "")
