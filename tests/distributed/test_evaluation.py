"""Evaluation of several ranks: each scores its share, and all have the result of one process."""

import time

import pytest
import torch
from torch import nn

from dalib import make_recipe, run
from dalib.core.create import validator_from
from dalib.errors import DataError
from dalib.evaluation.evaluate import evaluate
from dalib.runs.select import select
from dalib.yaml import parse_yaml
from tests.command import TINY
from tests.distributed.launch import on_ranks

RANKS = 4
NEEDS = ("measures", "agreement", "sample")
BAD = 102  # an item's label outside the classes


class Scenes:
    """Images of noise in two sizes, of which every third has no label."""

    classes = ("road", "sky", "car")

    def __init__(self, length, bad=None):
        self.length, self.bad = length, bad

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        size = (6, 8) if index % 10 < 7 else (5, 9)
        image = torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8)
        label = torch.randint(0, 4, size, generator=generator, dtype=torch.uint8)
        label = label.masked_fill(label == 3, BAD if index == self.bad else 255)
        return image, None if index % 3 == 0 else label


class Network(nn.Module):
    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x):
        return self.conv(x)


def score(length, bad=None, **options):
    calls, started, scenes = [], time.monotonic(), Scenes(length, bad)
    try:
        options |= {"other": Network(1), "needs": NEEDS, "progress": lambda *done: calls.append(done)}
        result = evaluate(Network(), scenes, **options)
    except DataError as error:
        return {"error": str(error), "seconds": time.monotonic() - started}
    figures = result.to_dict() | {"measures": result.evidence.measures.to_dict(scenes.classes)}
    tensors = {"confusion": result.confusion, "iou": result.iou, "sample": result.evidence.sample}
    return {"figures": figures, **tensors, "calls": calls}


def several(cases):
    return [score(**case) for case in cases]


CASES = [
    {"length": 101},
    {"length": 101, "batch_size": 4, "workers": 1},
    {"length": 101, "limit": 30, "batch_size": 3},
    {"length": 3, "batch_size": 2},  # two ranks have no image
    {"length": 1},
]
BROKEN = [{"length": 20, "bad": 19, "workers": workers} for workers in (0, 1)]  # in the last rank's share


@pytest.mark.distributed
def test_ranks_that_share_the_images_have_the_result_of_one_process(tmp_path):
    alone, shared = several(CASES), on_ranks(RANKS, several, tmp_path, cases=CASES + BROKEN)
    assert alone[0]["figures"]["images"] == 101 and alone[0]["figures"]["label_free"]["images"] == 34
    for number, expected in enumerate(alone):
        for told in shared:
            assert told[number]["figures"] == expected["figures"]
            assert torch.equal(told[number]["confusion"], expected["confusion"])
            assert len(expected["sample"]) == expected["figures"]["images"] == expected["figures"]["measures"]["images"]
            assert all(torch.equal(a, b) for a, b in zip(told[number]["sample"], expected["sample"], strict=True))
            assert told[number]["iou"].tolist() == pytest.approx(expected["iou"].tolist(), abs=0, rel=0, nan_ok=True)
    first, *others = ([case["calls"] for case in told[: len(CASES)]] for told in shared)
    assert first[1] == [(16 * done, 101) for done in range(1, 7)] + [(101, 101)]
    assert [calls[-1] for calls in first] == [(101, 101), (101, 101), (30, 30), (3, 3), (1, 1)]
    assert not any(calls for told in others for calls in told)
    for told in shared:  # what one rank cannot read is the same error on all
        for case in told[len(CASES) :]:
            assert case["error"] == f"item 19: expected train ids in 0..2 or 255, found {BAD}."
            assert case["seconds"] < 30


def ranked(folders):
    names = ("ensv", "ensv_miou", "entropy", "infomax", "snd", "source")
    return select(folders, {name: validator_from({"use": name}, "--by") for name in names}).to_dict("ensv")


@pytest.mark.distributed
def test_ranks_choose_the_checkpoint_that_one_process_does_by_the_same_scores(tmp_path):
    folders = [str(tmp_path / name) for name in ("one", "two")]
    for seed, folder in enumerate(folders):
        value = parse_yaml(TINY)
        value["train"] |= {"keep_every": 1, "seed": seed}
        value["data"]["eval"]["length"] = 7
        run(make_recipe(value), folder)
    alone = ranked(folders)
    assert len(alone["candidates"]) == 4
    assert all(told == alone for told in on_ranks(2, ranked, tmp_path, folders=folders))
