"""Masks, mean colour, shared pseudo-labels, and the terms against a plain float64 reference."""

import copy
from functools import partial

import pytest
import torch

from dalib import Batch, Engine, SegmentationLoss, StackError, Stream, wrap_model
from dalib_plugins import strong
from dalib_plugins.dacs import Dacs
from dalib_plugins.masked_consistency import MaskedConsistency, block_grid, block_mask
from dalib_plugins.supervised import Supervised
from tests.plugins.probe import Probe, prepared
from tests.tiny import TinyModel, tiny_batch, tiny_model

Masked = partial(MaskedConsistency, name="masked_consistency")
PLAIN = {"jitter_p": 0.0, "blur_p": 0.0}
TWINS = ("masked", "masked_complement")


@pytest.mark.parametrize(
    ("size", "block", "grid"),
    [
        ((1024, 1024), None, (16, 16)),  # published: 64 pixels at full resolution
        ((512, 512), None, (16, 16)),  # and 32 at half of it
        ((1023, 2048), None, (32, 64)),
        ((1024, 2048), None, (16, 32)),
        ((512, 512), 64, (8, 8)),
        ((96, 192), 20, (5, 10)),  # rounded
        ((10, 40), 32, (1, 1)),  # at least one
    ],
)
def test_blocks_are_as_large_as_published_for_the_size_or_as_asked(size, block, grid):
    assert block_grid(size, block) == grid


@pytest.mark.parametrize(("ratio", "share"), [(0.0, 1.0), (0.7, 0.3), (0.5, 0.5), (1.0, 0.0)])
def test_blocks_go_whole_and_as_often_as_the_ratio_says(ratio, share):
    torch.manual_seed(0)
    mask = block_mask(8, (64, 128), ratio, 4)
    assert mask.shape == (8, 64, 128) and mask.dtype == torch.bool
    blocks = mask.float().unfold(1, 4, 4).unfold(2, 4, 4).flatten(3)
    assert torch.equal(blocks.amin(-1), blocks.amax(-1))
    assert blocks.mean().item() == pytest.approx(share, abs=0.03)
    assert len({one.numpy().tobytes() for one in mask}) == (8 if 0 < ratio < 1 else 1)  # each image has its own


def test_a_side_that_blocks_do_not_divide_is_covered_by_blocks_of_one_size_to_a_pixel():
    torch.manual_seed(0)
    edges = block_mask(50, (1, 10), 0.5, 3)[:, 0].diff().any(0)
    assert edges.nonzero().flatten().tolist() == [3, 6]  # 10 pixels in 3 blocks: 4, 3, 3


def tinted_model():
    """Return the tiny network around a mean colour of its own."""
    torch.manual_seed(0)
    return wrap_model(TinyModel(), 5, mean=(0.25, 0.5, 0.75), std=(0.5, 0.5, 0.5))


def masked(strategy, batch, model=None):
    """Return the batch after the strategy, with a network whose mean colour is (0.25, 0.5, 0.75)."""
    probe = Probe()
    Engine(model or tinted_model(), [strategy, probe], device="cpu").step(batch)
    return probe.batch


def hidden(stream):
    """Return the pixels (B, H, W) of the mean colour."""
    return (stream.image == torch.tensor([0.25, 0.5, 0.75]).view(3, 1, 1)).all(1)


def test_hidden_pixels_have_the_colour_that_the_model_takes_for_zero():
    batch = tiny_batch(size=(32, 48))
    stream = masked(Masked(**PLAIN, block=8, ratio=0.5), batch)["masked"]
    gone = hidden(stream)
    assert 0.2 < gone.float().mean() < 0.8
    assert torch.equal(stream.image.movedim(1, -1)[~gone], batch["target"].image.movedim(1, -1)[~gone])
    model = tinted_model()
    assert (((stream.image - model.mean.view(3, 1, 1)) / model.std.view(3, 1, 1)).movedim(1, -1)[gone] == 0).all()


@pytest.mark.parametrize(("options", "share"), [({}, 0.7), ({"complementary": True}, 0.5), ({"ratio": 0.2}, 0.2)])
def test_the_published_share_is_hidden_unless_another_is_asked_for(options, share):
    batch = tiny_batch(size=(96, 128), batch=4)
    stream = masked(Masked(**PLAIN, **options, block=4), batch)["masked"]
    assert hidden(stream).float().mean().item() == pytest.approx(share, abs=0.04)


