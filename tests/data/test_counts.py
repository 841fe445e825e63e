"""Labels are counted once for a set of files, and again when something that they depend on changes."""

import json
import os
import threading
import time

import numpy as np
import pytest
import torch
from PIL import Image

from dalib import create_dataset
from dalib.data import counts, label_counts
from dalib.data.bad_items import BadItems, ItemError
from dalib.data.counts import counted
from dalib.data.diorama import diorama
from dalib.data.joined import Joined
from dalib.data.pairs import PairedFiles
from dalib.errors import DataError
from tests.streets import make_streets
from tests.tiny import TinyData


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DALIB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "label_counts"


@pytest.fixture
def read(monkeypatch):
    """The indices of the labels that are read after the first, which tells a changed reader."""
    indices = []
    original = PairedFiles.label
    monkeypatch.setattr(PairedFiles, "label", lambda self, i: (indices.append(i), original(self, i))[1])
    return indices


def expected(dataset):
    rows = [torch.bincount(dataset[i][1].flatten().int(), minlength=256)[:19] for i in range(len(dataset))]
    return torch.stack(rows)


def streets(tmp_path, **options):
    root = tmp_path / "streets"
    if not root.exists():
        make_streets(tmp_path)
    return create_dataset("folder", root=str(root), split="train", **options)


def paint(tmp_path, value, name="b"):
    Image.fromarray(np.full((12, 16), value, np.uint8)).save(tmp_path / "streets" / "labels" / "train" / f"{name}.png")


def test_pixels_are_counted_by_item_and_class_and_ignored_ones_nowhere(tmp_path):
    dataset = streets(tmp_path)
    paint(tmp_path, 255)
    paint(tmp_path, 7, "c")
    found = label_counts(dataset)
    assert found.dtype == torch.int64 and torch.equal(found, expected(dataset))
    assert found[1].sum() == 0 and found[2].tolist() == [0] * 7 + [192] + [0] * 11


def test_a_second_count_reads_no_label_but_the_first(tmp_path, read):
    first = label_counts(streets(tmp_path))
    assert set(read) == {0, 1, 2}
    read.clear()
    assert torch.equal(label_counts(streets(tmp_path)), first) and read == [0]


def another_map(tmp_path):
    (tmp_path / "map.yaml").write_text("ids: {1: road}\nunknown: ignore\n")
    return {"label_map": str(tmp_path / "map.yaml")}


@pytest.mark.parametrize("change", [lambda _: {"size": (6, 8)}, another_map, lambda tmp_path: paint(tmp_path, 4) or {}])
def test_what_the_labels_depend_on_makes_them_be_counted_again(change, tmp_path, read):
    first = label_counts(streets(tmp_path))
    dataset = streets(tmp_path, **change(tmp_path))
    read.clear()
    found = label_counts(dataset)
    assert not torch.equal(found, first) and torch.equal(found, expected(dataset)) and set(read) == {0, 1, 2}


def test_what_labels_depend_on_names_their_map_size_classes_and_files(tmp_path):
    def key(**options):
        return json.dumps(streets(tmp_path, **options).labels_depend_on())

    assert key() == key()
    options = [{}, {"size": (6, 8)}, {"size": (6, 9)}, another_map(tmp_path)]
    keys = {key(**each) for each in options}
    (tmp_path / "map.yaml").write_text("colors: {'1,2,3': road}\n")
    keys |= {
        key(label_map=str(tmp_path / "map.yaml")),
        json.dumps(streets(tmp_path).for_evaluation().labels_depend_on()),
    }
    assert len(keys) == 6


def test_a_reader_that_gives_another_first_label_is_asked_again(tmp_path, read, monkeypatch):
    first = label_counts(streets(tmp_path))
    changed = PairedFiles.label
    monkeypatch.setattr(PairedFiles, "label", lambda self, i: changed(self, i).clamp(max=3))
    assert not torch.equal(label_counts(streets(tmp_path)), first)


def test_a_file_of_the_same_size_and_another_time_is_counted_again(tmp_path, read):
    label_counts(streets(tmp_path))
    file = tmp_path / "streets" / "labels" / "train" / "c.png"
    os.utime(file, (1, 1))
    read.clear()
    label_counts(streets(tmp_path))
    assert set(read) == {0, 1, 2}


