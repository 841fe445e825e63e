"""ClassMix's statistics, pseudo-labels, and the engine's self-training steps against a hand-written loop."""

import copy
import inspect
from collections import Counter

import pytest
import torch
import torch.nn.functional as F

from dalib import Batch, Engine, Stream
from dalib.errors import StackError
from dalib.losses import SegmentationLoss
from dalib_plugins import dacs, strong
from dalib_plugins.dacs import Dacs, classmix_mask, mix, pseudo_label
from dalib_plugins.supervised import Supervised
from dalib_plugins.warp import make_augmentation
from tests.plugins.probe import Probe, prepared
from tests.tiny import tiny_batch, tiny_model


def random_label(classes: list[int], count: int = 1, size: tuple[int, int] = (9, 11)) -> torch.Tensor:
    """Return (count, H, W) labels that hold every one of ``classes``."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.tensor(classes)[torch.randint(len(classes), (count, *size), generator=generator)]
    drawn.flatten(1)[:, : len(classes)] = torch.tensor(classes)
    return drawn


def pasted(label: torch.Tensor, **options) -> list[set[int]]:
    """Return the classes under each image's mask, after checking that classes are pasted whole."""
    mask = classmix_mask(label, **options)
    assert mask.shape == label.shape and mask.dtype == torch.bool
    for one, under in zip(label, mask, strict=True):
        assert not set(one[under].tolist()) & set(one[~under].tolist())
    return [set(one[under].tolist()) for one, under in zip(label, mask, strict=True)]


@pytest.mark.parametrize(("count", "half"), [(1, 1), (2, 1), (3, 2), (4, 2), (19, 10)])
def test_half_of_the_classes_are_pasted_rounded_up(count, half):
    label = random_label([3 * i for i in range(count)], count=4)
    assert all(len(classes) == half for classes in pasted(label))


def test_every_half_is_as_likely():
    label = random_label([0, 7, 18]).repeat(3000, 1, 1)
    counts = Counter(frozenset(classes) for classes in pasted(label))
    assert len(counts) == 3 and min(counts.values()) > 880  # 1000 each, four standard deviations wide


def test_ignore_is_neither_pasted_nor_counted_unless_asked():
    label = random_label([2, 5, 255]).repeat(50, 1, 1)
    assert all(len(classes) == 1 and 255 not in classes for classes in pasted(label))
    asked = pasted(label, ignore_is_class=True)
    assert all(len(classes) == 2 for classes in asked) and any(255 in classes for classes in asked)


def test_an_image_of_ignore_alone_pastes_nothing():
    assert not classmix_mask(torch.full((2, 4, 5), 255)).any()


def test_batch_wide_draws_take_half_of_the_batchs_classes():
    label = torch.cat([random_label([0, 1]), random_label([2, 3, 4, 5])]).repeat(20, 1, 1)
    found = pasted(label, classes="batch")  # 3 of 6 classes, of which an image may hold none or all
    assert {len(classes) for classes in found[::2]} == {0, 1, 2}
    label[1::2] = random_label([0, 1, 2, 3, 4, 5, 255])
    assert {len(classes) for classes in pasted(label, classes="batch")[1::2]} == {3}


def test_unless_asked_each_image_pastes_half_of_its_own_classes():
    label = torch.cat([random_label([0, 1]), random_label([2, 3, 4, 5])]).repeat(20, 1, 1)
    assert [len(classes) for classes in pasted(label)] == [1, 2] * 20


