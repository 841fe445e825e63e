"""The benchmark: what it says of a network, in which forms, and its refusals."""

import importlib.util
import io
import json
import os
import shlex
import shutil
from dataclasses import replace

import pytest
import torch
from rich.console import Console
from torch import nn

from dalib import DalibError, create_model
from dalib.deploy.bench import RUNTIMES, Row, bench, check_variant, compiled, cpu_threads, in_form, measure
from dalib.deploy.bench_table import bench_table
from dalib.models import SegmentationModel, wrap_model

SIZE = (32, 64)


def test_every_row_says_what_was_measured_on_what() -> None:
    rows = [*bench(["bisenet"], SIZE, ["eager", "fused+bf16+channels-last"], device="cpu", threads=1, seconds=0.0)]
    eager, fused = rows
    assert (eager.variant, fused.variant) == ("eager", "fused+bf16+channels-last")
    assert (eager.parameters, eager.inference_parameters) == (12_068_672, 12_054_042)
    assert fused.macs < eager.macs
    assert fused.peak_memory is not None and eager.peak_memory is not None and fused.peak_memory < eager.peak_memory
    for row in rows:
        assert (row.model, row.size, row.threads, row.torch) == ("bisenet", SIZE, 1, torch.__version__)
        assert row.runs >= 5
        assert 0 < row.median_ms <= row.p95_ms
        assert row.images_per_second > 0
        assert row.hardware
        assert row.processor_ms > 0
    assert json.loads(json.dumps(rows[0].to_dict()))["variant"] == "eager"


def test_the_table_is_whole_at_80_columns() -> None:
    row = Row(
        model="deeplabv2",
        variant="fused+bf16+channels-last+compiled",
        size=(512, 1024),
        parameters=43_901_068,
        inference_parameters=43_901_068,
        macs=374_660_000_000,
        median_ms=12345.6,
        p95_ms=23456.7,
        processor_ms=11111.1,
        images_per_second=123.4,
        peak_memory=5678 * 2**20,
        runs=5,
        hardware="a processor with a rather long name of 40 letters",
        threads=16,
        torch="2.14.1",
    )
    console = Console(width=80, file=io.StringIO(), record=True)
    console.print(bench_table([row]))
    text = console.export_text()
    assert "512x1024 (HxW), one image, random weights if not said" in text.splitlines()[0]
    assert text.splitlines()[1].strip() == f"{row.hardware}, 16 CPU threads, torch 2.14.1"
    shown = ("deeplabv2", "compiled", "43.9, 43.9", "374.66", "12345.6", "23456.7", "11111.1", "123.4", "5678")
    assert [part for part in shown if part not in text] == []
    console.print(bench_table([replace(row, model="deeplabv2 dilations=[wide] aspp=with-a-long-name-of-an-option")]))
    text = "".join(line[:22].strip() for line in console.export_text().splitlines())
    assert "dilations=[wide]" in text and "aspp=with-a-long-name-of-an-option" in text


def test_forms_compute_the_same_classes_and_leave_the_model() -> None:
    torch.manual_seed(0)
    model = create_model("bisenet").eval()
    assert isinstance(model, SegmentationModel)
    image = torch.rand(1, 3, *SIZE)
    with torch.inference_mode():
        expected = model(image)
        close = in_form(model, check_variant("channels-last+fused"))(image)
        rounded = in_form(model, check_variant("fused+bf16"))(image)
        torch.testing.assert_close(model(image), expected, rtol=0, atol=0)
    torch.testing.assert_close(close, expected, rtol=0, atol=1e-4 * float(expected.std()))
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, expected, rtol=0, atol=0.2 * float(expected.std()))


def test_an_unknown_variant_is_refused_before_any_work() -> None:
    with pytest.raises(DalibError, match=r"'fused\+bfloat16'.*'bfloat16' is no form\..*fused\+bf16"):
        bench(["no such network"], SIZE, ["fused+bfloat16"])
    with pytest.raises(DalibError, match=r"'eager' is no form\. Known: .*; eager, onnxruntime, .* stand alone"):
        bench(["no such network"], SIZE, ["eager+fused"])


