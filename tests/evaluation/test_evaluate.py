"""Evaluation of a network on a data set."""

import dataclasses
import multiprocessing
import os
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import get_worker_info

from dalib import Engine, wrap_model
from dalib.data.bad_items import BadItems, ItemError, Readable
from dalib.errors import DataError
from dalib.evaluation.evaluate import evaluate, inference
from dalib.evaluation.protocols import PROTOCOLS
from tests.faulty_plugin import FaultyData
from tests.tiny import Supervised


class Scenes:
    """Random images of the sizes given, labels of three classes and ignore."""

    classes = ("road", "sky", "car")

    def __init__(self, *sizes):
        generator = torch.Generator().manual_seed(0)
        self.items = []
        for size in sizes:
            image = torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8)
            label = torch.randint(0, 4, size, generator=generator, dtype=torch.uint8)
            self.items.append((image, label.masked_fill(label == 3, 255)))

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


class Network(nn.Module):
    def __init__(self, num_classes=3):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, num_classes, 3, padding=1)
        self.norm = nn.BatchNorm2d(num_classes)
        self.batches = []

    def forward(self, x):
        self.batches.append(tuple(x.shape))
        return self.norm(self.conv(x))


def reference(model, scenes, input_size=None):
    """Counts by a plain loop in float64."""
    counts = torch.zeros(3, 3, dtype=torch.int64)
    model = model.double().eval()
    for image, label in scenes.items:
        x = image[None].double() / 255
        if input_size:
            x = F.interpolate(x, input_size, mode="bilinear", antialias=True)
        logits = F.interpolate(model(x), label.shape, mode="bilinear").float()
        for truth, guess in zip(label.flatten().tolist(), logits[0].argmax(0).flatten().tolist(), strict=True):
            if truth != 255:
                counts[truth, guess] += 1
    model.float()
    return counts


@pytest.mark.parametrize("batch_size", [1, 3])
def test_equals_a_plain_loop_over_images_of_varied_size(batch_size):
    scenes, model = Scenes((6, 8), (6, 8), (5, 7), (5, 7), (6, 8)), Network()
    result = evaluate(model, scenes, batch_size=batch_size)
    assert torch.equal(result.confusion, reference(model, scenes))
    assert (result.images, result.classes, result.protocol) == (5, Scenes.classes, "full")


def test_only_items_of_one_size_share_a_batch():
    model = Network()
    evaluate(model, Scenes((6, 8), (6, 8), (6, 8), (5, 7), (6, 8)), batch_size=2)
    assert model.batches == [(2, 3, 6, 8), (1, 3, 6, 8), (1, 3, 5, 7), (1, 3, 6, 8)]


def test_batches_are_parts_of_chunks_that_are_the_same_wherever_sizes_change():
    model = Network()
    evaluate(model, Scenes((5, 7), (6, 8), (6, 8), (6, 8), (6, 8)), batch_size=2)
    assert model.batches == [(1, 3, 5, 7), (1, 3, 6, 8), (2, 3, 6, 8), (1, 3, 6, 8)]


def test_network_sees_the_input_size_and_pixels_are_counted_at_the_labels_size():
    scenes, model = Scenes((12, 16)), Network()
    result = evaluate(model, scenes, protocol=dataclasses.replace(PROTOCOLS["full"], input_size=(6, 8)))
    assert model.batches == [(1, 3, 6, 8)]
    assert torch.equal(result.confusion, reference(model, scenes, (6, 8)))


def test_epsilon_protocol_counts_an_absent_class_as_zero():
    scenes = Scenes((4, 4))
    scenes.items[0][1].zero_()

    def predict(x):
        return F.one_hot(torch.zeros(len(x), *x.shape[-2:], dtype=torch.int64), 3).movedim(-1, 1).float()

    present = evaluate(Network(), scenes, predict=predict)
    everyone = evaluate(
        Network(), scenes, protocol=dataclasses.replace(PROTOCOLS["full"], epsilon=1e-5), predict=predict
    )
    assert present.miou == 1.0
    assert everyone.miou == pytest.approx(1 / 3, abs=1e-6)