def test_complementary_masks_add_up_to_one():
    batch = masked(Masked(**PLAIN, complementary=True, block=8), tiny_batch(size=(32, 48)))
    one, other = (batch[name] for name in TWINS)
    assert torch.equal(hidden(one).float() + hidden(other).float(), torch.ones(2, 32, 48))
    assert torch.equal(torch.where(hidden(one)[:, None], other.image, one.image), batch["target"].image)
    assert torch.equal(one.label, other.label) and torch.equal(one.weight, other.weight)


def test_labels_and_weight_are_the_teachers_of_the_whole_image_and_padding_keeps_weight_0():
    batch = tiny_batch()
    target = Stream(batch["target"].image, weight=torch.rand(2, 12, 16))
    for confidence in ("batch", "image"):
        options = {"block": 4, "threshold": 0.25, "confidence": confidence}
        streams = Batch({"source": batch["source"], "target": target})
        stream = prepared([Masked(**options)], streams)["masked"]
        probability, label = tiny_model()(target.image).softmax(1).max(1)
        sure = (probability >= 0.25).float().mean((1, 2), keepdim=True)
        assert sure.min() > 0 and sure.max() < 1
        assert torch.equal(stream.label, label)
        torch.testing.assert_close(stream.weight, (sure.mean() if confidence == "batch" else sure) * target.weight)


def test_images_are_jittered_and_blurred_before_they_are_hidden(monkeypatch):
    seen = []
    make = strong.make_augmentation
    monkeypatch.setattr(strong, "make_augmentation", lambda *a, **o: (seen.append((a, o)), make(*a, **o))[1])
    batch = tiny_batch(size=(32, 48))
    strategy = Masked(block=8, ratio=0.5, jitter=0.1, jitter_p=1.0, blur=(0.5, 1.0), blur_p=0.9)
    stream = masked(strategy, batch)["masked"]
    (jitter, blur) = seen
    assert jitter[0] == ("masked_consistency", "ColorJiggle") and blur[0][1] == "RandomGaussianBlur"
    assert jitter[1] == {"p": 1.0, **dict.fromkeys(("brightness", "contrast", "saturation", "hue"), 0.1)}
    assert blur[1] == {"p": 0.9, "kernel_size": (9, 9), "sigma": (0.5, 1.0)}
    gone = hidden(stream)  # not blurred, not jittered
    blocks = gone.float().unfold(1, 8, 8).unfold(2, 8, 8).flatten(3)
    assert torch.equal(blocks.amin(-1), blocks.amax(-1)) and 0.2 < gone.float().mean() < 0.8
    shown = (stream.image - batch["target"].image).abs().amax(1)[~gone]
    assert (shown > 0.01).float().mean() > 0.9


def test_with_dacs_one_teacher_forward_serves_both_and_alone_it_has_a_teacher_of_its_own():
    calls = []
    for stack in ([Supervised(), Dacs(), Masked(block=4, complementary=True)], [Masked(block=4)]):
        engine = Engine(tiny_model(), stack, device="cpu")
        engine.teacher.module.register_forward_hook(lambda *_: calls.append(1))
        terms = engine.step(tiny_batch())
        assert len(calls) == 1 and terms[f"{stack[-1].name}/confident"].isfinite()
        calls.clear()


def test_its_pseudo_labels_and_weight_are_those_of_dacs():
    batch = prepared([Dacs(threshold=0.25), Masked(block=4, threshold=0.25)], tiny_batch())
    mixed, stream = batch["mixed"], batch["masked"]
    from_target = mixed.weight != 1
    assert from_target.any() and 0 < stream.weight.max() < 1
    assert torch.equal(mixed.label[from_target], stream.label[from_target])
    assert torch.equal(mixed.weight[from_target], stream.weight[from_target])


def test_settings_of_the_teacher_are_shared_with_the_host():
    options = {"ema": 0.9, "teacher_batch_norm": "eval", "teacher_start": 3}
    for stack in (
        [Dacs(**options), Masked(block=4)],
        [Masked(block=4, **options), Dacs()],
        [Masked(block=4, **options)],
    ):
        teacher = Engine(tiny_model(), stack, device="cpu").teacher
        assert (teacher.decay, teacher.batch_norm, teacher.start) == (0.9, "eval", 3)
    with pytest.raises(StackError, match=r"'dacs' and 'masked_consistency' want different teachers: decay 0\.9"):
        Engine(tiny_model(), [Dacs(ema=0.9), Masked(ema=0.8)], device="cpu")


