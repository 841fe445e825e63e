"""Masks of other shapes than classes, against plain float64 references."""

import math

import pytest
import torch

from dalib_plugins.mixing import cow_mask, cutmix_mask, gaussian_kernels


def test_a_gaussian_kernel_by_number():
    kernels = gaussian_kernels(torch.tensor([0.5, 1.0], dtype=torch.float64), 3)
    for kernel, sigma in zip(kernels, (0.5, 1.0), strict=True):
        values = [math.exp(-(x**2) / (2 * sigma**2)) for x in range(-3, 4)]
        assert kernel.tolist() == pytest.approx([value / sum(values) for value in values], rel=1e-12)


def box(mask):
    """Return the sides of the rectangle that a mask is, after checking that it is one."""
    rows, columns = mask.any(1), mask.any(0)
    assert torch.equal(mask, rows[:, None] & columns[None])
    for line in (rows, columns):
        places = line.nonzero()
        assert len(places) == places.max() - places.min() + 1
    return int(rows.sum()), int(columns.sum())


def test_cutmix_cuts_one_rectangle_of_the_share_at_every_place_and_ratio():
    torch.manual_seed(0)
    masks = cutmix_mask(2000, (40, 80), (0.25, 0.25))
    sides = torch.tensor([box(mask) for mask in masks]).double()
    torch.testing.assert_close(sides.prod(1) / 3200, torch.full((2000,), 0.25).double(), atol=0.02, rtol=0)
    height = (sides[:, 0] / 40).log() / math.log(0.25)  # u of p^u, uniform
    assert height.min() < 0.02 and height.max() > 0.98 and height.mean().item() == pytest.approx(0.5, abs=0.03)
    assert masks[:, 0].any(1).float().mean() > 0.02 and masks[:, -1].any(1).float().mean() > 0.02  # to every edge
    assert (masks.float().mean(0) - masks.flip(1, 2).float().mean(0)).abs().max() < 0.08


def test_cutmix_draws_the_share_from_its_range():
    torch.manual_seed(0)
    share = cutmix_mask(2000, (100, 100), (0.1, 0.4)).float().mean((1, 2))
    assert share.min() == pytest.approx(0.1, abs=0.01) and share.max() == pytest.approx(0.4, abs=0.01)
    assert share.mean().item() == pytest.approx(0.25, abs=0.01)
    assert cutmix_mask(2, (5, 7), (1.0, 1.0)).all()


def test_cow_masks_are_noise_smoothed_and_cut_at_the_share(monkeypatch):
    """In float64 and by a sum over all pixels: exp(-(d_y^2 + d_x^2) / (2 sigma^2)), zeros outside."""
    size, sigma, share = (12, 17), 1.5, 0.3
    noise = torch.randn(3, *size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    monkeypatch.setattr(torch, "randn", lambda *shape, device: noise[None].float())
    masks = cow_mask(3, size, (share, share), (sigma, sigma))
    near = [torch.arange(side, dtype=torch.float64) for side in size]
    rows, columns = ((-(x[:, None] - x).square() / (2 * sigma**2)).exp() for x in near)
    smooth = rows @ noise @ columns
    threshold = torch.distributions.Normal(0.0, 1.0).icdf(torch.tensor(share, dtype=torch.float64))
    cut = smooth.mean((1, 2)) + threshold * smooth.std((1, 2), correction=0)
    clear = (smooth - cut[:, None, None]).abs() > 2e-3 * smooth.std()  # the kernel ends at four sigma
    assert clear.float().mean() > 0.98
    assert torch.equal(masks[clear], (smooth <= cut[:, None, None])[clear])


def test_cow_masks_have_blotches_as_large_as_sigma_says_and_each_its_own_share():
    torch.manual_seed(0)
    fine, coarse = (cow_mask(64, (64, 96), (0.5, 0.5), (sigma, sigma)) for sigma in (1.0, 6.0))
    edges = [(masks[:, :, 1:] != masks[:, :, :-1]).float().mean() for masks in (fine, coarse)]
    assert 4 < edges[0] / edges[1] < 8  # as 6 is to 1
    share = cow_mask(256, (64, 96), (0.2, 0.8), (1.0, 2.0)).float().mean((1, 2))
    assert 0.17 < share.min() < 0.24 and 0.76 < share.max() < 0.83
    assert share.mean().item() == pytest.approx(0.5, abs=0.04)
    widths = cow_mask(256, (64, 96), (0.5, 0.5), (1.0, 8.0))
    edges = (widths[:, :, 1:] != widths[:, :, :-1]).float().mean((1, 2))
    assert edges.max() > 4 * edges.min()  # each its own sigma
