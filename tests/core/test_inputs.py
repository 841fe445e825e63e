"""What a step is given, and what strategies write, is what a network is trained on: else the step is refused."""

import numpy as np
import pytest
import torch

from dalib import Batch, DalibError, Engine, Strategy, Stream, create_strategy, hookimpl
from dalib.core.guard import Guard, NonFiniteError
from dalib.core.inputs import Inputs
from dalib.errors import CheckpointError, DataError, StackError
from tests.tiny import Supervised, tiny_batch, tiny_model
from tests.waits import refusing_waits

IMAGE = torch.linspace(0, 1, 2 * 3 * 12 * 16).view(2, 3, 12, 16)
LABEL = torch.zeros(2, 12, 16, dtype=torch.int64)


def engine_of(*strategies, **options):
    return Engine(tiny_model(), [*strategies, Supervised()], device="cpu", **options)


def weights_of(engine):
    return [value.clone() for value in engine.model.state_dict().values()]


def unchanged(engine, before):
    return all(torch.equal(mine, theirs) for mine, theirs in zip(weights_of(engine), before, strict=True))


@pytest.fixture(params=["host", "device"])
def route(request, monkeypatch):
    """Whether the host reads a verdict before the update, as on a CPU, or after the step."""
    if request.param == "device":
        monkeypatch.setattr(Guard, "reads_at_once", False)


class Writes(Strategy):
    """Writes a source of its own making."""

    requires = frozenset({"source.image", "source.label"})
    writes = frozenset({"source.image", "source.label"})
    field: str = "image"

    make = staticmethod(lambda values: values)

    @hookimpl
    def pre_batch(self, step):
        values = getattr(step.batch["source"], self.field)
        step.batch.write("source", **{self.field: self.make(values)})


class Weighs(Writes):
    """Writes a weight of its own making."""

    writes = frozenset({"source.weight"})

    @hookimpl
    def pre_batch(self, step):
        step.batch.write("source", weight=self.make(step.batch["source"].image[:, 0]))


def writing(make, field="image"):
    return type("Writes", (Writes,), {"make": staticmethod(make)})(field=field)


# ------------------------------------------------------------------------------------------------ types and shapes

