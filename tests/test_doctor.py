"""What the doctor finds in a dataset."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from dalib.data.folder import folder
from dalib.doctor import Findings, examine, examine_new


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
    assert findings.notes() == ["classes without a pixel: thing", "images differ in size: give `size: [H, W]`"]
    assert not findings.faults


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
    assert list(findings.faults.values()) == [
        "KeyError: 'lost'",
        "expected an image uint8 (3, H, W), found torch.float32 (3, 1, 2).",
        "expected a label uint8 (1, 2), as its image, found torch.int64 (1, 2).",
        "expected a label uint8 (1, 2), as its image, found torch.uint8 (1, 1).",
        "expected train ids in 0..1 or 255, found 2.",
    ]
    assert "first fault: item 0: KeyError: 'lost'" in text_of(findings)


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
        "every pixel is ignored: unlabelled images, or a label map that fits no id",
        "1 images of one colour: item 1",
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
    assert {Path(item).relative_to(tmp_path).as_posix(): True for item in findings.faults} == dict.fromkeys(
        [
            *("images/no label.png", "labels/no image.png", "images/other size.png"),
            *("images/rgb label.png", "images/torn.png", "images/unknown id.png"),
        ],
        True,
    )
    assert findings.sizes == {(6, 8): 1}
    text = text_of(findings)
    for part in (
        "target: 5 images, 5 read",
        "6 faults",
        "found RGB",
        "truncated or damaged",
        "found 40",
        "found 5 x 8",
    ):
        assert part in text


def test_a_set_that_does_not_open_is_a_finding(tmp_path):
    findings = examine_new(lambda: folder(root=str(tmp_path / "nowhere")), name="source")
    assert "nowhere: expected a folder of images and labels, found nothing" in text_of(findings)
