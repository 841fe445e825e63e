"""Which images a step gets depends on the seed and the step alone; a target stream never carries labels."""

from itertools import pairwise

import pytest
import torch

from dalib.data.bad_items import BadItems
from dalib.data.draws import shuffled
from dalib.data.joined import Joined
from dalib.data.loader import StreamLoader, first_look
from dalib.errors import DataError
from tests.tiny import TinyData

CPU = torch.device("cpu")


def loader(*, batch_size=4, accumulate=1, seed=0, workers=0, draws=None, **datasets):
    datasets = datasets or {"source": TinyData(10), "target": TinyData(7, seed=1)}
    return StreamLoader(datasets, draws or {}, batch_size, accumulate, seed, workers)


def indices(loader, start, stop, stream="source"):
    with loader.batches(start, stop, CPU) as batches:
        return [[i for batch in micro for i in batch[stream].index.tolist()] for micro in batches]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_step_gets_the_same_images_wherever_the_run_began(workers):
    whole = indices(loader(workers=workers), 0, 6)
    assert indices(loader(workers=0), 2, 6) == whole[2:]
    assert indices(loader(workers=workers), 4, 5) == whole[4:5]


def test_the_global_generator_neither_decides_nor_moves():
    torch.manual_seed(1)
    first = indices(loader(), 0, 3)
    state = torch.get_rng_state()
    torch.manual_seed(2)
    assert indices(loader(), 0, 3) == first
    torch.manual_seed(1)
    indices(loader(), 0, 3)
    assert torch.equal(torch.get_rng_state(), state)