def test_every_module_returns_to_its_own_mode_even_after_an_error():
    model = Network().train()
    model.norm.eval()
    with pytest.raises(RuntimeError), inference(model):
        assert not model.training
        assert not torch.is_grad_enabled()
        raise RuntimeError
    assert (model.training, model.conv.training, model.norm.training) == (True, True, False)


def test_evaluation_leaves_batch_statistics_alone():
    model = Network().train()
    before = model.norm.running_mean.clone()
    evaluate(model, Scenes((6, 8)))
    assert torch.equal(model.norm.running_mean, before)
    assert model.training


def test_limit_and_progress():
    calls = []
    result = evaluate(Network(), Scenes(*[(4, 4)] * 5), limit=3, batch_size=2, progress=lambda *a: calls.append(a))
    assert result.images == 3
    assert calls == [(2, 3), (3, 3)]


def test_class_count_that_differs_is_an_error():
    with pytest.raises(DataError, match="the network gives 4 classes, the data set has 3"):
        evaluate(Network(4), Scenes((4, 4)))


class Items(Scenes):
    """Any items."""

    def __init__(self, *items):
        self.items = list(items)


IMAGE, LABEL = torch.zeros(3, 4, 6, dtype=torch.uint8), torch.zeros(4, 6, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ((IMAGE, LABEL[None]), r"item 0: expected a label uint8 \(4, 6\), as its image, found torch.uint8 \(1, 4, 6\)"),
        ((IMAGE, LABEL.expand(3, 4, 6)), r"found torch.uint8 \(3, 4, 6\)"),
        ((IMAGE, LABEL.T), r"found torch.uint8 \(6, 4\)"),
        ((IMAGE, LABEL.long() - 1), r"found torch.int64 \(4, 6\) of -1..-1. Train ids are 0..2, 255 = ignored"),
        ((IMAGE.float() / 255, LABEL), r"expected an image uint8 \(3, H, W\), found torch.float32 \(3, 4, 6\)"),
        ((IMAGE.numpy(), LABEL), r"found a NumPy array uint8 \(3, 4, 6\). Return torch.from_numpy\(array\)"),
        ((IMAGE, LABEL + 7), r"expected train ids in 0..2 or 255, found 7"),
    ],
)
@pytest.mark.parametrize("batch_size", [1, 2])
def test_an_item_of_another_form_is_refused_and_never_scored(item, message, batch_size):
    with pytest.raises(DataError, match=message):
        evaluate(Network(), Items(item, item), batch_size=batch_size)
    engine = Engine(wrap_model(Network(), 3), [], device="cpu")
    with pytest.raises(DataError, match=message):
        engine.evaluate(Items(item, item), batch_size=batch_size)


@pytest.mark.parametrize("unlabelled", [IMAGE, (IMAGE, None), (IMAGE, LABEL + 255), (IMAGE, None, {})])
def test_without_labels_there_is_no_miou_but_label_free_measures(unlabelled):
    result = evaluate(Network(), Items(unlabelled, unlabelled))
    assert result.miou is None and result.to_dict()["miou"] is None and result.images == 2
    assert result.label_free.images == 2 and 0 < result.label_free.entropy <= 1
    assert result.label_free.agreement is None and "agreement" not in result.to_dict()["label_free"]
    assert result.table().title == "no labels, so no mIoU: protocol full, 2 images"


def test_images_without_labels_among_others_change_no_score_and_are_told():
    scenes = Scenes((6, 8), (6, 8))
    alone = evaluate(Network(), scenes, batch_size=4)
    scenes.items.insert(1, IMAGE)
    mixed = evaluate(Network(), scenes, batch_size=4)
    assert torch.equal(alone.confusion, mixed.confusion) and (mixed.images, mixed.label_free.images) == (3, 1)
    assert mixed.table().title == "protocol full, 3 images, 1 of them without labels"


