"""What the ranks of a job compute together."""

import pytest
import torch
import torch.distributed as dist

from dalib import Engine, ranks
from dalib.errors import RankError
from tests.distributed.launch import on_ranks
from tests.tiny import Supervised, tiny_model


def together():
    own = torch.tensor([1.0, 2.0]) * (ranks.rank() + 1)
    own.requires_grad_()
    summed = ranks.total(own)
    (summed * (ranks.rank() + 1)).sum().backward()
    return {
        "rank": ranks.rank(),
        "world": ranks.world(),
        "total": summed.detach(),
        "gradient": own.grad,
        "greatest": ranks.greatest(own),
        "gathered": ranks.gathered(own),
        "objects": ranks.gathered_objects(f"rank {ranks.rank()}"),
        "first": ranks.from_first(ranks.rank() + 7),
    }


def left():
    """Return what rank 0 is told when the other one has gone."""
    soon = ranks.Soon()
    if ranks.rank():
        dist.destroy_process_group()
        return []
    told = []
    calls = {
        "total": lambda: ranks.total(torch.ones(2)),
        "gathered_objects": lambda: ranks.gathered_objects("x"),
        "soon": lambda: soon.greatest(1, last=True),
    }
    for name, call in calls.items():
        try:
            call()
        except RankError as error:
            told.append(f"{name}: {error}")
    return told


def agreed():
    """Return what each of 4 calls gives where rank 1 says 15 in the second one, and rank 0 says 2 in the last."""
    soon, own = ranks.Soon(), [[0, 0, 0, 2], [0, 15, 0, 0]][ranks.rank()]
    return [soon.greatest(value, last=call == 3) for call, value in enumerate(own)]


def apart():
    with ranks.alone():
        inside = ranks.world(), ranks.rank(), ranks.total(torch.ones(1)).item(), ranks.from_first(ranks.rank())
    return inside, ranks.world()


@pytest.mark.distributed
def test_a_rank_that_is_left_alone_is_told_so_by_every_call(tmp_path):
    told, _ = on_ranks(2, left, tmp_path)
    assert [line.partition(":")[0] for line in told] == ["total", "gathered_objects", "soon"]
    assert all("another rank has ended, or does not answer" in line for line in told)


@pytest.mark.distributed
def test_a_signal_is_known_on_all_ranks_one_step_later_and_at_the_last_step_at_once(tmp_path):
    assert on_ranks(2, agreed, tmp_path) == [[0, 0, 15, 2]] * 2


@pytest.mark.distributed
def test_a_rank_can_act_alone_for_a_while(tmp_path):
    assert on_ranks(2, apart, tmp_path) == [((1, 0, 1.0, 0), 2)] * 2


def test_two_ranks_sum_compare_and_gather(tmp_path):
    both = on_ranks(2, together, tmp_path)
    for number, told in enumerate(both):
        assert (told["rank"], told["world"], told["first"]) == (number, 2, 7)
        assert told["total"].tolist() == [3, 6] and told["greatest"].tolist() == [2, 4]
        assert told["gradient"].tolist() == [3, 3]  # of both ranks' losses
        assert told["gathered"].tolist() == [[1, 2], [2, 4]] and told["objects"] == ["rank 0", "rank 1"]


def test_one_process_is_rank_0_of_1():
    values = torch.tensor([1.0, 2.0])
    told = together()
    assert (told["rank"], told["world"], told["first"], told["objects"]) == (0, 1, 7, ["rank 0"])
    assert torch.equal(told["total"], values) and torch.equal(told["gathered"], values[None])
    assert told["gradient"].tolist() == [1, 1] and torch.equal(told["greatest"], values)


def test_processes_that_nobody_has_connected_are_told_that_each_trains_alone(monkeypatch):
    for name, value in {"TORCHELASTIC_RUN_ID": "job", "WORLD_SIZE": "2", "RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    Engine(tiny_model(), [Supervised()], device="cpu")  # rank 0 alone says it
    monkeypatch.setenv("RANK", "0")
    with pytest.warns(UserWarning, match="torchrun has started 2 processes, and each of them trains alone: call torch"):
        Engine(tiny_model(), [Supervised()], device="cpu")
    Engine(tiny_model(), [Supervised()], device="cpu", purpose="evaluate")