FORMS = {
    "bytes": (Stream((IMAGE * 255).byte(), LABEL), r"found uint8 \(2, 3, 12, 16\). Give image.float\(\) / 255."),
    "doubles": (Stream(IMAGE.double(), LABEL), r"found float64"),
    "numpy": (Stream(IMAGE.numpy(), LABEL), "expected an image float32 .* found numpy.ndarray"),
    "nothing": (Stream(None, LABEL), "found None"),
    "one image": (Stream(IMAGE[0], LABEL), r"expected an image float32 \(B, 3, H, W\) in \[0, 1\], found float32 \(3,"),
    "grey": (Stream(IMAGE[:, :1], LABEL), r"found float32 \(2, 1, 12, 16\)"),
    "no image": (Stream(IMAGE[:0], LABEL[:0]), r"found float32 \(0, 3, 12, 16\)"),
    "int32 label": (Stream(IMAGE, LABEL.int()), r"expected the label as int64 \(2, 12, 16\).* found int32"),
    "byte label": (Stream(IMAGE, LABEL.byte()), "found uint8"),
    "float label": (Stream(IMAGE, LABEL.float()), "found float32"),
    "label with channel": (Stream(IMAGE, LABEL[:, None]), r"found int64 \(2, 1, 12, 16\)"),
    "smaller label": (Stream(IMAGE, LABEL[..., ::2]), r"found int64 \(2, 12, 8\)"),
    "one label": (Stream(IMAGE, LABEL[:1]), r"found int64 \(1, 12, 16\)"),
    "numpy label": (Stream(IMAGE, LABEL.numpy()), "found numpy.ndarray"),
    "whole weight": (Stream(IMAGE, LABEL, LABEL), r"expected the weight as float \(2, 12, 16\).* found int64"),
    "weight by image": (Stream(IMAGE, LABEL, torch.ones(2)), r"found float32 \(2,\)"),
    "index": (Stream(IMAGE, LABEL, index=torch.arange(3)), r"expected the index as \(2,\).* found int64 \(3,\)"),
    "map": (
        Stream(IMAGE, LABEL, extra={"depth": IMAGE}),
        r"expected the depth as \(2, 12, 16\).* found float32 \(2, 3",
    ),
    "pair": ((IMAGE, LABEL), "expected a Stream, found builtins.tuple"),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_wrong_type_or_shape_is_one_message_before_anything_moves(form):
    stream, said = FORMS[form]
    engine = engine_of()
    before = weights_of(engine)
    with pytest.raises(DataError, match=f"the batch's stream 'source': .*{said}"):
        engine.step(Batch({"source": stream}))
    assert unchanged(engine, before) and engine.index == 0


@pytest.mark.parametrize("given", [(), ({"source": Stream(IMAGE, LABEL)},), (Batch({}),), (IMAGE,)])
def test_what_is_no_batch_is_refused_by_its_type(given):
    with pytest.raises(DataError, match=r'a step takes batches, Batch\(\{"source": Stream\(image, label\)'):
        engine_of().step(*given)


@pytest.mark.parametrize("make", [lambda x: (x * 255).byte(), lambda x: x[:, :1], lambda x: x[:1], lambda x: x.numpy()])
def test_a_strategy_that_writes_a_wrong_type_or_shape_is_named(make):
    with pytest.raises(StackError, match="strategy 'writes' wrote the stream 'source' wrongly: expected "):
        engine_of(writing(make)).step(tiny_batch())


def test_images_and_labels_of_other_numbers_are_told_with_both_strategies_that_wrote_them():
    both = type("Crops", (Writes,), {"make": staticmethod(lambda x: x[:1])})
    stack = [both(name="a", field="image"), both(name="b", field="label")]
    engine_of(*stack).step(tiny_batch())
    stack[1].make = lambda x: x
    with pytest.raises(StackError, match="one of the strategies a, b wrote the stream 'source' wrongly"):
        engine_of(*stack).step(tiny_batch())


@pytest.mark.parametrize(
    "images", [IMAGE, (IMAGE * 255).byte()[0], (IMAGE * 255).byte().numpy(), (IMAGE * 255).byte()[:, :1], None]
)
def test_predict_takes_bytes_alone(images):
    with pytest.raises(DataError, match=r"predict: expected images uint8 \(B, 3, H, W\), found "):
        engine_of().predict(images)


def test_predict_says_how_to_give_floats():
    with pytest.raises(DataError, match=r"found float32 .* \(images \* 255\).round\(\).to\(torch.uint8\)"):
        engine_of().predict(IMAGE)


# ------------------------------------------------------------------------------------------------------------ ranges

NORMALIZED = (IMAGE - 0.45) / 0.22
GIVEN = {
    "0..255": (
        Stream(IMAGE * 255, LABEL),
        r"source.image of the batch: .*in \[0, 1\]; found .*\. Divide 0..255 by 255\.",
    ),
    "normalised": (
        Stream(NORMALIZED, LABEL),
        r"source.image .* found -2.*normalises by itself; give images as they were",
    ),
    "a little": (Stream(IMAGE + 0.002, LABEL), r"source.image of the batch"),
    "infinite": (Stream(torch.full_like(IMAGE, torch.inf), LABEL), "found .*inf"),
    "a class too many": (Stream(IMAGE, LABEL + 5), r"source.label .*train ids in 0..4, or 255; found 5..5"),
    "negative": (Stream(IMAGE, LABEL - 1), r"source.label .* found -1..-1"),
    "negative weight": (
        Stream(IMAGE, LABEL, IMAGE[:, 0] - 0.5),
        r"source.weight of the batch: expected finite values of at least 0; found -0.5.*has the weight 0\.",
    ),
    "weight of NaN": (Stream(IMAGE, LABEL, IMAGE[:, 0] / IMAGE[:, 0]), r"source.weight of the batch: .*found NaN"),
    "infinite weight": (Stream(IMAGE, LABEL, 1 / IMAGE[:, 0]), r"source.weight of the batch: .*inf\."),
    "beyond a byte": (Stream(IMAGE, LABEL + 70_000), r"source.label .* found 70000..70000"),
}


@pytest.mark.parametrize("policy", ["stop", "skip"])
@pytest.mark.parametrize("case", GIVEN)
def test_a_batch_out_of_range_stops_the_run_with_what_was_found_and_changes_nothing(case, policy, route):
    stream, said = GIVEN[case]
    engine = engine_of(on_non_finite=policy)
    before = weights_of(engine)
    with pytest.raises(DataError, match=f"{said}.*Step 1 went bad and is undone"):
        engine.step(Batch({"source": stream}))
    assert unchanged(engine, before)


@pytest.mark.parametrize("policy", ["stop", "skip"])
def test_steps_after_one_out_of_range_change_nothing_until_the_host_looks(policy, monkeypatch):
    from dalib.core.guard import Verdict

    monkeypatch.setattr(Guard, "reads_at_once", False)
    monkeypatch.setattr(Verdict, "arrived", False)
    engine = engine_of(on_non_finite=policy)
    before = weights_of(engine)
    engine.step(Batch({"source": Stream(IMAGE * 255, LABEL)}))
    engine.step(tiny_batch())
    assert unchanged(engine, before)
    with pytest.raises(DataError, match="Step 1 went bad"):
        engine.guard.look(wait=True)
    with pytest.raises(CheckpointError, match="step 1 went bad, and counters have gone on since"):
        engine.state_dict()


WRITTEN = {
    "noise": (lambda x: x + 0.5, "image", "clamp what noise pushes out"),
    "bytes": (lambda x: x * 255, "image", r"give images / 255"),
    "normalised": (lambda x: (x - 0.45) / 0.22, "image", "A model normalises by itself"),
    "ids": (lambda x: torch.where(x == 255, x, x + 20), "label", r"0..24\. Map the stored ids"),
}


@pytest.mark.parametrize("case", WRITTEN)
def test_a_strategy_that_writes_out_of_range_is_named(case, route):
    make, field, said = WRITTEN[case]
    engine = engine_of(writing(make, field))
    before = weights_of(engine)
    with pytest.raises(StackError, match=rf"source.{field}, which strategy 'writes' wrote: .*; found .*{said}"):
        engine.step(tiny_batch())
    assert unchanged(engine, before)


@pytest.mark.parametrize("make", [lambda x: x - 1, lambda x: x * torch.nan, lambda x: x / 0])
def test_a_strategy_that_writes_weights_that_are_negative_or_no_numbers_is_named(make, route):
    weighs = type("Weighs", (Weighs,), {"make": staticmethod(make)})()
    engine = engine_of(weighs)
    before = weights_of(engine)
    with pytest.raises(StackError, match=r"source.weight, which strategy 'weighs' wrote: expected finite values"):
        engine.step(tiny_batch())
    assert unchanged(engine, before)


def test_weights_of_zero_and_above_one_are_no_fault():
    engine_of().step(Batch({"source": Stream(IMAGE, LABEL, IMAGE[:, 0] * 7)}))


def test_a_second_micro_batch_is_looked_at_too(route):
    engine = engine_of()
    before = weights_of(engine)
    with pytest.raises(DataError, match=r"source.image of the batch"):
        engine.step(tiny_batch(), Batch({"source": Stream(IMAGE * 255, LABEL)}))
    assert unchanged(engine, before)


@pytest.mark.parametrize("by", [-0.0009, 0.0009])
def test_what_rounding_adds_is_no_fault(by):
    engine_of(writing(lambda x: x.clamp(0, 1) + by)).step(tiny_batch())


def test_an_image_of_nan_stays_the_affair_of_the_loss_terms():
    with pytest.raises(NonFiniteError, match="term 'loss' of strategy 'supervised' is not finite"):
        engine_of().step(Batch({"source": Stream(IMAGE * torch.nan, LABEL)}))


def test_labels_beyond_the_classes_reach_no_hook_and_no_loss():
    seen = []

    class Looks(Strategy):
        requires = frozenset({"source.image", "source.label"})

        @hookimpl
        def pre_batch(self, step):
            seen.append(step.batch["source"].label)

    label = LABEL.clone()
    label[0, 0], label[0, 1], label[0, 2] = 5, -1, 4
    with pytest.raises(DalibError, match=r"source.label"):
        engine_of(Looks()).step(Batch({"source": Stream(IMAGE, label)}))
    assert seen[0].unique().tolist() == [0, 4, 255] and (seen[0][0, :2] == 255).all()


def test_looking_at_given_and_written_streams_never_waits_for_the_device():
    inputs = Inputs(5)
    batch = tiny_batch()
    batch.settle("source", weight=torch.ones(batch["source"].label.shape))
    batch.writers.update({"source": {"image": "fda", "label": "augment", "weight": "dacs"}})
    tensors = [tensor for stream in batch.values() for tensor in stream.fields().values()]
    inputs.given(batch)
    inputs.outside(inputs.found)  # the limits are a constant, copied once
    inputs.written(batch)
    inputs.outside(inputs.found)
    with refusing_waits(*tensors):
        again = Inputs(5)
        again.given(batch)
        again.written(batch)
        assert again.outside(again.found).shape == (len(again.found),)
    assert len(again.found) == 7


def test_numpy_images_of_a_whole_batch_are_refused_where_they_are_given():
    with pytest.raises(DataError, match=r"numpy.ndarray"):
        engine_of().step(Batch({"source": Stream(np.zeros((2, 3, 12, 16), np.float32))}))


@pytest.mark.parametrize("counts", [(1, 2), (2, 1)])
def test_streams_of_other_numbers_of_images_are_told_by_the_strategy_that_pairs_them(counts):
    source, target = counts
    batch = Batch({"source": Stream(IMAGE[:source], LABEL[:source]), "target": Stream(IMAGE[:target])})
    said = f"strategy 'fda' pairs the images of source and target, .*; the batch has source {source}, target {target}"
    with pytest.raises(StackError, match=said):
        engine_of(create_strategy("fda", beta=0.2)).step(batch)
