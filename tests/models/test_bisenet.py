"""BiSeNet: the reference numbers, any size, any batch, any backbone."""

import pytest
import torch

from dalib.models import BiSeNet, load_weights, wrap_model
from tests.golden import Golden


@pytest.fixture(scope="module")
def network() -> BiSeNet:
    torch.manual_seed(0)
    return BiSeNet(19)


def test_official_weights_give_the_official_logits(golden: Golden) -> None:
    network = BiSeNet(19).eval()
    report = load_weights(network, golden.state("bisenet_r18_mldl2024"))
    assert report.layout == "bisenet_r18_mldl2024"
    assert (report.missing, report.heads, report.unexpected) == ((), (), ())
    assert len(report.matched) == len(network.state_dict())
    with torch.inference_mode():
        logits = network(golden.image())["logits"]
    golden.check("bisenet_r18_mldl2024", {"out0": logits[:, :, ::4, ::4]})


def test_has_the_published_parameters_less_the_unused_classifier(network: BiSeNet) -> None:
    assert sum(p.numel() for p in network.parameters()) == 12_581_672 - 513_000


@pytest.mark.parametrize("size", [(64, 96), (63, 97), (65, 95), (33, 1), (1, 1)])
def test_logits_have_the_inputs_size(network: BiSeNet, size: tuple[int, int]) -> None:
    with torch.inference_mode():
        logits = wrap_model(network, 19).eval()(torch.rand(1, 3, *size))
    assert logits.shape == (1, 19, *size)
    assert logits.isfinite().all()


def test_training_adds_auxiliary_logits_at_their_own_size(network: BiSeNet) -> None:
    model = wrap_model(network, 19)
    outputs = model.train()(torch.rand(2, 3, 65, 96), outputs=True)
    sizes = {name: tuple(output.shape[1:]) for name, output in outputs.items()}
    eighth = (19, 9, 12)
    assert sizes == {
        "logits": (19, 65, 96),
        "features": eighth,
        "low_res": eighth,
        "aux.16": (19, 5, 6),
        "aux.32": (19, 3, 3),
    }
    assert set(model.eval()(torch.rand(1, 3, 32, 32), outputs=True)) == {"logits", "features", "low_res"}


def test_low_res_is_what_the_logits_interpolate(network: BiSeNet) -> None:
    with torch.inference_mode():
        outputs = network.eval()(torch.rand(1, 3, 64, 64))
    upsampled = torch.nn.functional.interpolate(outputs["low_res"], size=(64, 64), mode="bilinear")
    torch.testing.assert_close(upsampled, outputs["logits"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backbone", ["resnet18", "tf_efficientnet_lite0", "mobilenetv3_small_100"])
def test_a_batch_of_one_trains_every_parameter(backbone: str) -> None:
    model = wrap_model(BiSeNet(5, backbone=backbone), 5).train()
    outputs = model(torch.rand(1, 3, 47, 65), outputs=True)
    sum(outputs[name].square().mean() for name in ("logits", "aux.16", "aux.32")).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


def test_takes_mean_and_std_from_the_backbone() -> None:
    model = wrap_model(BiSeNet(5, backbone="tf_efficientnet_lite0"), 5)
    assert model.mean.tolist() == model.std.tolist() == [0.5, 0.5, 0.5]


def test_a_channels_last_network_interpolates_a_channels_last_backbone() -> None:
    network = BiSeNet(5, backbone="swin_tiny_patch4_window7_224").eval()  # its features come as (B, H, W, C)
    with torch.inference_mode():
        assert network(torch.rand(1, 3, 64, 96))["low_res"].shape == (1, 5, 8, 12)
