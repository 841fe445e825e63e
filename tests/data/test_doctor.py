"""What the doctor finds in a dataset."""

import io
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from dalib.data.doctor import Findings, compare, examine, examine_new
from dalib.data.folder import folder
from dalib.errors import DataError


def text_of(findings: Findings) -> str:
    console = Console(width=300, file=io.StringIO())
    console.print(findings.render())
    return console.file.getvalue()


class Memory:
    """Somebody's dataset: two methods, no files."""

    classes = ("ground", "thing")

    def __init__(self, *items):
        self.items = items
        self.read = []

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        self.read.append(index)
        item = self.items[index]
        if isinstance(item, Exception):
            raise item
        return item


def pair(label, value=None):
    label = torch.tensor(label, dtype=torch.uint8)
    image = torch.arange(3 * label.numel(), dtype=torch.uint8).reshape(3, *label.shape)
    return (image if value is None else torch.full_like(image, value)), label


def test_counts_sizes_and_shares_are_those_of_the_labels():
    findings = examine(Memory(pair([[0, 0, 255], [0, 255, 255]]), pair([[0, 0]]), pair([[0, 255, 255], [0, 0, 255]])))
    assert findings.pixels[[0, 1, 255]].tolist() == [8, 0, 6]
    assert findings.images[[0, 1, 255]].tolist() == [3, 0, 2]
    assert findings.sizes == {(2, 3): 2, (1, 2): 1}
    assert findings.ignored == pytest.approx(6 / 14)
    assert findings.notes() == [
        "classes without a pixel: thing. Masks of 0 and 255? 255 is ignored unless the label map says "
        "`ids: {0: ground, 255: thing}`"
    ]
    assert examine(Memory(pair([[0, 0]]))).notes() == ["classes without a pixel: thing"]
    assert not findings.faults and "3 images, 3 read, no faults" in text_of(findings)
    (fault,) = examine(Memory(pair([[0, 1]]), pair([[0], [1]])), one_size=True).faults
    assert str(fault) == "the images differ in size; give `size: [H, W]` to make batches of them."


def test_faults_of_anybodys_dataset_are_collected_not_raised():
    image, label = pair([[0, 1]])
    dataset = Memory(
        KeyError("lost"),
        (image.float(), label),
        (image, label.long()),
        (image, label[:, :1]),
        pair([[0, 2]]),
        (image, label),
    )
    findings = examine(dataset)
    assert findings.examined == 6
    assert [fault.item for fault in findings.faults] == [f"item {i}" for i in range(5)]
    assert [fault.reason for fault in findings.faults] == [
        "KeyError: 'lost'",
        "expected an image uint8 (3, H, W), found torch.float32 (3, 1, 2).",
        "expected a label uint8 (1, 2), as its image, found torch.int64 (1, 2) of 0..1. "
        "Train ids are 0..1, 255 = ignored.",
        "expected a label uint8 (1, 2), as its image, found torch.uint8 (1, 1).",
        "expected train ids in 0..1 or 255, found 2.",
    ]
    assert text_of(findings).count("item 0") == text_of(findings).count("KeyError: 'lost'") == 1


def test_a_limit_reads_items_spread_over_the_whole_set():
    dataset = Memory(*[pair([[0, 1]])] * 100)
    done = []
    findings = examine(dataset, limit=4, advance=lambda *progress: done.append(progress))
    assert (findings.length, findings.examined) == (100, 4)
    assert dataset.read == [0, 25, 50, 75]
    assert done == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert examine(Memory(), limit=4).examined == 0


def test_unlabelled_sets_and_frames_of_one_colour_are_noted():
    findings = examine(Memory(pair([[255, 255]]), pair([[255, 255]], value=7)))
    assert findings.notes() == [
        "no labels are read: images alone, as of a target; or, where labels are meant, none that fits",
        "1 image of one colour: item 1",
    ]


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def test_one_pass_lists_every_fault_of_a_folder(tmp_path):
    image, label = (
        np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8),
        np.zeros((6, 8), dtype=np.uint8),
    )
    for name in ("good", "no label", "rgb label", "torn", "unknown id", "other size"):
        save(tmp_path / "images" / f"{name}.png", image)
        save(tmp_path / "labels" / f"{name}.png", {"rgb label": image, "unknown id": label + 40}.get(name, label))
    save(tmp_path / "labels" / "no image.png", label)
    save(tmp_path / "labels" / "other size.png", label[1:])
    (tmp_path / "labels" / "no label.png").unlink()
    torn = tmp_path / "images" / "torn.png"
    torn.write_bytes(torn.read_bytes()[:-40])

    findings = examine_new(lambda: folder(root=str(tmp_path)), name="target")
    assert sorted(Path(fault.item).relative_to(tmp_path).as_posix() for fault in findings.faults) == [
        *("images/no label.png", "images/torn.png", "labels/no image.png"),
        *("labels/other size.png", "labels/rgb label.png", "labels/unknown id.png"),
    ]
    assert findings.sizes == {(6, 8): 1}
    text = text_of(findings)
    for part in ("target: 5 images, 5 read, 6 faults", "found RGB", "that do not decode", "found 40", "found 5 x 8"):
        assert text.count(part) == 1, part


