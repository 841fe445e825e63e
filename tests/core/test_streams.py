"""An engine trains on the streams that it is given: few or many, of any name, with further maps, drawn by a sampler."""

import pytest
import torch

from dalib import Engine, Strategy, hookimpl
from dalib.data import label_counts
from dalib.data.bad_items import BadItems
from dalib.errors import DataError, StackError
from tests.tiny import Entropy, Supervised, TinyData, tiny_model


class Sees(Strategy):
    """Keeps the batches that arrive."""

    @hookimpl
    def setup(self, ctx):
        self.batches = []

    @hookimpl
    def pre_batch(self, step):
        self.batches.append(step.batch)


def trained(*strategies, steps=1, source=None, target=None, bad_items=None, **options):
    """Return the engine after ``steps``, and the batches that arrived."""
    sees = Sees()
    engine = Engine(tiny_model(), [sees, *strategies], device="cpu")
    for _ in engine.iterate(source, target, steps=steps, batch_size=4, bad_items=bad_items, **options):
        pass
    return engine, sees.batches


def loss_on(stream, *fields):
    """Return a strategy with the segmentation loss on a stream, which requires these ``fields``, too."""

    class On(Strategy):
        requires = frozenset({f"{stream}.image", *fields})

        @hookimpl
        def loss(self, step):
            return {"loss": step.segmentation_loss(stream)}

    return On(name=stream)


def test_a_stream_of_ones_own_is_loaded_with_its_labels_in_an_order_of_its_own():
    few = TinyData(5, seed=3)
    sees, both = Sees(), [Supervised(), loss_on("few", "few.label", "few.index")]
    engine = Engine(tiny_model(), [sees, *both], device="cpu")
    engine.fit(TinyData(), TinyData(seed=1), streams={"few": few}, steps=2, batch_size=4)
    batch = sees.batches[0]
    assert list(batch) == ["source", "target", "few"]
    index = batch["few"].index.tolist()
    assert torch.equal(batch["few"].label, few.labels[index].long()) and index != batch["source"].index.tolist()
    assert batch["target"].label is None


def test_a_further_stream_moves_no_other_streams_draws():
    _, alone = trained(Supervised(), steps=3, source=TinyData(), target=TinyData(7))
    _, more = trained(Supervised(), steps=3, source=TinyData(), target=TinyData(7), streams={"few": TinyData(4)})
    for one, other in zip(alone, more, strict=True):
        for stream in ("source", "target"):
            assert torch.equal(one[stream].index, other[stream].index)
            assert torch.equal(one[stream].image, other[stream].image)


def test_without_a_source_a_stack_trains_on_the_target_alone():
    engine, batches = trained(Entropy(), target=TinyData(), steps=2)
    assert engine.index == 2 and list(batches[0]) == ["target"]
    with pytest.raises(StackError, match=r"'supervised' needs source.image. There is no source data; name it under"):
        trained(Supervised(), target=TinyData())


def test_a_loss_on_labels_that_no_image_has_is_refused_before_the_first_step():
    class Pictures(TinyData):
        def __getitem__(self, index):
            return self.images[index]

    with pytest.raises(StackError, match=r"'supervised' needs source.label. No image of the source data that was"):
        trained(Supervised(), source=Pictures())


class Depths(TinyData):
    def __getitem__(self, index):
        image, label = super().__getitem__(index)
        return image, label, {"depth": image[0] / 255}


def test_a_further_map_is_declared_and_read_like_any_field():
    reads = loss_on("source", "source.label", "source.depth")
    _, batches = trained(reads, source=Depths())
    source = batches[0]["source"]
    assert torch.equal(source.extra["depth"], source.image[:, 0])
    with pytest.raises(
        StackError, match=r"'source' needs source.depth. Nothing provides it; the stack has source.image"
    ):
        trained(reads, source=TinyData())


def sampling(make):
    """Return a strategy whose sampler is ``make(stream, dataset)``."""
    return type("Rare", (Strategy,), {"sampler": hookimpl(lambda self, stream, dataset: make(stream, dataset))})()


@pytest.mark.parametrize("found", [None, 10, -1, 1.5])
def test_a_draw_that_is_no_index_names_strategy_stream_and_position(found):
    rare = sampling(lambda stream, _: (lambda p: found if p == 5 else p) if stream == "target" else None)
    with pytest.raises(StackError) as caught:
        trained(rare, steps=2, source=TinyData(), target=TinyData(10))
    assert str(caught.value) == (
        f"expected an index in 0..9 for position 5 of the stream 'target', found {found!r}. "
        "It was raised by strategy 'rare' in its hook 'sampler'."
    )


def test_a_sampler_of_the_target_gets_its_images_without_labels():
    def looks(stream, dataset):
        seen[stream] = dataset[2][1]
        return None

    seen = {}
    trained(sampling(looks), source=TinyData(), target=TinyData())
    assert torch.equal(seen["source"], TinyData().labels[2]) and seen["target"] is None
    with pytest.raises(
        StackError, match=r"labels of the target never reach .* by strategy 'rare' in its hook 'sampler'"
    ):
        trained(sampling(lambda _, dataset: label_counts(dataset)), target=TinyData())


class Torn(TinyData):
    def __getitem__(self, index):
        if index == 3:
            raise DataError("3.png is damaged.")
        return super().__getitem__(index)


def test_a_sampler_by_classes_draws_no_item_that_the_run_skips():
    def by_counts(stream, dataset):
        usable = label_counts(dataset).sum(1).nonzero().flatten().tolist()
        return lambda position: usable[position % len(usable)]

    items = BadItems(1)
    _, batches = trained(sampling(by_counts), steps=3, source=Torn(), bad_items=items)
    assert items.messages == {"source item 3": "3.png is damaged."}
    assert [i for batch in batches for i in batch["source"].index.tolist()] == [0, 1, 2, 4, 5, 6, 7, 8, 9, 0, 1, 2]
    with pytest.raises(DataError, match=r"^3.png is damaged. It was raised by strategy 'rare' in its hook 'sampler'.$"):
        trained(sampling(by_counts), source=Torn())