def test_a_generator_decides_the_draw():
    label = random_label(list(range(19)), count=3)
    first, second = (classmix_mask(label, torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, classmix_mask(label, torch.Generator().manual_seed(6)))


def logits_with_confidence(shares: list[float]) -> torch.Tensor:
    """Return logits of images of 10 x 10 pixels, of which a share is all but certain of class 1."""
    logits = torch.zeros(len(shares), 3, 100)
    for one, share in zip(logits, shares, strict=True):
        one[1, : round(share * 100)] = 10.0
    return logits.view(-1, 3, 10, 10)


def test_target_pixels_weigh_the_share_of_confident_ones():
    logits = logits_with_confidence([0.2, 0.6])
    label, weight = pseudo_label(logits, 0.968)
    assert label.dtype == torch.int64 and torch.equal(label, logits.argmax(1))
    torch.testing.assert_close(weight, torch.full((2, 10, 10), 0.4))
    each = pseudo_label(logits, 0.968, "image")[1]
    torch.testing.assert_close(each, torch.tensor([0.2, 0.6])[:, None, None].expand(2, 10, 10))


def test_a_pixel_is_confident_from_the_threshold_on():
    assert pseudo_label(torch.zeros(1, 2, 1, 1), 0.5)[1].item() == 1.0


def test_confidence_is_judged_in_float32():
    logits = torch.tensor([3.4375, 0.0]).view(1, 2, 1, 1).bfloat16()  # 0.96885; bfloat16 cannot tell it from 0.97
    assert pseudo_label(logits, 0.97)[1].item() == 0.0


def test_mixing_takes_each_pixel_from_one_side_and_keeps_its_weight():
    generator = torch.Generator().manual_seed(0)
    source, target = (
        Stream(torch.rand(2, 3, 4, 5, generator=generator), torch.full((2, 4, 5), value), torch.full((2, 4, 5), weight))
        for value, weight in ((1, 0.5), (2, 0.25))
    )
    mask = torch.rand(2, 4, 5, generator=generator) < 0.5
    mixed = mix(source, target, (torch.full((2, 4, 5), 3), torch.full((2, 4, 5), 0.8)), mask)
    for here, side, label, weight in ((mask, source, 1, 0.5), (~mask, target, 3, 0.2)):
        assert torch.equal(mixed.image.movedim(1, -1)[here], side.image.movedim(1, -1)[here])
        assert set(mixed.label[here].tolist()) == {label}
        torch.testing.assert_close(mixed.weight[here], torch.full_like(mixed.weight[here], weight))


def test_options_reach_what_they_are_of(monkeypatch):
    seen = {}

    def watched(module, name):
        function = getattr(module, name)

        def watching(*arguments, **options):
            bound = inspect.signature(function).bind(*arguments, **options)
            seen.setdefault(name, []).append(bound.arguments)
            return function(*arguments, **options)

        monkeypatch.setattr(module, name, watching)

    watched(dacs, "pseudo_label")
    watched(dacs, "classmix_mask")
    watched(strong, "make_augmentation")
    chosen = {"jitter": 0.1, "jitter_p": 0.3, "blur": (0.1, 2.0), "blur_p": 0.6, "ema": 0.5, "teacher_start": 7}
    strategy = Dacs(confidence="image", classes="batch", ignore_is_class=True, teacher_batch_norm="eval", **chosen)
    engine = Engine(tiny_model(), [strategy], device="cpu")
    engine.step(tiny_batch())
    assert (seen["pseudo_label"][0]["threshold"], seen["pseudo_label"][0]["confidence"]) == (0.968, "image")
    assert (seen["classmix_mask"][0]["classes"], seen["classmix_mask"][0]["ignore_is_class"]) == ("batch", True)
    assert (engine.teacher.decay, engine.teacher.batch_norm, engine.teacher.start) == (0.5, "eval", 7)
    jitter, blur = (augmentation["options"] for augmentation in seen["make_augmentation"])
    assert jitter == {"p": 0.3, **dict.fromkeys(("brightness", "contrast", "saturation", "hue"), 0.1)}
    assert blur == {"p": 0.6, "kernel_size": (17, 17), "sigma": (0.1, 2.0)}  # four sigma each way


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_any_batch_size_is_mixed_and_jittered_after_mixing(batch):
    streams = tiny_batch(batch=batch)
    plain = prepared([Dacs(jitter_p=0.0, blur_p=0.0)], streams)["mixed"]
    strong = prepared([Dacs(jitter_p=1.0, blur_p=1.0)], tiny_batch(batch=batch))["mixed"]
    from_source = (plain.image == streams["source"].image).all(1)
    assert torch.equal(plain.image.movedim(1, -1)[~from_source], streams["target"].image.movedim(1, -1)[~from_source])
    assert torch.equal(plain.label[from_source], streams["source"].label[from_source])
    assert 0 < from_source.float().mean() < 1
    assert torch.equal(strong.label, plain.label) and not torch.equal(strong.image, plain.image)
    assert strong.image.min() >= 0 and strong.image.max() <= 1


def test_every_sample_is_jittered_by_a_draw_of_its_own():
    batch = tiny_batch(batch=1)
    twice = {
        name: Stream(**{k: torch.cat([v, v]) for k, v in stream.fields().items()}) for name, stream in batch.items()
    }
    mixed = prepared([Dacs(jitter_p=1.0, blur_p=0.0)], Batch(twice))["mixed"]
    unmixed = mixed.image[:, :, 0]  # the first row is ignored in the source, so never pasted
    assert (unmixed[0] - unmixed[1]).abs().max() > 0.01


def test_the_mixture_is_blurred_by_a_gaussian_of_the_sigma_that_is_asked_for():
    plain = prepared([Dacs(jitter_p=0.0, blur_p=0.0)], tiny_batch())["mixed"].image
    blurred = prepared([Dacs(jitter_p=0.0, blur_p=1.0, blur=(0.8, 0.8))], tiny_batch())["mixed"].image
    places = torch.arange(-4, 5)  # four sigma each way, as the strategy's kernel
    kernel = (-places.square() / (2 * 0.8**2)).exp()
    kernel = (kernel / kernel.sum()).expand(3, 1, 1, -1)
    padded = F.pad(plain, (4, 4, 4, 4), mode="reflect")
    expected = F.conv2d(F.conv2d(padded, kernel, groups=3), kernel.mT, groups=3)
    torch.testing.assert_close(blurred, expected, atol=1e-5, rtol=0)
    assert (blurred - plain).abs().max() > 0.05


def test_half_of_the_samples_are_blurred_by_default():
    batch = tiny_batch(batch=64)
    plain = prepared([Dacs(jitter_p=0.0, blur_p=0.0)], tiny_batch(batch=64))["mixed"].image
    blurred = prepared([Dacs(jitter_p=0.0)], batch)["mixed"].image
    assert 20 <= (blurred != plain).flatten(1).any(1).sum() <= 44  # three standard deviations


def test_jitter_comes_before_blur():
    """Where the jitter saturates, colours stop at 0 and 1 before they are blurred, so the order shows."""
    options = {"jitter": 0.5, "jitter_p": 1.0, "blur": (1.0, 1.0), "ema": 0.9}
    batch = tiny_batch()
    batch.write("target", image=batch["target"].image.round())  # extremes, which a jitter pushes out
    batch.write("source", image=batch["source"].image.round())
    jittered = prepared([Dacs(**options, blur_p=0.0)], Batch(dict(batch.items())))["mixed"].image
    both = prepared([Dacs(**options, blur_p=1.0)], Batch(dict(batch.items())))["mixed"].image
    blur = make_augmentation("test", "RandomGaussianBlur", p=1.0, kernel_size=(9, 9), sigma=(1.0, 1.0))
    torch.testing.assert_close(both, blur(jittered), atol=1e-5, rtol=0)


def share_of(batch: Batch, mixed: Stream) -> torch.Tensor:
    """Return the share of each mixture that comes from the source."""
    return (mixed.image == batch["source"].image).all(1).float().mean((1, 2))


@pytest.mark.parametrize(
    ("options", "least", "greatest"),
    [
        ({"mask": "cutmix"}, 0.5, 0.5),
        ({"mask": "cutmix", "area": (0.1, 0.2)}, 0.1, 0.2),
        ({"mask": "cowmask", "sigma": (2.0, 4.0)}, 0.2, 0.8),
        ({"mask": "cowmask", "sigma": (2.0, 4.0), "area": (0.1, 0.2)}, 0.1, 0.2),
    ],
)
def test_other_masks_paste_the_share_that_is_asked_for_by_default_the_published_one(options, least, greatest):
    batch = tiny_batch(batch=16, size=(48, 64))
    mixed = prepared([Dacs(**options, jitter_p=0.0, blur_p=0.0)], Batch(dict(batch.items())))["mixed"]
    share = share_of(batch, mixed)
    assert share.min() > least - 0.06 and share.max() < greatest + 0.06  # whole pixels, and noise that is not infinite
    assert (share.max() - share.min() > 0.05) == (least < greatest)
    from_source = (mixed.image == batch["source"].image).all(1)
    assert torch.equal(mixed.label[from_source], batch["source"].label[from_source])


@pytest.mark.parametrize("mask", ["classmix", "cutmix", "cowmask"])
def test_each_mask_refuses_options_of_the_others(mask):
    of_others = {"classes": "batch", "ignore_is_class": True, "area": (0.1, 0.2), "sigma": (1.0, 2.0)}
    own = {"classmix": {"classes", "ignore_is_class"}, "cutmix": {"area"}, "cowmask": {"area", "sigma"}}[mask]
    for option, value in of_others.items():
        if option in own:
            prepared([Dacs(mask=mask, **{option: value})], tiny_batch())
        else:
            with pytest.raises(
                StackError, match=f"'dacs': {option} is an option of the mask .*, and the mask is {mask}"
            ):
                prepared([Dacs(mask=mask, **{option: value})], tiny_batch())


def with_confident(source: Stream, target: Stream, sure: list[list[int]], monkeypatch) -> Stream:
    """Return the source after pasting, where the teacher is sure of the listed classes and views are whole images."""
    monkeypatch.setattr(dacs, "ECAP_SCALE", (1.0, 1.0))
    monkeypatch.setattr(dacs, "ECAP_FLIP", 0.0)
    label = torch.arange(3).view(1, 1, 3).expand(len(sure), 4, 3)  # a class in each column
    logits = torch.zeros(len(sure), 3, 4, 3)
    for one, classes in zip(logits, sure, strict=True):
        for k in range(3):
            one[k, :, k] = 20.0 if k in classes else 0.1
    assert torch.equal(logits.argmax(1), label)
    return dacs.paste_confident(source, target, logits, 0.95)


def test_confident_classes_of_the_image_before_are_pasted_with_full_weight(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    label = torch.tensor([7, 8, 255, 9]).view(1, 4, 1).expand(3, 4, 3)
    source = Stream(torch.rand(3, 3, 4, 3, generator=generator), label, torch.full((3, 4, 3), 0.5))
    target = Stream(torch.rand(3, 3, 4, 3, generator=generator), weight=torch.ones(3, 4, 3))
    target.weight[0, 0] = 0.0  # padding: the first image's first row
    pasted = with_confident(source, target, [[0, 2], [], []], monkeypatch)
    assert torch.equal(pasted.image[::2], source.image[::2]) and torch.equal(pasted.label[::2], label[::2])
    there = torch.zeros(4, 3, dtype=torch.bool)
    there[1:, 0] = there[1:, 2] = True
    torch.testing.assert_close(pasted.image[1][:, there], target.image[0][:, there])
    assert torch.equal(pasted.image[1][:, ~there], source.image[1][:, ~there])
    assert (
        pasted.label[1, 1:].tolist() == [[0, 8, 2], [0, 255, 2], [0, 9, 2]] and pasted.label[1, 0].tolist() == [7] * 3
    )
    assert torch.equal(pasted.weight[1], torch.where(there, 1.0, 0.5))


def test_confident_classes_are_scaled_placed_and_mirrored_at_random():
    logits = torch.full((1, 2, 40, 60), -10.0)
    logits[:, 1] = 10.0
    logits[:, :, :, :30] = logits[:, :, :, :30].flip(1)  # class 0 on the left, class 1 on the right
    sizes, mirrored = [], []
    for seed in range(100):
        torch.manual_seed(seed)
        source = Stream(torch.zeros(1, 3, 40, 60), torch.full((1, 40, 60), 5))
        label = dacs.paste_confident(source, Stream(torch.ones(1, 3, 40, 60)), logits, 0.9).label[0]
        columns = [(label == k).any(0).nonzero().float().mean() for k in (0, 1)]
        sizes.append(((label != 5).float().mean() ** 0.5).item())
        mirrored.append((columns[0] > columns[1]).item())
    assert 0.08 < min(sizes) < 0.2 and 0.85 < max(sizes) <= 1.0
    assert 30 < sum(mirrored) < 70


def test_without_confident_classes_the_source_stays_as_it_is_and_with_them_it_is_mixed_after_pasting(monkeypatch):
    batch = tiny_batch(size=(48, 64))
    source = Stream(torch.rand(2, 3, 4, 3), torch.randint(5, (2, 4, 3)))
    same = with_confident(source, Stream(torch.rand(2, 3, 4, 3)), [[], []], monkeypatch)
    assert torch.equal(same.image, source.image) and torch.equal(same.label, source.label) and (same.weight == 1).all()
    everything = {"mask": "cutmix", "area": (1.0, 1.0), "jitter_p": 0.0, "blur_p": 0.0}
    mixed = prepared([Dacs(**everything, confident_classes=0.0)], Batch(dict(batch.items())))["mixed"]
    pasted = (mixed.image != batch["source"].image).any(1)
    assert pasted.any() and (mixed.label[pasted] < 5).all() and (mixed.weight == 1).all()
    assert torch.equal(mixed.label[~pasted], batch["source"].label[~pasted])


def loop_step(student, teacher, sgd, index: int, batch: Batch, mask: torch.Tensor) -> float:
    """DACS written out: pseudo-labels, mixing, both losses, the teacher's average after the update."""
    source, target = batch["source"], batch["target"]
    with torch.no_grad():
        probability, label = teacher(target.image).softmax(1).max(1)
    share = (probability >= 0.3).sum() / probability.numel()
    assert 0 < share < 1
    image = torch.where(mask[:, None], source.image, target.image)
    weight = torch.where(mask, torch.tensor(1.0), share)
    label = torch.where(mask, source.label, label)
    supervised = F.cross_entropy(student(source.image), source.label, ignore_index=255)
    mixed = (F.cross_entropy(student(image), label, ignore_index=255, reduction="none") * weight).mean()
    sgd.zero_grad()
    (supervised + mixed).backward()
    sgd.step()
    alpha = min(1 - 1 / (index + 1), 0.6)
    for mine, theirs in zip(teacher.parameters(), student.parameters(), strict=True):
        mine.data = alpha * mine.data + (1 - alpha) * theirs.data
    return mixed.item()


def test_steps_equal_a_hand_written_loop():
    """The loop is told the mixed image alone; labels, weights, losses and both updates are its own."""
    model, dacs, probe = tiny_model(), Dacs(threshold=0.3, jitter_p=0.0, blur_p=0.0, ema=0.6), Probe()
    student = copy.deepcopy(model).to(memory_format=torch.channels_last).train()
    teacher = copy.deepcopy(student).requires_grad_(False)
    sgd = torch.optim.SGD(student.parameters(), lr=0.1)
    engine = Engine(
        model,
        [Supervised(), dacs, probe],
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1),
        loss=SegmentationLoss(auxiliary=0.0),
        device="cpu",
    )
    for index in range(4):
        batch = tiny_batch(index)
        term = engine.step(batch)["dacs/mixed"].item()
        mask = (probe.batch["mixed"].image == batch["source"].image).all(1)
        assert term == pytest.approx(loop_step(student, teacher, sgd, index, batch, mask), abs=1e-6)
    for ours, theirs in ((engine.model, student), (engine.teacher.module, teacher)):
        for name, value in theirs.named_parameters():
            assert (ours.get_parameter(name) - value).abs().max() < 1e-6, name


def test_streams_of_different_size_are_refused():
    batch = tiny_batch()
    batch.write("target", image=torch.rand(2, 3, 10, 16))
    with pytest.raises(StackError, match="'dacs' needs streams of one size; it would get source 12x16, target 10x16"):
        prepared([Dacs()], batch)


def test_without_labelled_or_confident_pixels_the_loss_is_zero():
    batch = tiny_batch()
    batch.write("source", label=torch.full_like(batch["source"].label, 255))
    terms = Engine(tiny_model(), [Dacs(threshold=1.1)], device="cpu").step(batch)
    assert terms["dacs/mixed"].item() == 0.0 and terms["dacs/confident"].item() == 0.0


def test_two_mix_into_streams_of_their_own():
    stack = [Supervised(), Dacs(), Dacs(name="other", into="other")]
    terms = Engine(tiny_model(), stack, device="cpu").step(tiny_batch())
    assert {"dacs/mixed", "other/other"} <= terms.keys()
    assert terms["dacs/mixed"] != terms["other/other"]
    with pytest.raises(StackError, match=r"mixed\.image is provided twice: by 'dacs' and by 'again'"):
        Engine(tiny_model(), [Dacs(), Dacs(name="again")], device="cpu").step(tiny_batch())
