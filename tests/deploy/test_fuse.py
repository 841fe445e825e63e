"""The inference form: the same logits from fewer operations, whatever the network is made of."""

import pytest
import torch
from torch import Tensor, nn

from dalib import Engine, create_dataset, create_model, create_strategy
from dalib.core.optim import adamw
from dalib.deploy.fuse import fuse
from dalib.models import BiSeNet, SegmentationModel, wrap_model


def with_random_statistics(model: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean.uniform_(-0.2, 0.2, generator=generator)
            norm.running_var.uniform_(0.5, 2, generator=generator)
            norm.weight.data.uniform_(0.5, 1.5, generator=generator)
            norm.bias.data.uniform_(-0.2, 0.2, generator=generator)
    return model.eval()


def logits(model: nn.Module, size: tuple[int, int]) -> Tensor:
    with torch.inference_mode():
        return model(torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(1)))


def norms(model: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


@pytest.mark.parametrize("backbone", ["resnet18", "tf_efficientnet_lite0", "mobilenetv3_small_100"])
def test_a_fused_network_gives_the_same_logits_without_any_batch_norm(backbone: str) -> None:
    torch.manual_seed(0)
    model = with_random_statistics(wrap_model(BiSeNet(7, backbone=backbone), 7))
    fused = fuse(model)
    assert isinstance(fused, SegmentationModel)
    assert (norms(model) > 20, norms(fused)) == (True, 0)
    expected = logits(model, (65, 96))
    torch.testing.assert_close(logits(fused, (65, 96)), expected, rtol=0, atol=1e-4 * float(expected.std()))


@pytest.mark.parametrize(("name", "left"), [("bisenet_v1", 0), ("deeplabv2", 0), ("pidnet_s", 9), ("timm", 1)])
def test_fusing_changes_no_network_but_by_rounding(name: str, left: int) -> None:
    """In float64, where rounding leaves room to see anything else; what is left follows a sum or a concatenation."""
    torch.manual_seed(0)
    model = with_random_statistics(create_model(name, num_classes=5)).double()
    fused = fuse(model)
    assert norms(fused) == left
    image = torch.rand(1, 3, 65, 96, dtype=torch.float64)
    with torch.inference_mode():
        expected = model(image)
        torch.testing.assert_close(fused(image), expected, rtol=0, atol=1e-9 * float(expected.std()))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bisenet", "bisenet_v1", "timm", "pidnet_s", "pidnet_m", "pidnet_l", "deeplabv2"])
def test_fusing_a_trained_network_is_within_the_tolerance_in_float32(name: str) -> None:
    """Random weights can magnify rounding beyond it, as those of PIDNet's reference numbers do on noise."""
    torch.manual_seed(0)
    model = create_model(name)
    engine = Engine(model, [create_strategy("supervised")], optimizer=adamw(lr=1e-3), device="cpu")
    engine.fit(create_dataset("diorama", domain="source", size=(96, 192)), steps=20, batch_size=4)
    picture, _ = create_dataset("diorama", domain="source", split="val", size=(512, 1024))[0]
    fused = fuse(model.eval())
    for image in (picture[None].float() / 255, torch.rand(1, 3, 256, 512)):
        with torch.inference_mode():
            expected = model(image)
            torch.testing.assert_close(fused(image), expected, rtol=0, atol=1e-4 * float(expected.std()))


@pytest.mark.parametrize("name", ["bisenet", "bisenet_v1", "pidnet_s"])
def test_fusing_twice_is_fusing_once(name: str) -> None:
    model = fuse(create_model(name, num_classes=5))
    assert torch.equal(logits(fuse(model), (65, 96)), logits(model, (65, 96)))


def test_fusing_draws_no_random_number() -> None:
    model = wrap_model(BiSeNet(5), 5)
    before = torch.get_rng_state()
    fuse(model)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_convolution_whose_output_is_an_output_of_the_network_stays() -> None:
    class Shown(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bn = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            features = self.conv(x)
            return {"features": features, "logits": self.bn(features)}

    network, image = with_random_statistics(Shown()), torch.rand(1, 3, 16, 16)
    with torch.inference_mode():
        torch.testing.assert_close(fuse(network)(image), network(image))


def test_the_original_is_left_as_it_was() -> None:
    model = wrap_model(BiSeNet(5), 5)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    fuse(model)
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    assert model.training
    assert model.network.head16 is not None


def test_training_heads_are_dropped() -> None:
    fused = fuse(wrap_model(BiSeNet(5), 5))
    assert not [key for key in fused.state_dict() if ".head" in key]


def test_a_data_parallel_model_is_fused_as_what_it_wraps() -> None:
    torch.manual_seed(0)
    model = with_random_statistics(create_model("bisenet", num_classes=5))
    fused, alone = fuse(nn.DataParallel(model)), fuse(model)
    assert [*fused.module.state_dict()] == [*alone.state_dict()]
    assert torch.equal(logits(fused, (65, 96)), logits(alone, (65, 96)))


def test_a_backbone_that_takes_no_tiny_images_is_fused() -> None:
    torch.manual_seed(0)
    model = with_random_statistics(create_model("timm", num_classes=5, backbone="inception_v3"))
    expected = logits(model, (97, 129))
    torch.testing.assert_close(logits(fuse(model), (97, 129)), expected, rtol=0, atol=1e-4 * float(expected.std()))


class Rectified(nn.BatchNorm2d):
    """A BatchNorm of somebody's own, which also activates."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).relu()


def test_a_batch_norm_of_somebodys_own_stays() -> None:
    torch.manual_seed(0)
    model = with_random_statistics(nn.Sequential(nn.Conv2d(3, 4, 3), Rectified(4)))
    image = torch.randn(1, 3, 20, 30)
    assert torch.equal(fuse(model)(image), model(image))


def test_a_network_without_parameters_is_fused_as_it_is() -> None:
    image = torch.rand(1, 3, 8, 8)
    assert torch.equal(fuse(nn.AvgPool2d(2))(image), nn.AvgPool2d(2)(image))


def test_a_bare_network_gives_logits_of_the_same_size() -> None:
    torch.manual_seed(0)
    network = with_random_statistics(BiSeNet(5))
    image = torch.rand(1, 3, 65, 96)
    torch.testing.assert_close(fuse(network)(image)["logits"], network(image)["logits"], rtol=1e-4, atol=1e-4)


class Irregular(nn.Module):
    """BatchNorms that follow a convolution and must not be folded into it, and two that follow none."""

    def __init__(self) -> None:
        super().__init__()
        self.read_twice, self.called_twice, self.standardised, self.activated = (
            nn.Conv2d(c, 4, 3, padding=1) for c in (3, 4, 4, 4)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(4) for _ in range(6))

    def forward(self, x: Tensor) -> Tensor:
        first = self.read_twice(x)
        y = self.norms[0](first) + first
        y = self.norms[2](self.called_twice(self.norms[1](self.called_twice(y))))
        weight = self.standardised.weight
        weight = (weight - weight.mean((1, 2, 3), keepdim=True)) / weight.std((1, 2, 3), keepdim=True)
        y = self.norms[3](nn.functional.conv2d(y, weight, self.standardised.bias, padding=1))
        return self.norms[5](self.norms[4](self.activated(y).relu()) * 2)


def test_what_a_convolution_does_not_alone_feed_stays() -> None:
    torch.manual_seed(0)
    model = with_random_statistics(Irregular())
    fused = fuse(model)
    torch.testing.assert_close(fused(torch.ones(1, 3, 8, 8)), model(torch.ones(1, 3, 8, 8)), rtol=1e-5, atol=1e-5)
    assert norms(fused) == 6
