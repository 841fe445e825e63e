"""The augment strategy in a stack: what it writes, its draws, its sizes."""

import pytest
import torch
import torch.nn.functional as F

from dalib import Batch, Engine, Stream
from dalib.errors import StackError
from dalib_plugins.augment import Augment, Blur
from dalib_plugins.dacs import Dacs
from dalib_plugins.supervised import Supervised
from dalib_plugins.warp import make_augmentation
from tests.plugins.probe import prepared
from tests.tiny import tiny_batch, tiny_model


def same_images(count: int, size: tuple[int, int] = (16, 20)) -> Batch:
    """Return a batch of one image, many times."""
    image = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0))
    label = (image[:, 0] * 5).long()
    return Batch({"source": Stream(image.repeat(count, 1, 1, 1), label.repeat(count, 1, 1))})


def test_streams_are_cropped_to_one_size_with_their_labels():
    batch = tiny_batch()
    batch.write("target", image=torch.rand(2, 3, 9, 30))
    after = prepared([Augment(streams=["source", "target"], crop=(10, 14), scale=(0.5, 2.0), flip=0.5)], batch)
    assert after["source"].size == after["target"].size == after["source"].label.shape[-2:] == (10, 14)
    assert after["target"].label is None


def test_padding_is_ignored_weighs_nothing_and_stays_so_in_a_mixture():
    after = prepared([Augment(streams=["source", "target"], crop=(20, 24)), Dacs(threshold=0.0)], tiny_batch())
    source, mixed = after["source"], after["mixed"]
    assert ((source.weight == 0) <= (source.label == 255)).all()
    for stream in (source, after["target"]):
        assert ((stream.weight == 0).flatten(1).sum(1) == 20 * 24 - 12 * 16).all()
    assert ((mixed.weight == 0) <= (after["target"].weight == 0)).all()
    assert (mixed.weight == 0).any()


def test_the_order_of_the_plan_knows_the_size_after_a_crop():
    batch = tiny_batch()
    batch.write("target", image=torch.rand(2, 3, 30, 40))
    prepared([Augment(streams=["source", "target"], crop=(10, 12)), Dacs()], batch)
    with pytest.raises(StackError, match="source 10x12, target 12x16"):
        prepared([Augment(crop=(10, 12)), Dacs()], tiny_batch())


@pytest.mark.parametrize(
    "options", [{"color_jitter": (0.5, 0.5, 0.5, 0.05)}, {"blur": Blur(kernel=5, sigma=(0.2, 2.0))}, {"flip": 0.5}]
)
def test_samples_have_draws_of_their_own(options):
    image = prepared([Augment(**options)], same_images(8))["source"].image
    assert len({one.sum(0)[0, 0].item() for one in image}) > 1
    assert image.min() >= 0 and image.max() <= 1


def test_colours_write_the_image_alone():
    before = same_images(2)
    after = prepared([Augment(color_jitter=(0.5, 0.5, 0.5, 0.05), blur=Blur())], before)["source"]
    assert torch.equal(after.label, before["source"].label) and after.weight is None
    assert not torch.equal(after.image, before["source"].image)


def test_a_constant_image_jitters_as_torchvision_defines_brightness():
    batch = Batch({"source": Stream(torch.full((64, 3, 8, 8), 0.4), torch.zeros(64, 8, 8, dtype=torch.int64))})
    image = prepared([Augment(color_jitter=(0.5, 0.0, 0.0, 0.0))], batch)["source"].image
    factors = image[:, 0, 0, 0] / 0.4
    assert 0.5 <= factors.min() < 0.6 and 1.4 < factors.max() <= 1.5


def test_jitter_has_its_probability():
    before = same_images(200)["source"].image
    options = {"color_jitter": (0.5, 0.0, 0.0, 0.0), "jitter_p": 0.25}
    after = prepared([Augment(**options)], same_images(200))["source"].image
    changed = (after != before).flatten(1).any(1)
    assert 0.15 < changed.float().mean() < 0.35


@pytest.mark.parametrize("options", [{"crop": (16, 20)}, {"flip": 1.0}, {"kornia": [{"use": "RandomHorizontalFlip"}]}])
def test_what_moves_pixels_writes_label_and_weight_and_what_colours_them_the_image_alone(options):
    assert Augment(**options).writes >= {"source.image", "source.label", "source.weight"}
    assert Augment(color_jitter=(0.5, 0.5, 0.5, 0.05), blur=Blur()).writes == {"source.image"}


def test_a_weight_follows_the_view():
    batch, weight = same_images(2), torch.rand(2, 16, 20)
    batch.write("source", weight=weight)
    assert torch.equal(prepared([Augment(flip=1.0)], batch)["source"].weight, weight.flip(-1))


