"""Streams never change in place, and only as their strategy declares."""

import dataclasses

import pytest
import torch

from dalib import Batch, Stream
from dalib.data.batch import Permission
from dalib.errors import StackError


def stream(**fields):
    return Stream(torch.zeros(2, 3, 4, 6), **fields)


def test_a_stream_is_frozen_and_knows_its_size_and_fields():
    labelled = stream(label=torch.zeros(2, 4, 6, dtype=torch.int64))
    assert labelled.size == (4, 6) and list(labelled.fields()) == ["image", "label"]
    with pytest.raises(dataclasses.FrozenInstanceError):
        labelled.image = torch.ones(1)


def test_writing_puts_a_new_stream_in_place_and_counts():
    batch = Batch({"source": stream()})
    before = batch["source"]
    batch.write("source", weight=torch.ones(2, 4, 6))
    assert before.weight is None and batch["source"].weight is not None
    assert batch["source"].image is before.image
    assert batch.version("source") == 1


def test_adding_takes_a_new_name_alone():
    batch = Batch({"source": stream()})
    batch.add("mixed", stream())
    assert list(batch) == ["source", "mixed"] and "mixed" in batch and len(batch) == 2 and batch.version("mixed") == 0
    with pytest.raises(StackError, match=r"stream 'mixed' is already in the batch; use batch.write to change it"):
        batch.add("mixed", stream())


def test_an_absent_stream_is_named_with_those_there_are():
    batch = Batch({"source": stream(), "target": stream()})
    for act in (lambda: batch["mixed"], lambda: batch.write("mixed", image=torch.zeros(1))):
        with pytest.raises(StackError) as caught:
            act()
        assert str(caught.value).startswith(
            "stream 'mixed' is not in the batch; it holds source, target. A strategy names"
        )
    assert "mixed" not in batch


def test_a_strategy_changes_only_what_it_declared():
    batch = Batch({"source": stream()})
    batch.permit(Permission("jitter", "pre_batch", None, frozenset({"source.image"})))
    batch.write("source", image=torch.ones(2, 3, 4, 6))
    with pytest.raises(StackError) as caught:
        batch.write("source", label=torch.zeros(2, 4, 6))
    assert str(caught.value) == (
        "strategy 'jitter' changed source.label without declaring it; add \"source.label\" to its `writes` (or "
        "`provides`, for a stream of its own)."
    )
    with pytest.raises(StackError, match=r"'jitter' changed new.image without declaring it"):
        batch.add("new", stream())
    batch.permit(None)
    batch.write("source", label=torch.zeros(2, 4, 6))


def test_moving_keeps_every_field():
    moved = Batch({"source": stream(index=torch.arange(2))}).to(torch.device("meta"))
    assert all(value.device.type == "meta" for value in moved["source"].fields().values())
    assert list(moved["source"].fields()) == ["image", "index"]


def test_further_maps_are_fields_like_the_others():
    depth = torch.rand(2, 4, 6)
    batch = Batch({"source": stream(extra={"depth": depth})})
    assert batch["source"].fields()["depth"] is depth
    batch.permit(Permission("writer", "pre_batch", None, frozenset({"source.depth"})))
    batch.write("source", depth=depth + 1)
    assert torch.equal(batch["source"].extra["depth"], depth + 1)
    with pytest.raises(StackError, match=r"'writer' changed source.flow without declaring it; add \"source.flow\""):
        batch.write("source", flow=depth)
    batch.permit(Permission("any", "pre_batch", None, frozenset({"source.extra"})))
    batch.write("source", flow=depth)
    batch.write("source", extra={"text": depth})
    assert list(batch["source"].extra) == ["depth", "flow", "text"]
    with pytest.raises(StackError, match=r"'any' changed source.image without declaring it"):
        batch.write("source", image=batch["source"].image)
    with pytest.raises(StackError, match=r"'any' changed masked.depth without declaring it"):
        batch.add("masked", stream(extra={"depth": depth}))
    assert batch.to(torch.device("meta"))["source"].extra["flow"].device.type == "meta"
