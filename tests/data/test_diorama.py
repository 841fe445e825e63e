"""Diorama is deterministic, holds every class in both domains, and draws any size."""

import subprocess
import sys

import pytest
import torch
from torch import Tensor

from dalib.data.diorama import Diorama, diorama
from dalib.errors import DataError

DOMAINS = ("source", "target")


def same(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("domain", DOMAINS)
def test_an_item_does_not_depend_on_what_was_asked_before(domain: str) -> None:
    forwards, backwards = diorama(domain=domain, size=(48, 96)), diorama(domain=domain, size=(48, 96))
    items = [forwards[i] for i in range(4)]
    assert all(same(items[i], backwards[i]) for i in reversed(range(4)))


def test_an_item_is_the_same_in_another_process() -> None:
    program = "from dalib.data.diorama import diorama; i, l = diorama(domain='target', size=(33, 65))[7]; "
    program += "print(int(i.long().sum()), int(l.long().sum()))"
    image, label = diorama(domain="target", size=(33, 65))[7]
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout.split() == [str(int(image.long().sum())), str(int(label.long().sum()))]


@pytest.mark.parametrize("domain", DOMAINS)
def test_every_class_occurs_among_the_first_images(domain: str) -> None:
    for split in ("train", "val"):
        data = diorama(domain=domain, split=split)
        seen = {value for i in range(40) for value in data[i][1].unique().tolist()}
        assert set(range(19)) <= seen <= {*range(19), 255}


@pytest.mark.parametrize(
    ("domain", "colour", "pixels"),
    [
        ("source", [118.85, 119.38, 122.76], {0: 49107, 2: 35097, 10: 17584, 13: 3913, 255: 0}),
        ("target", [110.82, 106.72, 98.46], {0: 44854, 2: 30291, 10: 21800, 13: 7523, 255: 8112}),
    ],
)
def test_the_scenes_are_those_that_results_were_made_on(
    domain: str, colour: list[float], pixels: dict[int, int]
) -> None:
    data = diorama(domain=domain, size=(96, 192))
    images, labels = (torch.stack(tensors) for tensors in zip(*(data[i] for i in range(8)), strict=True))
    torch.testing.assert_close(images.double().mean((0, 2, 3)), torch.tensor(colour).double(), atol=0.1, rtol=0)
    for value, count in pixels.items():
        assert int((labels == value).sum()) == pytest.approx(count, abs=60), value


def test_its_classes_and_colours_are_those_of_cityscapes() -> None:
    data = diorama()
    assert (data.classes[13], data.palette[13], len(data.classes), len(data.palette)) == ("car", (0, 0, 142), 19, 19)


def test_only_the_photograph_shows_a_hood_that_is_ignored() -> None:
    ignored = {domain: [bool((diorama(domain=domain)[i][1] == 255).any()) for i in range(20)] for domain in DOMAINS}
    assert not any(ignored["source"])
    assert any(ignored["target"])


def test_splits_seeds_and_domains_share_no_scene() -> None:
    labels = [
        diorama(domain=domain, split=split, seed=seed, size=(32, 64))[i][1]
        for domain in DOMAINS
        for split in ("train", "val", "test")
        for seed in (0, 1)
        for i in range(3)
    ]
    assert len({tuple(label.flatten().tolist()) for label in labels}) == len(labels)


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("size", [(96, 192), (97, 131), (200, 100), (8, 8), (1, 1)])
def test_an_item_has_the_size_asked_for(domain: str, size: tuple[int, int]) -> None:
    data = diorama(domain=domain, size=size)
    for i in range(3):
        image, label = data[i]
        assert (image.dtype, image.shape) == (torch.uint8, (3, *size))
        assert (label.dtype, label.shape) == (torch.uint8, size)


def test_a_scene_is_the_same_at_every_size() -> None:
    small, large = (diorama(size=size)[3][1] for size in ((96, 192), (192, 384)))
    assert (large[::2, ::2] == small).float().mean() > 0.9


def test_the_photograph_is_duller_and_noisier_than_the_rendering() -> None:
    def statistics(data: Diorama) -> tuple[float, float]:
        images = torch.stack([data[i][0] for i in range(24)]).float() / 255
        saturation = images.amax(1) - images.amin(1)
        road = images[:, :, 70:84, 80:176]
        return saturation.mean().item(), (road[..., 1:] - road[..., :-1]).abs().median().item()

    source, target = (statistics(diorama(domain=domain, size=(96, 192))) for domain in DOMAINS)
    assert target[0] < source[0] * 0.6
    assert target[1] > source[1] * 2


def test_lengths_have_defaults_and_end_iteration() -> None:
    assert [len(diorama(split=split)) for split in ("train", "val", "test")] == [2000, 200, 200]
    assert len(list(diorama(length=2, size=(8, 16)))) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"domain": "targt"}, r"diorama: domain 'targt' is unknown\. Did you mean 'target'\?"),
        ({"split": "training"}, r"diorama: split 'training' is unknown\. Did you mean 'train'\?"),
    ],
)
def test_an_unknown_name_is_refused_with_a_suggestion(options: dict[str, str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        diorama(**options)


@pytest.mark.parametrize("domain", ["source", "target"])
def test_the_label_alone_is_that_of_the_item(domain: str) -> None:
    dataset = diorama(domain=domain, size=(32, 64), length=3)
    assert all(torch.equal(dataset.label(i), dataset[i][1]) for i in range(3))
