"""A BatchNorm that sees one value per channel in training."""

import copy

import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import nn

from dalib.errors import StackError
from dalib.models.batchnorm import guard_batch_norm, synchronised


@pytest.mark.parametrize("kind", [nn.BatchNorm2d, BatchNormAct2d])
def test_one_value_uses_running_statistics_and_leaves_them(kind: type[nn.BatchNorm2d]) -> None:
    norm = kind(3).train()
    norm.running_mean.copy_(torch.tensor([1.0, 2.0, 3.0]))
    expected = copy.deepcopy(norm).eval()
    guard_batch_norm(norm)
    x = torch.rand(1, 3, 1, 1) * 8
    torch.testing.assert_close(norm(x), expected(x))
    assert norm.training
    assert norm.running_mean.tolist() == [1, 2, 3]
    assert norm.num_batches_tracked == 0


@pytest.mark.parametrize("shape", [(2, 3, 1, 1), (1, 3, 1, 2)])
def test_two_values_use_and_update_their_own_statistics(shape: tuple[int, ...]) -> None:
    guarded, plain = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
    guard_batch_norm(guarded)
    x = torch.rand(shape)
    assert torch.equal(guarded(x), plain(x))
    assert torch.equal(guarded.running_mean, plain.running_mean)
    assert guarded.num_batches_tracked == 1


def test_a_copy_is_guarded_too_and_compiles_in_one_graph() -> None:
    norm = nn.BatchNorm2d(3)
    guard_batch_norm(norm)
    copied = torch.compile(copy.deepcopy(norm), backend="eager", fullgraph=True)
    assert copied(torch.rand(1, 3, 1, 1)).shape == (1, 3, 1, 1)
    assert copied.num_batches_tracked == 0
    assert copied(torch.rand(2, 3, 1, 1)).shape == (2, 3, 1, 1)
    assert copied.num_batches_tracked == 1


def test_synchronised_statistics_on_cpus_are_refused_by_the_options_name(monkeypatch: pytest.MonkeyPatch) -> None:
    network, cpu = nn.Sequential(nn.BatchNorm2d(3)), torch.device("cpu")
    assert synchronised(network, cpu) is network
    monkeypatch.setattr("dalib.ranks.world", lambda: 2)
    with pytest.raises(StackError, match=r"^sync_batch_norm is torch's SyncBatchNorm, which needs GPUs"):
        synchronised(network, cpu)
