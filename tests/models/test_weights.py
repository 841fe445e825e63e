"""Loading weights: every container, all or nothing, and messages for people."""

import logging
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from dalib import create_model
from dalib.core.checkpoint import write as write_checkpoint
from dalib.deploy.fuse import fuse
from dalib.errors import WeightsError
from dalib.models import load_weights, wrap_model


class Net(nn.Module):
    training_heads = ("head",)

    def __init__(self, num_classes: int = 4) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.backbone = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1))
        self.classifier = nn.Conv2d(8, num_classes, 1)
        self.head = nn.Conv2d(8, num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.backbone(x))  # type: ignore[no-any-return]


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


CONTAINERS: dict[str, Callable[[Net], Any]] = {
    "network": lambda net: net.state_dict(),
    "wrapped model": lambda net: wrap_model(net, 4).state_dict(),
    "checkpoint": lambda net: {"model": net.state_dict(), "step": 3, "optimizers": {"model": {"state": {}}}},
    "data parallel": lambda net: {f"module.{k}": v for k, v in wrap_model(net, 4).state_dict().items()},
    "with its loss": lambda net: {
        **{f"model.{k}": v for k, v in net.state_dict().items()},
        "sem_loss.criterion.weight": torch.ones(4),
    },
    "lightning": lambda net: {"state_dict": {f"model.{k}": v for k, v in net.state_dict().items()}},
}


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_file_loads_whatever_holds_the_weights(container: str, wrapped: bool, tmp_path: Path) -> None:
    donor, net = Net(), Net()
    torch.save(CONTAINERS[container](donor), tmp_path / "w.pt")
    report = load_weights(wrap_model(net, 4) if wrapped else net, tmp_path / "w.pt")
    assert same(net, donor)
    of_the_loss = ("sem_loss.criterion.weight",) if container == "with its loss" else ()
    assert (report.missing, report.unexpected, report.heads) == ((), of_the_loss, ())


def test_safetensors_load(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    donor, net = Net(), Net()
    safetensors.save_file(donor.state_dict(), tmp_path / "w.safetensors")
    load_weights(net, tmp_path / "w.safetensors")
    assert same(net, donor)


def test_the_report_counts_what_is_absent_and_what_is_too_much() -> None:
    state = Net().state_dict()
    for key in ("head.bias", "classifier.bias", "backbone.1.num_batches_tracked"):
        del state[key]
    state["extra.weight"] = torch.zeros(1)
    report = load_weights(Net(), state)
    assert (report.heads, report.missing, report.unexpected) == (
        ("head.bias",),
        ("classifier.bias",),
        ("extra.weight",),
    )
    assert str(report) == (
        "10 of 12 tensors loaded from state dict (layout: dalib), 1 missing, 1 of training heads absent, 1 unexpected"
    )


def test_how_much_was_loaded_is_printed_where_logging_was_not_configured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(logging.getLogger("dalib"), "propagate", False)  # away from the handlers of pytest
    torch.save(Net().state_dict(), tmp_path / "w.pt")
    load_weights(Net(), tmp_path / "w.pt")
    assert capsys.readouterr().err == f"13 of 13 tensors loaded from {tmp_path / 'w.pt'} (layout: dalib)\n"
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "resnet18.pth")
    create_model("bisenet", 4, backbone_weights=str(tmp_path / "resnet18.pth"))
    assert capsys.readouterr().err.startswith("backbone resnet18: 120 of 120 tensors loaded from ")


def test_an_incomplete_load_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    load_weights(Net(), {key: tensor for key, tensor in Net().state_dict().items() if key != "classifier.bias"})
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "1 missing" in caplog.text


def test_an_incomplete_backbone_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.save(timm.create_model("resnet18").state_dict(), tmp_path / "resnet18.pth")
    create_model("bisenet", num_classes=4, backbone="resnet34", backbone_weights=str(tmp_path / "resnet18.pth"))
    (record,) = (r for r in caplog.records if r.levelname == "WARNING")
    assert record.getMessage().startswith("backbone resnet34: 120 of 200 tensors loaded")


def test_a_file_that_matches_under_half_of_the_backbone_is_refused() -> None:
    net = Net()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    few = {k: v + 1 for k, v in net.state_dict().items() if not k.startswith("backbone.") or k == "backbone.0.weight"}
    with pytest.raises(WeightsError, match=r"state dict matches 1 of the backbone's 9 tensors.*backbone\.0\.weight"):
        load_weights(net, few)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_weights_with_batch_norm_are_refused_by_a_fused_network() -> None:
    """Its convolutions alone would be half of the backbone, and then lack what the BatchNorms do."""
    model = create_model("pidnet_s", num_classes=5)
    fused = fuse(model)
    with pytest.raises(WeightsError, match="load the weights first, then fuse"):
        load_weights(fused, model.state_dict())
    load_weights(fused, fuse(model).state_dict())


