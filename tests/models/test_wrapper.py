"""The wrapper normalises, names and resizes, around any network."""

import pytest
import torch
from torch import Tensor, nn

from dalib.errors import DalibError
from dalib.models import wrap_model
from dalib.models.wrapper import network_of


class Named(nn.Module):
    mean = (0.5, 0.25, 0.125)
    std = (0.5, 2.0, 4.0)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"logits": x[..., ::2, ::2], "boundary": x[:, :1, ::4, ::4]}


def test_normalises_with_the_networks_own_mean_and_std() -> None:
    class Plain(Named):
        def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
            return x

    x = torch.rand(2, 3, 5, 7)
    expected = torch.stack([(x[:, 0] - 0.5) / 0.5, (x[:, 1] - 0.25) / 2, (x[:, 2] - 0.125) / 4], dim=1)
    torch.testing.assert_close(wrap_model(Plain(), 3)(x), expected)


def test_defaults_to_imagenet_and_explicit_values_win() -> None:
    assert wrap_model(nn.Identity(), 3).mean.tolist() == pytest.approx([0.485, 0.456, 0.406])
    assert wrap_model(nn.Identity(), 3).std.tolist() == pytest.approx([0.229, 0.224, 0.225])
    assert wrap_model(Named(), 3, mean=(0, 0, 0), std=(1, 1, 1)).mean.tolist() == [0, 0, 0]


def test_resizes_logits_only_and_returns_them_alone_unless_asked() -> None:
    model, x = wrap_model(Named(), 3), torch.rand(1, 3, 9, 14)
    outputs = model(x, outputs=True)
    assert outputs["logits"].shape == (1, 3, 9, 14)
    assert outputs["boundary"].shape == (1, 1, 3, 4)
    assert torch.equal(model(x), outputs["logits"])


def test_resizing_is_bilinear_between_pixel_centres() -> None:
    class Row(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.tensor([0.0, 4.0]).expand(1, 1, 1, 2)

    logits = wrap_model(Row(), 1)(torch.zeros(1, 3, 1, 4))
    assert logits.flatten().tolist() == [0, 1, 3, 4]  # aligned corners would give 0, 4/3, 8/3, 4


def test_logits_of_half_precision_are_interpolated_in_float32() -> None:
    low_res = torch.randn(1, 5, 8, 12)
    model = wrap_model(nn.Identity(), 5, mean=(0, 0, 0), std=(1, 1, 1))
    model.network.forward = lambda x: {"logits": low_res.bfloat16(), "low_res": low_res.bfloat16()}
    outputs = model(torch.zeros(1, 3, 64, 96), outputs=True)
    expected = torch.nn.functional.interpolate(low_res.bfloat16().float(), (64, 96), mode="bilinear")
    assert torch.equal(outputs["logits"], expected)
    assert outputs["low_res"].dtype == torch.bfloat16


def test_other_channels_than_classes_are_refused() -> None:
    with pytest.raises(DalibError, match="the network gives 7 channels of logits for 5 classes"):
        wrap_model(nn.Conv2d(3, 7, 1), 5)(torch.rand(1, 3, 8, 8))


def test_mean_of_another_length_is_refused() -> None:
    with pytest.raises(DalibError, match=r"mean of a model: expected 3 values, one per RGB channel, found 1"):
        wrap_model(nn.Identity(), 3, mean=[0.5])


@pytest.mark.parametrize(("names", "returned"), [(("out", "aux"), "a dict of 'out', 'aux'"), ((), "tuple")])
def test_outputs_without_logits_are_refused_by_their_names(names: tuple[str, ...], returned: str) -> None:
    class Other(nn.Module):
        def forward(self, x: Tensor) -> object:
            return dict.fromkeys(names, x) or (x, x)

    with pytest.raises(DalibError, match=rf"a dict with 'logits'; this one returned {returned}\. Wrap it in a module"):
        wrap_model(Other(), 3)(torch.rand(1, 3, 4, 4))


def test_a_part_that_is_called_like_a_wrappers_content_is_no_wrapper() -> None:
    network = nn.Sequential()
    network.module, network.head = nn.Conv2d(3, 5, 1), nn.Conv2d(5, 5, 1)
    assert network_of(network) is network
    assert network_of(wrap_model(network, 5)) is network
    assert network_of(nn.DataParallel(wrap_model(network, 5))) is network


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"mean": (123.7, 116.3, 103.5)}, r"mean of a model: .* of images in \[0, 1\]; found 123.7, .* by 255\."),
        ({"std": (58.4, 57.1, 57.4)}, r"std of a model: .* found 58.4, 57.1, 57.4\. Divide"),
        ({"mean": (-0.1, 0.5, 0.5)}, r"mean of a model: .* found -0.1, 0.5, 0.5\.$"),
        ({"std": (0.2, 0.0, 0.2)}, r"std of a model: .* found 0.2, 0, 0.2\.$"),
        ({"std": (0.2, float("nan"), 0.2)}, "std of a model"),
    ],
)
def test_a_mean_or_std_of_other_images_than_in_0_to_1_is_refused(options, said):
    with pytest.raises(DalibError, match=said):
        wrap_model(torch.nn.Conv2d(3, 5, 1), 5, **options)


def test_the_mean_and_std_of_any_images_in_0_to_1_are_taken():
    for mean, std in (((0.0, 0.5, 1.0), (1.0, 1.0, 1.0)), ((0, 0, 0), (1 / 255, 1 / 255, 1 / 255))):
        assert wrap_model(torch.nn.Conv2d(3, 5, 1), 5, mean, std).std.tolist() == pytest.approx(std)
