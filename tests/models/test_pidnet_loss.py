"""PIDNet's loss: the reference numbers, where boundaries are, and what weights and ignored pixels do."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dalib import Engine, Stream, create_model
from dalib.losses import cross_entropy, hard_pixels
from dalib.models.pidnet_loss import PIDNetLoss, boundary_cross_entropy, boundary_target
from tests.tiny import Supervised


@pytest.fixture(scope="module")
def official(shared: Path) -> dict[str, Tensor]:
    with np.load(shared / "golden" / "losses.npz") as file:
        return {key: torch.from_numpy(np.asarray(value)) for key, value in file.items()}


def hard_mean(logits: Tensor, label: Tensor, valid: Tensor) -> Tensor:
    values = cross_entropy(logits, label)
    return values[hard_pixels(values, valid, 0.9, 500)].mean()


def test_hard_pixels_give_the_official_terms(official: dict[str, Tensor]) -> None:
    label = official["label"].long()
    auxiliary = cross_entropy(official["logits_aux"], label).mean()
    hard = hard_mean(official["logits"], label, label != 255)
    torch.testing.assert_close((0.4 * auxiliary + hard).double(), official["ohem_pair"], rtol=1e-5, atol=0)
    near = (label != 255) & (official["boundary_logits"][:, 0].sigmoid() > 0.8)
    torch.testing.assert_close(
        hard_mean(official["logits"], label, near).double(), official["boundary_aware"], rtol=1e-5, atol=0
    )


def test_boundary_cross_entropy_gives_the_official_term(official: dict[str, Tensor]) -> None:
    target = official["boundary"].bool()
    values = boundary_cross_entropy(official["boundary_logits"][:, 0], target, torch.ones_like(target))
    torch.testing.assert_close(20 * values.mean().double(), official["boundary_bce20"], rtol=1e-5, atol=0)


def test_a_boundary_is_two_pixels_on_each_side_and_none_at_the_edge() -> None:
    label = torch.zeros(1, 20, 24, dtype=torch.int64)
    label[:, :, 12:] = 7
    expected = torch.zeros(1, 20, 24, dtype=torch.bool)
    expected[:, 6:14, 10:14] = True
    assert torch.equal(boundary_target(label), expected)


def test_ignored_pixels_make_no_boundary() -> None:
    label = torch.full((1, 20, 24), 3)
    label[:, :, 12:] = 255
    assert not boundary_target(label).any()
    label[:, :, 13:] = 4
    assert boundary_target(label)[0, 10].nonzero().flatten().tolist() == [11, 13]


@pytest.mark.parametrize("size", [(11, 24), (1, 1), (12, 12)])
def test_an_image_within_its_border_has_no_boundary(size: tuple[int, int]) -> None:
    label = torch.randint(0, 5, (2, *size))
    assert boundary_target(label).tolist() == torch.zeros(2, *size, dtype=torch.bool).tolist()


def naive_loss(outputs: dict[str, Tensor], label: Tensor, weight: Tensor, loss: PIDNetLoss) -> Tensor:
    """The four terms in float64, pixel by pixel where that is how they are defined."""
    up = {
        name: F.interpolate(outputs[name].double(), label.shape[-2:], mode="bilinear")
        for name in ("logits", "aux.p", "boundary")
    }
    flat_label, flat_weight = label.flatten(), weight.double().flatten()
    valid = flat_label != 255

    def values(name: str) -> tuple[Tensor, Tensor]:
        p = up[name].softmax(1).movedim(1, -1).flatten(0, 2)
        p = p[torch.arange(len(p)), flat_label.where(valid, 0)]
        return p, -p.log() * flat_weight

    def hard(candidates: Tensor) -> Tensor:
        p, value = values("logits")
        order = p.where(candidates, 2.0).argsort()
        least = torch.zeros_like(candidates)
        least[order[: loss.min_kept]] = True
        kept = candidates & (least | (p < loss.ohem))
        return value[kept].sum() / kept.sum()

    edge = up["boundary"].flatten().sigmoid()
    target = boundary_target(label).flatten()
    share = (target & valid).sum() / valid.sum()
    bce = -torch.where(target, (1 - share) * edge.log(), share * (1 - edge).log()) * flat_weight
    return (
        loss.auxiliary * values("aux.p")[1][valid].mean()
        + hard(valid)
        + loss.boundary * bce[valid].mean()
        + hard(valid & (edge > loss.boundary_threshold))
    )


def labelled(size: tuple[int, int] = (47, 65)) -> Stream:
    label = torch.randint(0, 5, (2, 1, 6, 8)).float()
    label = F.interpolate(label, size, mode="nearest")[:, 0].long()
    label[:, 20:24] = 255
    return Stream(torch.rand(2, 3, *size), label, torch.rand(2, *size))


def loss_and_outputs(stream: Stream, **options: float) -> tuple[Tensor, dict[str, Tensor], torch.nn.Module]:
    torch.manual_seed(0)
    model = create_model("pidnet_s", 5, loss=options).train()
    loss = Engine(model, [Supervised()], device="cpu").segmentation_loss
    outputs = model(stream.image, outputs=True)
    assert stream.label is not None
    return loss(outputs, stream.label, stream.weight), outputs, model


@pytest.mark.parametrize(
    "options",
    [
        {"min_kept": 300, "ohem": 0.2, "boundary_threshold": 0.4},
        {"min_kept": 100_000, "boundary_threshold": 0.0, "auxiliary": 2.0, "boundary": 1.0},
    ],
)
def test_the_networks_loss_is_the_runs_and_equals_a_plain_one_in_float64(options: dict[str, float]) -> None:
    torch.manual_seed(1)
    stream = labelled()
    assert stream.label is not None and stream.weight is not None
    loss, outputs, model = loss_and_outputs(stream, **options)
    expected = naive_loss(outputs, stream.label, stream.weight, PIDNetLoss(**options))  # type: ignore[arg-type]
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=0)
    loss.backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


def test_a_stream_without_a_valid_pixel_gives_zero_in_the_graph() -> None:
    stream = labelled()
    assert stream.label is not None
    loss, _, model = loss_and_outputs(Stream(stream.image, torch.full_like(stream.label, 255)))
    assert loss.item() == 0
    loss.backward()
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())