@pytest.mark.parametrize("name", ["pidnet_s", "timm"])
def test_weights_of_a_fused_network_are_refused_as_such_by_one_with_batch_norm(name: str) -> None:
    options = {"backbone": "convnext_atto"} if name == "timm" else {}  # where all that is fused is in the head
    model = create_model(name, num_classes=5, **options)
    with pytest.raises(WeightsError, match=r"state dict is of a fused model, .*bias; load it into `fuse\(model\)`"):
        load_weights(model, fuse(model).state_dict())


def test_weights_go_through_what_wraps_the_model() -> None:
    donor, net = Net(), Net()
    load_weights(nn.DataParallel(wrap_model(net, 4)), donor.state_dict())
    assert same(net, donor)


def test_a_damaged_checkpoint_of_dalib_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    state = Net().state_dict()
    write_checkpoint({"model": state, "step": 1}, path)
    load_weights(Net(), path)
    data = bytearray(path.read_bytes())
    data[data.index(next(iter(state.values())).numpy().tobytes())] ^= 1
    path.write_bytes(data)
    with pytest.raises(WeightsError, match="is damaged"):
        load_weights(Net(), path)


def test_another_class_count_is_said_as_such() -> None:
    with pytest.raises(WeightsError, match=r"trained for 11 classes and this model has 4; .* num_classes=11"):
        load_weights(Net(4), Net(11).state_dict())


def test_another_shape_names_the_tensor_and_copies_nothing() -> None:
    net, state = Net(), {k: v + 1 for k, v in Net().state_dict().items()}
    before = {k: v.clone() for k, v in net.state_dict().items()}
    state["classifier.weight"] = torch.zeros(4, 9, 1, 1)
    expected = r"1 in all; the first is classifier\.weight: expected \(4, 8, 1, 1\), found \(4, 9, 1, 1\)\. Nothing was"
    with pytest.raises(WeightsError, match=expected):
        load_weights(net, state)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_named_and_nothing_is_copied(number: float) -> None:
    donor, net = Net(), Net()
    donor.backbone[1].running_var[3] = number  # type: ignore[index]
    before = net.backbone[0].weight.clone()
    with pytest.raises(WeightsError, match=r"not finite in 1 of 13 tensors, the first in backbone\.1\.running_var"):
        load_weights(net, donor.state_dict())
    assert torch.equal(net.backbone[0].weight, before)


def test_an_unknown_layout_is_named_with_the_nearest() -> None:
    with pytest.raises(WeightsError, match=r"unknown layout 'dalb'\. Did you mean 'dalib'\?"):
        load_weights(Net(), Net().state_dict(), layout="dalb")


def test_a_run_without_its_last_checkpoint_gives_the_one_before(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"has no checkpoint; expected .*last\.pt"):
        load_weights(Net(), tmp_path)
    (tmp_path / "checkpoints").mkdir()
    torch.save({"model": Net().state_dict()}, tmp_path / "checkpoints" / "previous.pt")
    assert not load_weights(Net(), tmp_path).missing


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"nothing\.pt is not a file"):
        load_weights(Net(), tmp_path / "nothing.pt")


@pytest.mark.parametrize(("source", "kind"), [(None, "NoneType"), (["w.pt"], "list"), (Net(), "Net")])
def test_what_is_neither_a_path_nor_a_state_dict_is_said(source: Any, kind: str) -> None:
    with pytest.raises(
        WeightsError, match=rf"expected a file, a run folder or a state dict, found {kind}; of a module"
    ):
        load_weights(Net(), source)


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", b"PK\x03\x04 torn"])
@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_a_file_that_is_not_weights_is_said(content: bytes, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"w.{suffix}"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"is not a file of weights, or is damaged \("):
        load_weights(Net(), path)


@pytest.mark.parametrize("content", [[1, 2], {"model": {"a": 1}}, {}])
def test_a_file_without_tensors_is_said(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match=r"w\.pt holds no weights: expected a dict of tensors"):
        load_weights(Net(), tmp_path / "w.pt")


