"""Any timm backbone under either head: it trains, and its output has the input's size."""

import pytest
import torch
from torch import Tensor, nn

from dalib import Engine, create_model
from dalib.models import TimmNetwork
from tests.tiny import Supervised, tiny_batch

BACKBONES = {  # -> stride of the finest level
    "resnet18": 4,
    "convnext_atto": 4,
    "mobilenetv3_small_050": 4,
    "tf_efficientnet_lite0": 4,
    "pvt_v2_b0": 4,
    "swin_tiny_patch4_window7_224": 4,
    "vit_tiny_patch16_224": 16,
    "vit_small_patch14_dinov2": 14,
    "levit_128s": 16,  # images of 224x224 only
}


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_step_at_an_odd_size_and_batch_one_trains_every_parameter(backbone: str) -> None:
    torch.manual_seed(0)
    head = "daformer" if backbone in ("pvt_v2_b0", "vit_tiny_patch16_224") else "light"
    model = create_model("timm", 5, backbone=backbone, head=head)
    before = model.network.classifier.weight.detach().clone()
    terms = Engine(model, [Supervised()], device="cpu").step(tiny_batch(size=(47, 65), batch=1))
    assert terms["supervised/loss"].isfinite()
    assert not torch.equal(model.network.classifier.weight, before)
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert without == []

    outputs: dict[str, Tensor] = model.eval()(torch.rand(1, 3, 47, 65), outputs=True)
    stride = BACKBONES[backbone]
    assert outputs["logits"].shape == (1, 5, 47, 65)
    assert outputs["low_res"].shape == (1, 5, -(-47 // stride), -(-65 // stride))
    assert outputs["features"].shape[-2:] == outputs["low_res"].shape[-2:]


@pytest.mark.parametrize("head", ["light", "daformer"])
def test_an_extended_image_gives_the_logits_of_its_own_part(head: str) -> None:
    torch.manual_seed(0)
    network = TimmNetwork(5, head=head).eval()  # type: ignore[arg-type]
    x = torch.randn(1, 3, 40, 50)
    extended = nn.functional.pad(x, (0, 14, 0, 24))
    with torch.inference_mode():
        torch.testing.assert_close(network(x)["logits"], network(extended)["logits"][..., :40, :50])


def test_the_daformer_head_sees_far_and_has_no_global_pooling() -> None:
    head = TimmNetwork(5, backbone="convnext_atto", head="daformer").head.eval()
    levels = [torch.randn(1, c, 64 >> i, 64 >> i) for i, c in enumerate((40, 80, 160, 320))]
    changed = [levels[0].clone(), *levels[1:]]
    changed[0][..., 32, 32] += 1
    with torch.inference_mode():
        moved = (head(levels) - head(changed)).abs().amax(1)[0] > 0
    reach = {abs(offset - 32) for offset in moved.nonzero()[:, 0].tolist()}
    assert reach == {0, 1, 6, 12, 18}


def test_mean_and_std_are_the_backbones() -> None:
    assert create_model("timm", 5, backbone="tf_efficientnet_lite0").mean.tolist() == [0.5, 0.5, 0.5]
