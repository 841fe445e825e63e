"""The order of a stream's images: pure functions of the position, so that resuming is seeking."""

import operator
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from typing import TYPE_CHECKING

import torch

from dalib.errors import DataError, StackError
from dalib.randomness import seed_of

if TYPE_CHECKING:
    from dalib.data.dataset import Draw

BLOCK = 1000  # positions in which each data set has exactly its share


def shuffled(length: int, *key: str | int) -> "Draw":
    """Return the draw that goes through all images in a new random order each epoch."""

    @lru_cache(maxsize=2)
    def order(epoch: int) -> list[int]:
        generator = torch.Generator().manual_seed(seed_of(*key, epoch))
        return torch.randperm(length, generator=generator).tolist()

    def draw(position: int) -> int:
        return order(position // length)[position % length]

    return draw


def in_shares(lengths: Sequence[int], shares: Sequence[float], *key: str | int) -> "Draw":
    """Return the draw over joined data sets that takes each by its share, to a thousandth, and shuffles within each.

    Args:
        lengths: of the data sets. shares: of the positions, > 0; only their proportion counts.

    Raises:
        DataError: a share is less than a thousandth of all.
    """
    counts = _apportioned(shares)
    starts = [0, *accumulate(lengths)]
    draws = [shuffled(length, *key, "set", number) for number, length in enumerate(lengths)]

    @lru_cache(maxsize=2)
    def block(number: int) -> list[tuple[int, int]]:
        """Return the data set of each position of a block, and how many of its images were drawn before."""
        generator = torch.Generator().manual_seed(seed_of(*key, "share", number))
        owners = [owner for owner, count in enumerate(counts) for _ in range(count)]
        drawn = [number * count for count in counts]
        found = []
        for at in torch.randperm(BLOCK, generator=generator).tolist():
            found.append((owners[at], drawn[owners[at]]))
            drawn[owners[at]] += 1
        return found

    def draw(position: int) -> int:
        owner, place = block(position // BLOCK)[position % BLOCK]
        return starts[owner] + draws[owner](place)

    return draw


def in_range(draw: "Draw", stream: str, length: int) -> "Draw":
    """Return the draw of a strategy's ``sampler`` with a check of each index.

    Raises:
        StackError: it is no function, or returned something else than an index of the data set.
    """
    if not callable(draw):
        raise StackError(f"expected a function from position to index for the stream {stream!r}, found {draw!r:.60}.")

    def checked(position: int) -> int:
        found = draw(position)
        try:
            index = operator.index(found)
        except TypeError:
            index = -1
        if not 0 <= index < length:
            raise StackError(
                f"expected an index in 0..{length - 1} for position {position} of the stream {stream!r}, "
                f"found {found!r:.60}."
            )
        return index

    return checked


def _apportioned(shares: Sequence[float]) -> list[int]:
    """Return whole numbers in the proportion of ``shares`` that add up to ``BLOCK``, by the largest remainders."""
    exact = [BLOCK * share / sum(shares) for share in shares]
    counts = [int(value) for value in exact]
    by_remainder = sorted(range(len(shares)), key=lambda i: counts[i] - exact[i])
    for i in by_remainder[: BLOCK - sum(counts)]:
        counts[i] += 1
    if not all(counts):
        least = min(shares)
        raise DataError(f"share: expected at least 1/{BLOCK} of their sum, found {least:g} of {sum(shares):g}.")
    return counts