def test_an_unknown_model_or_device_is_refused_before_any_work() -> None:
    with pytest.raises(DalibError, match=r"there is no model 'bisenett'\. Did you mean 'bisenet'"):
        bench(["bisenet", "bisenett"], SIZE)
    with pytest.raises(DalibError, match="there is no device 'gpu'; say cpu or cuda"):
        bench(["bisenet"], SIZE, device="gpu")


def test_the_exported_file_is_measured_in_both_runtimes_in_float32_and_int8() -> None:
    for package in ("onnx", "onnxruntime", "openvino"):
        pytest.importorskip(package)
    rows = [*bench(["bisenet"], SIZE, RUNTIMES, device="cpu", threads=1, seconds=0.0)]
    assert [row.variant for row in rows] == [*RUNTIMES]
    assert all(row.peak_memory is None and row.median_ms > 0 and row.threads == 1 for row in rows)


def test_a_runtime_that_is_not_installed_is_named_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "openvino" else object())
    with pytest.raises(DalibError, match=r"'openvino-int8' needs .*missing: openvino\. .* 'dalib-seg\[openvino\]'"):
        bench(["no such network"], SIZE, ["openvino-int8"])


def test_a_runtime_is_for_the_cpu() -> None:
    pytest.importorskip("onnxruntime")
    with pytest.raises(DalibError, match="'onnxruntime' runs on a CPU, and the device is meta; say --device cpu"):
        measure(wrap_model(nn.Conv2d(3, 2, 3), 2), SIZE, "onnxruntime", name="tiny", device="meta")


def test_a_network_with_options_is_measured_under_its_whole_text() -> None:
    networks = ["timm backbone=mobilenetv3_small_050", "timm backbone=mobilenetv3_small_075"]
    rows = [*bench(networks, SIZE, ["eager"], device="cpu", threads=1, seconds=0.0)]
    assert [row.model for row in rows] == networks
    assert rows[0].parameters < rows[1].parameters


@pytest.mark.parametrize(
    ("network", "told"),
    [
        ("timm backbon=resnet18", r"^timm\.backbon: unknown option\. Did you mean 'backbone'\?"),
        ("timm backbone=resnet81", r"^timm has no backbone 'resnet81'\. Did you mean resnet18"),
        ("bisenet backbone", r"^'bisenet backbone': expected a name and options as key=value, got 'backbone'\."),
        ("bisenet weights=none.pt", r"^none\.pt is not a file"),
    ],
)
def test_a_network_that_cannot_be_made_is_refused_before_another_is_measured(network: str, told: str) -> None:
    with pytest.raises(DalibError, match=told):
        bench(["bisenet", network], SIZE)


def test_what_cannot_be_compiled_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("no compiler\nand more")

    monkeypatch.setattr(torch, "compile", lambda model, **_: model)
    with pytest.raises(DalibError, match=r"compiled form needs .* a C\+\+ compiler, and that failed: no compiler Inst"):
        compiled(Broken(), torch.rand(1, 3, 8, 8))


def test_threads_are_given_back() -> None:
    before = torch.get_num_threads()
    with cpu_threads(2):
        assert torch.get_num_threads() == 2
    assert torch.get_num_threads() == before


@pytest.mark.skipif(not shutil.which(shlex.split(os.environ.get("CXX", "c++"))[0]), reason="needs a C++ compiler")
def test_compiled_code_on_the_cpu_has_its_weights_frozen_in() -> None:
    """Which lets the compiler lay them out beforehand; so a weight that changes later changes nothing."""
    model = wrap_model(nn.Conv2d(3, 2, 3), 2).eval().requires_grad_(False)
    image = torch.rand(1, 3, 16, 16)
    with torch.inference_mode():
        ready = compiled(model, image)
        before = ready(image).clone()
        model.network.weight.zero_()
        assert torch.equal(ready(image), before)
        assert not torch.equal(model(image), before)
    assert not torch._inductor.config.freezing  # what others compile in this process keeps its weights live
