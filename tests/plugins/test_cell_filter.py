"""The filter that sums over cells of pixels in place of all pixels: what it hears, and from where."""

import torch

from dalib_plugins.cell_filter import CellFilter


def test_what_lies_beyond_the_edge_does_not_choose_what_pixels_hear() -> None:
    """Below the last row, of a dark kerb, its cells have seven more, of the mean colour, which other pixels have."""
    colors = torch.linspace(0.3, 0.7, 65).view(65, 1).repeat(3, 1, 96)
    colors[:, -9:] = torch.linspace(0.05, 0.15, 96)
    ones = torch.ones(1, 1, 65, 96, dtype=torch.float64)
    some, everything = (
        CellFilter(colors[None].double() * 255 / 3, 67.0, cell=8, reach=8, heard=heard)(ones) for heard in (16, None)
    )
    assert (some / everything)[..., -1, :].min() > 0.95


def test_two_colours_of_a_cell_are_told_apart() -> None:
    """Where each cell has two far colours and distance does not count, a pixel hears those of its colour, and all."""
    bright = torch.rand(2, 1, 10, 13, generator=torch.Generator().manual_seed(0)) < 0.3
    bright[:, :, :4, :4] = False  # a cell of one colour
    bright[:, :, 0, 12] = True
    x = torch.rand(2, 2, 10, 13, generator=torch.Generator().manual_seed(1)).double()
    colors = 100 * bright.double().expand(-1, 3, -1, -1)
    found = CellFilter(colors, 1e6, cell=4, reach=3, heard=None)(x)
    sums = [(x * half).sum((2, 3), keepdim=True) for half in (bright, ~bright)]
    torch.testing.assert_close(found, torch.where(bright, *sums))


def test_a_value_is_heard_from_the_centre_of_its_cell() -> None:
    x = torch.zeros(1, 1, 12, 20, dtype=torch.float64)
    x[..., 5, 10] = 3.0  # in the cell of rows 4 to 7 and columns 8 to 11
    rows, columns = torch.arange(12.0).double()[:, None], torch.arange(20.0).double()
    squared = (rows - 5.5) ** 2 + (columns - 9.5) ** 2
    found = CellFilter(torch.zeros(1, 3, 12, 20).double(), 3.0, cell=4, reach=4, heard=None)(x)
    torch.testing.assert_close(found[0, 0], 3 * torch.exp(-squared / (2 * 3.0**2)))
