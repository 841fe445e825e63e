"""What the ranks of a job compute together."""

import torch

from dalib import ranks
from tests.distributed.launch import on_ranks


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