def test_images_alone_count_nothing_and_are_not_read(tmp_path):
    dataset = streets(tmp_path)
    alone = PairedFiles({str(i): file for i, (file, _) in enumerate(dataset.files)}, None, label_map=dataset.label_map)
    for file, _ in alone.files:
        file.write_bytes(b"")
    assert label_counts(alone).tolist() == [[0] * 19] * 3


def test_somebodys_data_set_is_counted_each_time_or_brings_its_counts(cache):
    data = TinyData(3)
    assert torch.equal(label_counts(data), expected(data)) and not cache.exists()
    data.label_counts = lambda: torch.ones(3, 19, dtype=torch.int64)
    assert label_counts(data).sum() == 3 * 19
    data.label_counts = lambda: torch.ones(2, 19)
    with pytest.raises(DataError, match=r"expected int64 \(3, 19\), found torch.float32 \(2, 19\)"):
        label_counts(data)


def test_a_map_of_somebodys_own_is_never_kept(save, rgb, ids, cache):
    files = {"a": save("a.png", rgb)}, {"a": save("l.png", ids)}
    label_counts(PairedFiles(*files, label_map=lambda stored, file: stored[0]))
    assert not cache.exists()


def test_diorama_and_joined_sets_are_kept_too(cache, monkeypatch):
    parts = [diorama(size=(16, 32), length=2), diorama(size=(16, 32), length=3, domain="target")]
    joined = Joined({"a": parts[0], "b": parts[1]})
    assert torch.equal(label_counts(joined), torch.cat([expected(part) for part in parts]))
    assert len(list(cache.glob("*.pt"))) == 2
    monkeypatch.setattr(counts, "_read", None)
    label_counts(joined)


def test_an_unreadable_label_is_an_error_and_of_a_run_that_skips_a_bad_item(tmp_path, cache):
    dataset = streets(tmp_path)
    file = tmp_path / "streets" / "labels" / "train" / "b.png"
    file.write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"b.png: expected a PNG label"):
        label_counts(dataset)
    assert not list(cache.glob("*.pt"))
    for _ in range(2):  # the second time from the cache
        items = BadItems(2)
        found = counted(dataset, "source", items)
        assert found.sum(1).tolist() == [192, 0, 192]
        (name,) = items.messages
        assert name.startswith("source ") and name.endswith("images/train/b.png")
    with pytest.raises(DataError, match=r"b.png: expected a PNG label"):
        label_counts(dataset)
    assert counted(Joined({"a": TinyData(4), "b": dataset}), "source", items)[5].sum() == 0
    assert len(items.messages) == 1


def test_an_error_in_somebodys_code_names_the_item():
    class Broken(TinyData):
        def label(self, index):
            raise KeyError("lost")

    with pytest.raises(
        ItemError, match=r"the label of item 0 of the source data could not be loaded: KeyError: 'lost'"
    ):
        counted(Broken(), "source", BadItems(5))


def test_a_damaged_cache_is_made_again(tmp_path, cache, caplog):
    first = label_counts(streets(tmp_path))
    (file,) = cache.glob("*.pt")
    file.write_bytes(file.read_bytes()[:-40])
    assert torch.equal(label_counts(streets(tmp_path)), first)
    assert "damaged" in caplog.text
    caplog.clear()
    label_counts(streets(tmp_path))
    assert not caplog.text


def test_a_cache_that_cannot_be_written_costs_the_next_run_its_time_alone(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DALIB_CACHE", str(tmp_path / "file"))
    dataset = streets(tmp_path)
    assert torch.equal(label_counts(dataset), expected(dataset))
    assert "the counts of labels are not kept for the next run" in caplog.text


def test_two_at_once_count_once(tmp_path, monkeypatch):
    calls = []
    original = counts._read

    def slow(*arguments):
        calls.append(1)
        time.sleep(0.2)
        return original(*arguments)

    monkeypatch.setattr(counts, "_read", slow)
    dataset = streets(tmp_path)
    threads = [threading.Thread(target=label_counts, args=(dataset,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1
