"""Distillation over ranks is that of one process; an evaluation that adapts runs on the first rank alone."""

import copy

import pytest
import torch
from torch import nn

from dalib import Batch, Engine, ranks, wrap_model
from dalib.discovery import default_registry, load_module
from dalib_plugins.bn_adapt import BnAdapt
from dalib_plugins.distill import Distill
from dalib_plugins.tent import Tent
from tests.distributed.launch import on_ranks
from tests.distributed.test_equal import CLASSES, IMAGES, STEPS, differences, own_part, streams, tensors
from tests.distributed.test_evaluation import Scenes
from tests.tiny import tiny_model


def distil(files):
    """Return each step's terms, and the engine's state after the last."""
    load_module(default_registry(), "tests.tiny_plugin")
    torch.manual_seed(ranks.rank())  # the ranks' networks differ before the engine
    network = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, CLASSES, 3, padding=1))
    teachers = [{"use": "tiny", "weights": file} for file in files]
    stack = [
        Distill(name="averaged", teachers=teachers, streams=["target", "mixed"], temperature=2.0),
        Distill(teachers=teachers[:1], layers={"1": "body.2"}, streams=["source", "target"], feature_weight=20.0),
    ]
    engine = Engine(
        wrap_model(network, CLASSES), stack, optimizer=lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), device="cpu"
    )
    terms = []
    for index in range(STEPS):
        batch = Batch({name: own_part(stream) for name, stream in streams(index, 0, IMAGES).items()})
        terms.append({name: value.clone() for name, value in engine.step(batch).items()})
    return {"terms": terms, "state": copy.deepcopy(engine.networks.state_dict())}


@pytest.mark.distributed
def test_ranks_distil_as_one_process_with_the_same_batch(tmp_path):
    files = [str(tmp_path / f"{seed}.pt") for seed in range(2)]
    for seed, file in enumerate(files):
        torch.save(tiny_model(seed).state_dict(), file)
    (tmp_path / "results").mkdir()
    alone, found = distil(files), on_ranks(2, distil, tmp_path / "results", files=files)
    assert {name for step in alone["terms"] for name in step} == {
        *("averaged/target", "averaged/mixed", "distill/source", "distill/target"),
        *("distill/source_features", "distill/target_features"),
    }
    for path, difference in differences(alone, found[0]).items():
        assert difference < 1e-5, path
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(tensors(found[0]), tensors(found[1]), strict=True))
    assert found[0]["state"]["modules"] == found[1]["state"]["modules"] == alone["state"]["modules"]  # fingerprints


def adapted():
    """Return figures and counts of an evaluation through each strategy, and which images this rank predicted."""
    told = []
    for strategy in (Tent(lr=0.5), BnAdapt(alpha=0.5)):
        torch.manual_seed(ranks.rank())
        engine = Engine(tiny_model(num_classes=3), [strategy], device="cpu")
        told.append({"calls": []})
        result = engine.evaluate(Scenes(23), batch_size=2, progress=lambda *done: told[-1]["calls"].append(done))
        told[-1] |= {"figures": result.to_dict(), "confusion": result.confusion}
    return told


@pytest.mark.distributed
def test_an_evaluation_that_adapts_runs_on_the_first_rank_in_order_and_all_have_its_result(tmp_path):
    alone, shared = adapted(), on_ranks(3, adapted, tmp_path)
    for number, expected in enumerate(alone):
        for rank, told in enumerate(shared):
            assert told[number]["figures"] == expected["figures"]
            assert torch.equal(told[number]["confusion"], expected["confusion"])
            assert told[number]["calls"] == (expected["calls"] if rank == 0 else [])
    assert alone[0]["calls"][:2] == [(2, 23), (4, 23)] and len(alone[0]["calls"]) == 12