def test_every_image_comes_once_an_epoch_in_an_order_of_its_own():
    drawn = [i for step in indices(loader(batch_size=5), 0, 6) for i in step]
    epochs = [drawn[i : i + 10] for i in range(0, 30, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert all(a != b for a, b in pairwise(epochs))


def test_seeds_and_streams_have_orders_of_their_own():
    datasets = {"source": TinyData(10), "target": TinyData(10)}
    orders = [indices(loader(seed=seed, **datasets), 0, 5, s) for seed in (0, 1) for s in ("source", "target")]
    assert len({str(order) for order in orders}) == 4


def test_micro_batches_split_a_step_without_changing_its_images():
    whole, halves = loader(batch_size=4), loader(batch_size=4, accumulate=2)
    assert indices(whole, 0, 5) == indices(halves, 0, 5)
    with halves.batches(0, 1, CPU) as batches:
        assert [len(batch["source"].image) for batch in next(batches)] == [2, 2]


def test_the_ranks_parts_of_each_micro_batch_are_the_images_of_one_process(monkeypatch):
    whole = indices(loader(batch_size=8, accumulate=2), 0, 5)
    monkeypatch.setattr("dalib.ranks.world", lambda: 2)
    parts = []
    for rank in range(2):
        monkeypatch.setattr("dalib.ranks.rank", lambda rank=rank: rank)
        parts.append(indices(loader(batch_size=8, accumulate=2), 3, 5))
    for step, first, second in zip(whole[3:], *parts, strict=True):
        assert step == first[:2] + second[:2] + first[2:] + second[2:]
    with pytest.raises(DataError, match=r"batch_size 6 does not divide into 2 micro-batches .* on 2 ranks"):
        loader(batch_size=6, accumulate=2)


def test_images_arrive_as_floats_in_0_to_1_with_their_labels_and_the_targets_without():
    data = TinyData(10)
    with loader(source=data, target=data).batches(0, 1, CPU) as batches:
        (batch,) = next(batches)
    source, target = batch["source"], batch["target"]
    index = source.index.tolist()
    assert torch.equal(source.image, data.images[index].float() / 255) and source.image.dtype == torch.float32
    assert torch.equal(source.label, data.labels[index].long()) and source.label.dtype == torch.int64
    assert target.label is None and target.weight is None


def test_a_strategys_draw_takes_the_place_of_the_shuffle():
    assert indices(loader(draws={"source": lambda position: position % 3}), 0, 2) == [[0, 1, 2, 0], [1, 2, 0, 1]]


def test_a_draw_is_a_pure_function_of_the_position():
    forwards, backwards = shuffled(5, 0, "order"), shuffled(5, 0, "order")
    there = [forwards(p) for p in range(40)]
    assert [backwards(p) for p in reversed(range(40))] == there[::-1]


def test_a_batch_that_does_not_divide_and_an_empty_set_are_refused():
    with pytest.raises(DataError, match=r"batch_size 4 does not divide into 3 micro-batches \(train.accumulate\)"):
        loader(accumulate=3)
    with pytest.raises(DataError, match="the target data set is empty; check its root, split and lists"):
        loader(source=TinyData(), target=TinyData(0))


def test_images_of_different_size_are_refused_by_name():
    class Mixed(TinyData):
        def __getitem__(self, index):
            image, label = super().__getitem__(index)
            return (image, label) if index else (image[:, :8], label[:8])

        def item_name(self, index):
            return f"street_{index}.png"

    with (
        pytest.raises(DataError, match=r"source images differ in size: .*street_0.png is 8x16.*source.size: \[H, W\]"),
        loader(source=Mixed(4), draws={"source": lambda p: p}).batches(0, 1, CPU) as batches,
    ):
        next(batches)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_item_is_one_message_whoever_loads_it(workers):
    class Broken(TinyData):
        def __getitem__(self, index):
            raise DataError(f"image {index % 1}.png is damaged.")

    loader = StreamLoader({"source": Broken()}, {}, 2, 1, 0, workers)
    with pytest.raises(DataError) as caught, loader.batches(0, 1, torch.device("cpu")) as batches:
        next(batches)
    assert str(caught.value) == "image 0.png is damaged."


class Holes(TinyData):
    """Some of its items cannot be read."""

    def __init__(self, *bad, length=10):
        super().__init__(length)
        self.bad = bad

    def __getitem__(self, index):
        if index in self.bad:
            raise DataError(f"{index}.png is damaged.")
        return super().__getitem__(index)

    def item_name(self, index):
        return f"{index}.png"


def skipping(*bad, limit=3, workers=0, told=None, **options):
    items = BadItems(limit, tell=(told if told is not None else []).append)
    return items, StreamLoader({"source": Holes(*bad, **options)}, {}, 5, 1, 0, workers, items)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_next_readable_item_takes_a_bad_ones_place_wherever_the_run_began(workers):
    told = []
    items, skips = skipping(2, 3, 9, workers=workers, told=told)
    found = indices(skips, 0, 6)
    expected = [
        [{2: 4, 3: 4, 9: 0}.get(i, i) for i in step]
        for step in indices(loader(source=TinyData(10), batch_size=5), 0, 6)
    ]
    assert found == expected
    assert indices(skipping(2, 3, 9)[1], 3, 6) == expected[3:]
    assert items.messages == {f"source {i}.png": f"{i}.png is damaged." for i in (2, 3, 9)}
    assert sorted(told) == ["2.png is damaged.", "3.png is damaged.", "9.png is damaged."]  # once, in three epochs


def test_more_bad_items_than_allowed_end_the_run_and_the_last_is_named():
    items, skips = skipping(1, 2, 5, 8)
    with pytest.raises(DataError, match=r"\d.png is damaged. It is one more than the 3 unreadable items that data.max"):
        indices(skips, 0, 2)
    assert len(items.messages) == 3


def test_a_set_without_a_readable_item_is_an_error_however_many_are_allowed():
    _, skips = skipping(0, 1, limit=9, length=2)
    with pytest.raises(DataError, match="none of the 2 images of the source can be read; see `dalib doctor`"):
        indices(skips, 0, 1)


def test_the_first_readable_image_tells_the_size_and_what_belongs_to_it():
    items = BadItems(2)
    assert first_look(Holes(0, 1), "source", items).size == (12, 16)
    assert list(items.messages) == ["source 0.png", "source 1.png"]
    with pytest.raises(DataError, match=r"^0.png is damaged.$"):
        first_look(Holes(0), "source", BadItems())
    maps = Given(with_depth)
    assert list(first_look(maps, "few", items).fields()) == ["image", "label", "index", "depth"]
    assert list(first_look(maps, "target", items).fields()) == ["image", "index", "depth"]
    assert list(first_look(Given(lambda image, label: image), "source", items).fields()) == ["image", "index"]


def test_joined_sets_of_different_size_are_refused_before_the_first_batch():
    joined = Joined({"a": TinyData(3), "none": TinyData(0), "b": TinyData(3, size=(8, 8))})
    with pytest.raises(DataError, match=r"item 0 is 12x16, item 0 is 8x8 \(H x W\). Set data.streams.few.size: "):
        first_look(joined, "few", BadItems())
    assert first_look(Joined({"a": TinyData(3), "b": TinyData(3)}), "source", BadItems()).size == (12, 16)


def test_items_that_break_the_protocol_are_bad_items():
    class Classes(TinyData):
        classes = ("a", "b", "c")

    with pytest.raises(DataError, match=r"^item \d: expected train ids in 0..2 or 255, found 4.$"):
        indices(loader(source=Classes(10)), 0, 1)


class Given(TinyData):
    """The first items of TinyData in forms of one's own: ``forms`` map image and label to an item."""

    def __init__(self, *forms):
        super().__init__(len(forms))
        self.forms = forms

    def __getitem__(self, index):
        return self.forms[index](*super().__getitem__(index))


def arrived(*forms, stream="source"):
    """Return the stream of one batch of all the items, in order."""
    items = loader(batch_size=len(forms), draws={stream: lambda p: p}, **{stream: Given(*forms)})
    with items.batches(0, 1, CPU) as batches:
        return next(batches)[0][stream]


def pair(image, label):
    return image, label


def with_depth(image, label):
    return image, label, {"depth": image[0] / 255}


def test_images_without_labels_are_ignored_among_others_that_have_some():
    data = TinyData(4)
    label = arrived(
        pair,
        lambda image, label: (image, None),
        lambda image, label: image,
        lambda image, label: (image, torch.full_like(label, 255)),
    ).label
    assert torch.equal(label[0], data.labels[0].long()) and (label[1:] == 255).all()


@pytest.mark.parametrize(
    "form", [lambda i, _: i, lambda i, _: (i, None), lambda i, label: (i, torch.full_like(label, 255))]
)
def test_a_stream_without_any_label_has_none(form):
    assert arrived(form, form).label is None


def test_a_stream_of_another_name_keeps_its_labels_and_the_target_loses_them():
    assert torch.equal(arrived(pair, stream="few").label, TinyData(1).labels.long())
    assert arrived(pair, stream="target").label is None


@pytest.mark.parametrize("workers", [0, 1])
def test_further_maps_arrive_as_they_are(workers):
    items = StreamLoader({"target": Given(with_depth, with_depth)}, {"target": lambda p: p}, 2, 1, 0, workers)
    with items.batches(0, 1, CPU) as batches:
        stream = next(batches)[0]["target"]
    assert torch.equal(stream.extra["depth"], TinyData(2).images[:, 0] / 255) and stream.label is None


def test_items_with_other_maps_than_their_neighbours_are_named():
    with pytest.raises(DataError) as caught:
        arrived(with_depth, pair)
    assert str(caught.value) == (
        "the source images differ in their further maps: item 0 has depth (torch.float32), item 1 has none. Give each "
        "image the same ones."
    )


def test_one_of_several_joined_data_sets_without_a_labelled_pixel_is_named():
    class Ignored(TinyData):
        def __getitem__(self, index):
            return self.images[index], torch.full_like(self.labels[index], 255)

    joined = Joined({"data.source[0]": TinyData(), "data.source[1]": Ignored()})
    for look in (lambda: loader(source=joined), lambda: first_look(joined, "source", BadItems())):
        with pytest.raises(
            DataError, match=r"^data.source\[1\]: none of its images that were looked at has a labelled"
        ):
            look()
    assert loader(target=joined)
