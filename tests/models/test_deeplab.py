"""DeepLabV2: the reference numbers, its forms, and its two learning rates."""

from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from dalib.errors import RecipeError
from dalib.models import DeepLabV2, load_weights, wrap_model
from dalib.models.backbones import create_backbone
from tests.golden import Golden


@pytest.fixture(scope="module")
def network() -> DeepLabV2:
    return DeepLabV2(19)


def small(**options: object) -> DeepLabV2:
    torch.manual_seed(0)
    return DeepLabV2(5, backbone="resnet26", **options)  # type: ignore[arg-type]


def count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def test_official_weights_give_the_official_logits(network: DeepLabV2, golden: Golden) -> None:
    report = load_weights(network, golden.state("deeplabv2_r101"))
    assert (report.layout, report.missing, report.heads, report.unexpected) == ("deeplabv2", (), (), ())
    with torch.inference_mode():
        logits = wrap_model(network, 19, mean=(0, 0, 0), std=(1, 1, 1)).eval()(golden.image())
    golden.check("deeplabv2_r101", {"out0": logits[:, :, ::4, ::4]})


def test_has_the_published_parameters(network: DeepLabV2) -> None:
    assert count(network) == 43_901_068


def test_the_pool_rounds_sizes_up() -> None:
    with torch.inference_mode():
        assert small().eval()(torch.rand(1, 3, 64, 96))["low_res"].shape == (1, 5, 9, 13)


def test_the_two_branch_form_sums_the_first_two_of_four() -> None:
    four, two = small(), small(aspp="two-branch")
    report = load_weights(two, four.state_dict())
    assert report.unexpected == tuple(f"head.branches.{i}.{kind}" for i in (2, 3) for kind in ("weight", "bias"))
    for parameter in four.head.branches[2:].parameters():
        nn.init.zeros_(parameter)
    x = torch.rand(1, 3, 136, 120)  # so that every dilation reaches other cells
    with torch.inference_mode():
        torch.testing.assert_close(two.eval()(x)["logits"], four.eval()(x)["logits"])


def test_multi_level_adds_a_training_head_on_the_last_stage_but_one() -> None:
    network = small(multi_level=True)
    assert network.train()(torch.rand(2, 3, 32, 32))["aux.middle"].shape == (2, 5, 5, 5)
    assert "aux.middle" not in network.eval()(torch.rand(1, 3, 32, 32))
    official = {key: value for key, value in network.state_dict().items() if not key.startswith("auxiliary.")}
    report = load_weights(network, official)
    assert len(report.heads) == 8
    assert count(network) - count(small()) == 4 * (1024 * 5 * 9 + 5)


def test_a_multi_level_checkpoint_loads_from_the_official_layout() -> None:
    network = small(multi_level=True)
    renamed = {"backbone.body.": "", "auxiliary.branches": "layer5.conv2d_list", "head.branches": "layer6.conv2d_list"}

    def official(key: str) -> str:
        for own, theirs in renamed.items():
            key = key.replace(own, theirs)
        return key

    report = load_weights(small(multi_level=True), {official(k): v for k, v in network.state_dict().items()})
    assert (report.layout, len(report.matched)) == ("deeplabv2", len(network.state_dict()))


def test_the_stride_stands_where_asked() -> None:
    def strides(network: DeepLabV2) -> tuple[object, object]:
        block = network.backbone.body.layer2[0]
        return block.conv1.stride, block.conv2.stride

    assert strides(small()) == ((2, 2), (1, 1))
    assert strides(small(stride_on="3x3")) == ((1, 1), (2, 2))


@pytest.mark.parametrize(("stride_on", "warned"), [("1x1", True), ("3x3", False)])
def test_imagenet_weights_on_the_official_stride_are_warned_of(
    stride_on: Literal["1x1", "3x3"], warned: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.save(create_backbone("resnet26").body.state_dict(), tmp_path / "imagenet.pth")
    DeepLabV2(5, backbone="resnet26", backbone_weights=tmp_path / "imagenet.pth", stride_on=stride_on)
    assert ("say stride_on: 3x3" in caplog.text) == warned
    caplog.clear()
    load_weights(DeepLabV2(5, backbone="resnet26", stride_on=stride_on), tmp_path / "imagenet.pth")
    assert ("say stride_on: 3x3" in caplog.text) == warned


@pytest.mark.parametrize(
    ("backbone", "options"),
    [
        ("convnext_atto", {"stride_on": "3x3"}),
        ("resnet18", {"stride_on": "3x3"}),
        ("resnetaa50", {"stride_on": "3x3"}),
        ("convnext_atto", {"frozen_affine": True}),
    ],
)
def test_an_option_that_a_backbone_gives_no_effect_is_refused(backbone: str, options: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match=rf"backbone '{backbone}' has no .*; leave the option out"):
        DeepLabV2(5, backbone=backbone, **options)


def test_frozen_affine_trains_everything_but_the_backbones_scales_and_shifts() -> None:
    network = small(frozen_affine=True)
    frozen = {name for name, p in network.named_parameters() if not p.requires_grad}
    norms = {name for name, m in network.backbone.named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert frozen == {f"backbone.{norm}.{kind}" for norm in norms for kind in ("weight", "bias")}


def test_frozen_affine_leaves_the_published_count(network: DeepLabV2) -> None:
    norms = sum(m.num_features * 2 for m in network.modules() if isinstance(m, nn.BatchNorm2d))
    assert count(network) - norms == 43_795_724


def test_every_parameter_is_in_one_group_and_the_heads_learn_ten_times_as_fast() -> None:
    network = small(multi_level=True)
    groups = network.parameter_groups()
    names = {id(p): name for name, p in network.named_parameters()}
    grouped = [(names[id(p)], group["lr_scale"]) for group in groups for p in group["params"]]
    assert len(grouped) == len(names) == len(dict(grouped))
    assert {name.split(".")[0]: scale for name, scale in grouped} == {"backbone": 1, "head": 10, "auxiliary": 10}


def test_a_resnet_with_a_learned_stem_keeps_it() -> None:
    body = create_backbone("resnetrs50", output_stride=8).body
    kept = DeepLabV2(5, backbone="resnetrs50").backbone.body
    assert kept.state_dict().keys() == body.state_dict().keys()
    assert kept.layer2[0].conv1.stride == (1, 1)


@pytest.mark.parametrize("backbone", ["resnet26", "resnet14t", "mobilenetv3_small_050", "convnext_atto"])
def test_a_batch_of_one_of_an_odd_size_trains_every_parameter(backbone: str) -> None:
    model = wrap_model(DeepLabV2(5, backbone=backbone, multi_level=True), 5).train()
    outputs: dict[str, Tensor] = model(torch.rand(1, 3, 47, 65), outputs=True)
    assert outputs["logits"].shape == (1, 5, 47, 65)
    assert outputs["low_res"].shape == (1, 5, 6 + ("resnet" in backbone), 9)  # the official pool gives a row more
    (outputs["logits"].square().mean() + outputs["aux.middle"].square().mean()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


def test_a_backbone_that_cannot_dilate_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"'pvt_v2_b0' cannot have output stride 8; .* e\.g\. resnet101"):
        DeepLabV2(5, backbone="pvt_v2_b0")