def reference(model, images, label, weight, consistency):
    """The terms pixel by pixel in float64: cross-entropies times weights over all pixels, and the squared distance."""
    model = copy.deepcopy(model).double().train()
    logits = [model(image.double()) for image in images]
    losses = []
    for one in logits:
        probability = one.exp() / one.exp().sum(1, keepdim=True)
        values = -probability.gather(1, label[:, None])[:, 0].log() * weight.double()
        losses.append(values.sum() / values.numel())
    if len(losses) == 1:
        return losses[0], None
    return sum(losses) / 2, consistency * (logits[0] - logits[1]).square().sum() / logits[0].numel()


@pytest.mark.parametrize("options", [{}, {"complementary": True}, {"complementary": True, "consistency": 0.5}])
def test_terms_equal_a_plain_reference_in_float64(options):
    strategy, probe = Masked(block=4, threshold=0.25, **options), Probe()
    model = tiny_model()
    start = copy.deepcopy(model)
    engine = Engine(model, [strategy, probe], loss=SegmentationLoss(auxiliary=0.0), device="cpu")
    terms = engine.step(tiny_batch())
    streams = [probe.batch[name] for name in TWINS if name in probe.batch]
    images, label, weight = [stream.image for stream in streams], streams[0].label, streams[0].weight
    loss, consistency = reference(start, images, label, weight, strategy.consistency)
    assert terms["masked_consistency/masked"].item() == pytest.approx(loss.item(), rel=1e-5) and loss > 0.01
    assert ("masked_consistency/consistency" in terms) == strategy.complementary
    if consistency is not None:
        assert terms["masked_consistency/consistency"].item() == pytest.approx(consistency.item(), rel=1e-4)
        assert consistency > 1e-4


def test_where_the_teacher_is_sure_of_nothing_the_loss_is_zero():
    terms = Engine(tiny_model(), [Masked(block=4, threshold=1.1)], device="cpu").step(tiny_batch())
    assert terms["masked_consistency/masked"].item() == 0.0 and terms["masked_consistency/confident"].item() == 0.0


def test_padding_by_a_crop_counts_neither_in_labels_nor_in_consistency():
    found = []
    for noise in (0.0, 1.0):
        batch = tiny_batch()
        weight = torch.zeros(2, 12, 16)
        weight[:, :, :4] = 1.0
        image = batch["target"].image
        batch.write("target", image=image, weight=weight)
        model = wrap_model(torch.nn.Conv2d(3, 5, 1), 5, mean=(0, 0, 0), std=(1, 1, 1))  # sees one pixel alone
        with torch.no_grad():
            for parameter, value in zip(model.parameters(), (0.3, 0.0), strict=True):
                parameter.copy_(torch.linspace(-value, value, parameter.numel()).view_as(parameter))
        batch.write("target", image=torch.where(weight[:, None] == 1, image, torch.tensor(noise)))
        strategy = Masked(**PLAIN, block=4, threshold=0.0, complementary=True, consistency=1.0)
        found.append(Engine(model, [strategy], device="cpu").step(batch))
    for name, value in found[0].items():
        torch.testing.assert_close(value, found[1][name])
    assert found[0]["masked_consistency/consistency"] > 1e-4


def test_blocks_too_large_for_the_images_are_warned_of():
    for size, expected in (((16, 64), 1), ((64, 64), 0)):
        warned = list(Masked().check_sizes({"target": size}))
        assert len(warned) == expected
    assert not list(Masked().check_sizes({}))
    with pytest.warns(UserWarning, match="hides a target of 12x16 pixels in 1x1 blocks.*give a smaller `block`"):
        Engine(tiny_model(), [Masked()], device="cpu").step(tiny_batch())


def test_two_of_them_mask_into_streams_of_their_own():
    stack = [Masked(block=4), MaskedConsistency(name="fine", into="finely", block=2, complementary=True)]
    terms = Engine(tiny_model(), stack, device="cpu").step(tiny_batch())
    assert {"masked_consistency/masked", "fine/finely", "fine/consistency"} <= terms.keys()
    with pytest.raises(StackError, match=r"masked\.image is provided twice"):
        Engine(tiny_model(), [stack[0], MaskedConsistency(name="again")], device="cpu").step(tiny_batch())


def test_networks_with_one_class_are_refused():
    with pytest.raises(StackError, match="'masked_consistency' needs 2 classes or more"):
        Engine(tiny_model(num_classes=1), [Masked()], device="cpu")