def test_what_opens_no_further_is_collected_too(tmp_path):
    image = np.zeros((6, 8, 3), dtype=np.uint8)
    for name in ("a", "b", "c"):
        save(tmp_path / "images" / f"{name}.png", image)
        save(tmp_path / "labels" / f"{name}.png", image[..., 0])
    save(tmp_path / "images" / "a.jpg", image)
    (tmp_path / "images" / "loop").symlink_to(tmp_path)
    (tmp_path / "list.txt").write_text("a\nnone\nnobody\nb\na\n")
    findings = examine_new(lambda: folder(root=str(tmp_path), list="list.txt"))
    assert findings.examined == 2
    assert [re.findall("found [^ ]+", fault.reason)[0] for fault in findings.faults] == [
        *(f"found {tmp_path}/images/a.jpg", "found a", "found 'none',", "found 'nobody',", "found 'a'")
    ]


def test_a_long_list_is_cut_by_kind_on_the_terminal_and_whole_in_the_file():
    odd = [DataError(f"found {i}, {i + 1}, 300; mend it.", item=f"item {i}", kind="odd") for i in range(1000)]
    findings = examine(Memory(*odd, pair([[0, 1]]), KeyError("lost")))
    text = text_of(findings)
    assert "1002 images, 1002 read, 1001 faults" in text
    assert "found 0, 1, 300; mend it. (1000 of this kind)" in text and "and 995 more" in text
    assert len(text.splitlines()) < 30
    assert [fault["item"] for fault in findings.to_dict()["faults"]] == [f"item {i}" for i in (*range(1000), 1001)]


def test_faults_that_were_told_are_not_told_again():
    findings = examine(Memory(KeyError("lost"), KeyError("gone")))
    console = Console(width=300, file=io.StringIO())
    console.print(findings.render(known=findings.faults[:1]))
    text = console.file.getvalue()
    assert "2 faults, 1 listed above" in text and "lost" not in text and "gone" in text


def test_classes_that_differ_are_a_fault_of_the_later_set():
    one, other = examine(Memory(pair([[0, 1]]))), examine(Memory(pair([[0, 1]])), name="data.target")
    compare(one, other)
    assert not other.faults
    other.classes = ("ground", "sky")
    compare(one, other)
    assert str(other.faults[0]).startswith(
        "dataset has 2 classes and data.target has 2; they differ in sky, thing. Map"
    )


def test_a_set_that_does_not_open_is_a_finding(tmp_path):
    findings = examine_new(lambda: folder(root=str(tmp_path / "nowhere")), name="source")
    assert "nowhere: expected a folder of images and labels, found nothing" in text_of(findings)


def test_unlabelled_sets_have_no_table_of_labels_and_labelled_ones_show_shares_as_bars():
    unlabelled = examine(Memory(pair([[255, 255]])))
    assert "pixels %" not in text_of(unlabelled)
    text = text_of(examine(Memory(pair([[0, 0, 0, 1]]))))
    bars = [line.count("█") for line in text.splitlines() if re.search("ground|thing", line)]
    assert bars[0] == 20 and 6 <= bars[1] <= 7


def test_the_files_own_sizes_stand_beside_those_as_read_and_squeezed_pictures_are_named(tmp_path):
    for name, size in (("wide", (10, 20)), ("almost", (10, 20)), ("square", (20, 20))):
        save(tmp_path / "images" / f"{name}.png", np.zeros((*size, 3), np.uint8))
    findings = examine(folder(root=str(tmp_path), size=(5, 10)))
    assert findings.own_sizes == {((10, 20), (5, 10)): 2, ((20, 20), (5, 10)): 1}
    rows = [re.findall(r"\d+", line) for line in text_of(findings).splitlines() if " x " in line]
    assert ["10", "20", "5", "10", "2"] in rows and ["20", "20", "5", "10", "1"] in rows
    (note,) = (note for note in findings.notes() if "squeezed" in note)
    assert note.startswith("1 image squeezed into another shape, by 5 % or more; `resize: fit` or `resize: crop` keep")
    assert note.endswith("square.png")
    assert {"size": [5, 10], "own": [20, 20], "images": 1} in findings.to_dict()["sizes"]
    for kept in ("fit", "crop"):
        assert not examine(folder(root=str(tmp_path), size=(5, 10), resize=kept)).squeezed


def test_findings_fit_eighty_columns_and_show_faults_in_red(tmp_path):
    dataset = Memory(*[pair([[0, 1]])] * 3, KeyError("lost"))
    dataset.classes = ("a class with a name as long as a sentence, which nobody writes", "thing")
    console = Console(width=80, file=io.StringIO(), force_terminal=True, color_system="standard")
    console.print(examine(dataset).render(), soft_wrap=True)
    text = console.file.getvalue()
    assert "\x1b[31m  KeyError: 'lost'" in text
    lines = re.sub(r"\x1b\[[\d;]*m", "", text).splitlines()
    assert max(len(line) for line in lines if line and line[0] in "│┃┏└") <= 80


@pytest.mark.parametrize(("needs_labels", "faults"), [(True, 1), (False, 0)])
def test_a_set_to_train_on_whose_pixels_are_all_ignored_has_a_fault(needs_labels, faults):
    unlabelled = [(torch.randint(0, 256, (3, 4, 6), dtype=torch.uint8), torch.full((4, 6), 255).byte())] * 3
    found = examine(unlabelled, needs_labels=needs_labels).faults
    assert len(found) == faults
    assert all("no pixel has a label, and a strategy trains on them" in fault.reason for fault in found)


def test_one_labelled_pixel_is_enough_to_train_on():
    label = torch.full((4, 6), 255).byte()
    label[2, 3] = 1
    assert not examine([(torch.zeros(3, 4, 6, dtype=torch.uint8), label)], needs_labels=True).faults