def test_a_file_that_would_run_code_is_refused_without_running_it(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save({"model": Net().state_dict(), "payload": Payload()}, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match=r"could run code\. If you trust it, keep its tensors alone"):
        load_weights(Net(), tmp_path / "w.pt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("donor", "options", "rest"),
    [
        (partial(torchvision.models.resnet18), {"name": "bisenet"}, ("fc.weight", "fc.bias")),
        (partial(timm.create_model, "resnet18"), {"name": "timm"}, ("fc.weight", "fc.bias")),
        (
            partial(timm.create_model, "convnext_atto"),
            {"name": "timm", "backbone": "convnext_atto"},
            ("head.norm.weight", "head.norm.bias", "head.fc.weight", "head.fc.bias"),
        ),
        (
            partial(timm.create_model, "vit_tiny_patch16_224"),
            {"name": "timm", "backbone": "vit_tiny_patch16_224"},
            ("norm.weight", "norm.bias", "head.weight", "head.bias"),
        ),
    ],
)
def test_a_checkpoint_of_the_backbone_alone_loads_into_the_backbone(
    donor: Callable[[], nn.Module], options: dict[str, Any], rest: tuple[str, ...]
) -> None:
    model = create_model(num_classes=4, **options)
    report = load_weights(model, dict(reversed(donor().state_dict().items())))  # so that order does not help
    body = sum(key.startswith("backbone.") for key in model.network.state_dict())
    assert (report.layout, len(report.matched), report.unexpected) == ("timm", body, rest[::-1])
    assert report.missing
    assert not [key for key in report.missing if key.startswith("backbone.")]


def test_a_coco_trained_start_of_deeplab_loads_into_the_backbone_without_its_old_head() -> None:
    model = create_model("deeplabv2", num_classes=4, backbone="resnet50")
    body = {k: v for k, v in model.network.state_dict().items() if k.startswith("backbone.body.")}
    state = {f"Scale.{key.removeprefix('backbone.body.')}": torch.zeros_like(tensor) for key, tensor in body.items()}
    state["Scale.layer5.conv2d_list.0.weight"] = torch.zeros(21, 2048, 3, 3)
    report = load_weights(model, state)
    assert (report.layout, len(report.matched), report.unexpected) == ("deeplab_coco", len(body), ())
    assert [key for key in report.missing if not key.startswith("head.")] == []
    assert not any(model.network.state_dict()[key].any() for key in body)


@pytest.mark.parametrize("multi_level", [False, True])
def test_a_deeplab_whose_only_classifier_is_layer5_loads_whole(multi_level: bool) -> None:
    donor = create_model("deeplabv2", num_classes=4, backbone="resnet50").network.state_dict()
    names = {"backbone.body.": "", "head.branches.": "layer5.conv2d_list."}
    state = {
        new + key.removeprefix(old): tensor
        for key, tensor in donor.items()
        for old, new in names.items()
        if key.startswith(old)
    }
    model = create_model("deeplabv2", num_classes=4, backbone="resnet50", multi_level=multi_level)
    report = load_weights(model, {"model": state, "iteration": 250_000})
    assert (report.layout, report.missing, report.unexpected) == ("deeplabv2_single", (), ())
    assert all(torch.equal(model.network.state_dict()[key], tensor) for key, tensor in donor.items())
    assert {key.split(".")[0] for key in report.heads} == ({"auxiliary"} if multi_level else set())


def test_a_deeplab_of_two_levels_loads_its_last_classifier_into_one_of_one() -> None:
    two = create_model("deeplabv2", num_classes=4, backbone="resnet50", multi_level=True).network.state_dict()
    names = {"auxiliary.branches.": "layer5.conv2d_list.", "head.branches.": "layer6.conv2d_list."}
    state = {}
    for key, tensor in two.items():
        old = next((old for old in names if key.startswith(old)), "backbone.body.")
        state[names.get(old, "") + key.removeprefix(old)] = tensor
    model = create_model("deeplabv2", num_classes=4, backbone="resnet50")
    report = load_weights(model, state)
    assert (report.layout, report.missing) == ("deeplabv2", ())
    assert torch.equal(model.network.state_dict()["head.branches.0.weight"], two["head.branches.0.weight"])


def test_batch_norms_where_the_network_has_convolutions_are_not_taken_for_a_fused_model() -> None:
    state = timm.create_model("resnet50").state_dict()
    model = create_model("deeplabv2", num_classes=4, backbone="resnet50d")
    with pytest.raises(WeightsError) as raised:
        load_weights(model, state)
    assert "fused" not in str(raised.value)