def test_classes_in_another_order_are_no_score():
    with pytest.raises(DataError, match="the network has 3 classes and the data set has 3; they differ in their order"):
        evaluate(Network(), Scenes((4, 4)), names=("sky", "road", "car"))


def test_empty_data_set_is_an_error():
    with pytest.raises(DataError, match="empty"):
        evaluate(Network(), Scenes())


class Elsewhere(Scenes):
    """Images that refuse to be read where the network runs."""

    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.process = os.getpid()

    def __getitem__(self, index):
        assert get_worker_info() is not None and os.getpid() != self.process
        return super().__getitem__(index)


@pytest.mark.parametrize(("workers", "batch_size"), [(1, 1), (2, 1), (2, 2), (9, 4)])
def test_worker_processes_read_all_images_and_change_nothing(workers, batch_size):
    sizes = [(6, 8)] * 5 + [(5, 7)] * 4
    model, calls = Network(), []
    here, there = Scenes(*sizes), Elsewhere(*sizes)
    for scenes in (here, there):
        scenes.items[2] = IMAGE
        scenes.items[7] = (IMAGE, LABEL + 255)
    options = {"batch_size": batch_size, "limit": 8}
    expected, order = evaluate(model, here, **options), model.batches
    model.batches = []
    random = torch.get_rng_state()
    result = evaluate(model, there, workers=workers, progress=lambda *done: calls.append(done), **options)
    assert torch.equal(result.confusion, expected.confusion) and model.batches == order
    assert result.to_dict() == expected.to_dict() and result.label_free.images == 2
    assert calls == [(min(done + batch_size, 8), 8) for done in range(0, 8, batch_size)]
    assert torch.equal(torch.get_rng_state(), random)
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_item_is_one_message_whoever_reads_it(workers):
    scenes = Scenes(*[(4, 6)] * 6)
    scenes.items[3] = (IMAGE, LABEL + 7)
    with pytest.raises(DataError) as caught:
        evaluate(Network(), scenes, batch_size=2, workers=workers)
    assert str(caught.value) == "item 3: expected train ids in 0..2 or 255, found 7."
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("workers", [0, 2])
def test_a_data_set_that_fails_is_told_by_the_item_with_its_traceback(workers):
    with pytest.raises(ItemError) as caught:
        evaluate(Network(19), FaultyData("code"), workers=workers)
    assert "street_4.png of the eval data could not be loaded: KeyError: 'oops'" in str(caught.value)
    assert isinstance(caught.value.__cause__, KeyError) or 'raise KeyError("oops")' in str(caught.value)
    assert multiprocessing.active_children() == []


def test_a_worker_that_is_killed_is_told_and_the_others_end():
    engine = Engine(wrap_model(Network(19), 19), [Supervised()], device="cpu")
    with pytest.raises(DataError) as caught:
        engine.fit(FaultyData(), steps=1, batch_size=1, workers=2, eval=FaultyData("death"))
    assert re.sub(r"pid \d+", "pid 1", str(caught.value)) == (
        "a worker process that loads the eval data (pid 1) was ended by SIGKILL. Is the system short of memory? "
        "Lower data.workers or evaluate.batch_size."
    )
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_images_that_may_be_skipped_are_counted_here_whoever_reads_them(workers):
    spoilt, whole = Items(*[IMAGE] * 6), Items(*[IMAGE] * 6)
    spoilt.items[1] = spoilt.items[4] = torch.zeros(3)
    told = []
    items = BadItems(2, told.append)
    result = evaluate(Network(), Readable(spoilt, "target", items), batch_size=4, workers=workers)
    assert result.to_dict() == evaluate(Network(), whole, batch_size=4).to_dict()
    assert list(items.messages) == ["target item 1", "target item 4"] and told == list(items.messages.values())
    with pytest.raises(DataError, match="one more than the 1 unreadable items that"):
        evaluate(Network(), Readable(spoilt, "target", BadItems(1)), workers=workers)