def test_jitter_comes_before_blur():
    """The jitter stops colours at 0 and 1; blurred afterwards they are those of a blur of the jittered image alone."""
    jitter, sigma = (0.9, 0.9, 0.9, 0.1), (1.0, 1.0)
    image = torch.rand(4, 3, 16, 20, generator=torch.Generator().manual_seed(0)).round()
    batch = lambda: Batch({"source": Stream(image, torch.zeros(4, 16, 20, dtype=torch.int64))})  # noqa: E731
    jittered = prepared([Augment(color_jitter=jitter)], batch())["source"].image
    both = prepared([Augment(color_jitter=jitter, blur=Blur(kernel=5, sigma=sigma))], batch())["source"].image
    blur = make_augmentation("test", "RandomGaussianBlur", p=1.0, kernel_size=(5, 5), sigma=sigma)
    torch.testing.assert_close(both, blur(jittered), atol=1e-5, rtol=0)


def test_a_scale_interpolates_the_image_and_takes_the_nearest_label():
    before = same_images(1)["source"]
    after = prepared([Augment(scale=(2.0, 2.0), crop=(32, 40))], same_images(1))["source"]
    doubled = F.interpolate(before.image, scale_factor=2, mode="bilinear", align_corners=False)
    torch.testing.assert_close(after.image, doubled)
    assert torch.equal(after.label, before.label.repeat_interleave(2, 1).repeat_interleave(2, 2))


def test_a_view_without_scale_leaves_pixels_as_they_are():
    before = same_images(4)["source"].image
    after = prepared([Augment(flip=0.5)], same_images(4))["source"].image
    for one, image in zip(after, before, strict=True):
        assert torch.equal(one, image) or torch.equal(one, image.flip(-1))


def test_named_augmentations_come_in_the_order_given_and_move_labels():
    chain = [{"use": "RandomHorizontalFlip", "p": 1.0}, {"use": "RandomInvert", "p": 1.0}]
    before = same_images(2)["source"]
    after = prepared([Augment(kornia=chain)], same_images(2))["source"]
    torch.testing.assert_close(after.image, 1 - before.image.flip(-1))
    assert torch.equal(after.label, before.label.flip(-1))


def test_two_streams_draw_apart():
    batch = Batch({**same_images(4), "target": Stream(same_images(4)["source"].image)})
    after = prepared([Augment(streams=["source", "target"], crop=(8, 8))], batch)
    assert not torch.equal(after["source"].image, after["target"].image)


@pytest.mark.parametrize("options", [{"color_jitter": (0.5, 0.5, 0.5, 0.9)}, {"blur": Blur(kernel=4)}])
def test_values_that_kornia_refuses_name_the_strategy(options):
    with pytest.raises(StackError, match=r"strategy 'augment': kornia's .* refuses the options"):
        Engine(tiny_model(), [Augment(**options), Supervised()], device="cpu")


def with_maps(batch):
    """Give the source its label as a further map too, as whole numbers and as a depth in metres."""
    label = batch["source"].label
    batch.write("source", ids=label, depth=label / 3)
    return batch


@pytest.mark.parametrize(
    "options",
    [
        {"scale": (0.5, 2.0), "crop": (10, 14), "flip": 0.5},
        {"kornia": [{"use": "RandomAffine", "degrees": 30.0, "p": 1.0}, {"use": "RandomHorizontalFlip", "p": 0.5}]},
        {"flip": 0.5, "kornia": [{"use": "RandomPerspective", "p": 1.0}]},
    ],
)
def test_further_maps_follow_the_label_by_the_nearest_pixel(options):
    after = prepared([Augment(**options)], with_maps(same_images(8)))["source"]
    inside = after.label != 255
    assert after.extra["ids"].dtype == torch.int64 and inside.any()
    assert torch.equal(after.extra["ids"], after.label.where(inside, 0))
    assert torch.equal(after.extra["depth"], (after.label / 3).where(inside, 0))


def test_colours_leave_further_maps_alone():
    batch = with_maps(same_images(2))
    depth = batch["source"].extra["depth"]
    assert prepared([Augment(blur=Blur())], batch)["source"].extra["depth"] is depth


@pytest.mark.parametrize("use", ["Normalize", "Denormalize"])
def test_what_takes_images_out_of_their_range_for_good_is_refused(use):
    with pytest.raises(
        StackError, match=rf"kornia's {use} takes images out of \[0, 1\].* a model normalises by itself"
    ):
        prepared([Augment(kornia=[{"use": use, "mean": [0.5] * 3, "std": [0.2] * 3}])], same_images(2))


def test_noise_is_clamped_to_the_range_of_images():
    batch = prepared([Augment(kornia=[{"use": "RandomGaussianNoise", "std": 1.0, "p": 1.0}])], same_images(4))
    image = batch["source"].image
    assert image.min() == 0 and image.max() == 1 and 0.2 < image.mean() < 0.8
