"""Classes of data sets, engine and checkpoint, in Python; each mistake is one message before the first step."""

import pytest
import torch
from torch.utils.data import ConcatDataset, Subset

from dalib import DalibError, Engine
from dalib.data.dataset import own_classes
from dalib.errors import CheckpointError, DataError
from tests.tiny import Entropy, Supervised, TinyData, tiny_model

NAMES = ("a", "b", "c", "d", "e")


class Named(TinyData):
    def __init__(self, *classes, **options):
        super().__init__(num_classes=len(classes), **options)
        self.classes = classes


class Alone(TinyData):
    def __getitem__(self, index):
        return super().__getitem__(index)[0]


def make_engine(**options):
    return Engine(tiny_model(), [Supervised(), Entropy()], device="cpu", **options)


def test_data_of_another_number_of_classes_is_refused_before_the_first_step():
    engine = make_engine()
    with pytest.raises(DataError, match=r"the source data set has 6 classes \(0, 1, 2 ...\) and the network 5; create"):
        engine.fit(Named(*"012345"), TinyData(), steps=1, batch_size=2)
    with pytest.raises(DataError, match="the eval data set has 4 classes"):
        engine.fit(Named(*NAMES), TinyData(), steps=1, batch_size=2, eval=Named(*"0123"))
    with pytest.raises(DataError, match="the source data set has 6 classes"):
        next(engine.iterate(Subset(Named(*"012345"), range(4)), TinyData(), steps=1, batch_size=2))
    assert engine.index == 0


def test_classes_in_another_order_are_refused_before_the_first_step_and_in_an_evaluation():
    engine, other = make_engine(), Named(*reversed(NAMES))
    for few, held_out in (({"few": other}, None), ({}, Subset(other, [0]))):
        with pytest.raises(DataError, match="they differ in their order"):
            engine.fit(Named(*NAMES), TinyData(), steps=1, batch_size=2, streams=few, eval=held_out)
    assert engine.index == 0
    engine.fit(Subset(Named(*NAMES), range(4)), TinyData(), steps=1, batch_size=2)
    assert engine.classes == NAMES
    assert engine.evaluate(ConcatDataset([Named(*NAMES)])).classes == NAMES
    with pytest.raises(DataError, match="the network has 5 classes and the data set has 5; they differ in their order"):
        engine.evaluate(other)


def test_classes_given_to_the_engine_are_those_of_its_data():
    with pytest.raises(DataError, match="they differ in their order"):
        make_engine(classes=NAMES).fit(Named(*reversed(NAMES)), TinyData(), steps=1, batch_size=2)


def test_the_targets_own_classes_count_nowhere():
    make_engine(classes=NAMES).fit(Named(*NAMES), Named("x", "y"), steps=1, batch_size=2)


def test_a_checkpoint_knows_its_classes(tmp_path):
    engine = make_engine()
    engine.fit(Named(*NAMES), TinyData(), steps=1, batch_size=2)
    engine.save(tmp_path / "a.pt")
    other = make_engine(classes=tuple(reversed(NAMES)))
    with pytest.raises(
        CheckpointError, match="the checkpoint's classes are a, b, c, d, e; the data's are e, d, c, b, a"
    ):
        other.load(tmp_path / "a.pt")
    fresh = make_engine()
    fresh.load(tmp_path / "a.pt")
    with pytest.raises(DalibError, match="they differ in their order"):
        fresh.fit(Named(*reversed(NAMES)), TinyData(), steps=2, batch_size=2)


def test_images_alone_are_a_target_and_are_evaluated_without_labels():
    engine = make_engine(classes=NAMES)
    result = engine.fit(Named(*NAMES), Alone(), steps=1, batch_size=2, eval=Alone())
    assert result.miou is None and result.classes == NAMES and result.label_free.images == 10
    assert torch.equal(result.confusion, torch.zeros(5, 5, dtype=torch.int64))


@pytest.mark.parametrize("scored", ["source", "few", "others"])
def test_scoring_on_images_that_are_trained_on_is_said(scored, caplog):
    data = {name: TinyData(seed=seed) for seed, name in enumerate(("source", "few", "others"))}
    engine = Engine(tiny_model(), [Supervised()], device="cpu")
    engine.fit(data["source"], streams={"few": data["few"]}, steps=1, batch_size=2, eval=data[scored])
    assert ("are trained on, too" in caplog.text) == (scored != "others")


def test_a_class_without_a_pixel_is_said_before_the_first_step(caplog):
    source = Named(*NAMES)
    source.labels.clamp_(max=3)
    make_engine().fit(source, TinyData(), steps=1, batch_size=2)
    assert caplog.messages == ["the source, 10 of 10 images looked at: classes without a pixel: e."]


def test_classes_are_found_through_a_wrapper_of_ones_own():
    class Wrapped:
        def __init__(self, dataset):
            self.dataset = dataset

        def __len__(self):
            return len(self.dataset)

        def __getitem__(self, index):
            return self.dataset[index]

    data = TinyData()
    data.classes = ("a", "b", "c", "d", "e")
    assert own_classes(Wrapped(Subset(Wrapped(data), [0, 1]))) == data.classes
    assert own_classes(Wrapped(TinyData())) is None
