"""Joined data sets are drawn by their shares, as a pure function of the position."""

from collections import Counter

import pytest
import torch

from dalib.data.draws import in_range, in_shares
from dalib.data.joined import Joined
from dalib.data.loader import StreamLoader
from dalib.errors import DataError, StackError
from tests.tiny import TinyData

LENGTHS = [10, 90]


def owners(draw, positions):
    return Counter("first" if draw(p) < LENGTHS[0] else "second" for p in positions)


def test_each_set_gets_its_share_of_any_thousand_positions():
    draw = in_shares(LENGTHS, [3, 1], 0, "order", "source")
    assert owners(draw, range(1000)) == owners(draw, range(1000, 2000)) == {"first": 750, "second": 250}
    assert 550 < owners(draw, range(800))["first"] < 650
    blocks = [[draw(p) < LENGTHS[0] for p in range(start, start + 1000)] for start in (0, 1000)]
    assert blocks[0] != blocks[1]
    thirds = in_shares(LENGTHS, [1, 2], 0)
    assert owners(thirds, range(1000)) == {"first": 333, "second": 667}


def test_within_a_set_every_image_comes_once_an_epoch_across_blocks():
    draw = in_shares(LENGTHS, [0.5, 0.5], 7)
    drawn = [index for index in map(draw, range(3000)) if index >= LENGTHS[0]]
    epochs = [drawn[i : i + 90] for i in range(0, 1440, 90)]
    assert all(sorted(epoch) == list(range(10, 100)) for epoch in epochs) and epochs[0] != epochs[1]


def test_a_share_depends_on_position_and_key_alone():
    there, back = (in_shares(LENGTHS, [0.2, 0.8], 0, "order", "source") for _ in range(2))
    positions = range(0, 5000, 7)
    assert [there(p) for p in positions] == [back(p) for p in reversed(positions)][::-1]
    other = in_shares(LENGTHS, [0.2, 0.8], 1, "order", "source")
    assert [there(p) for p in range(50)] != [other(p) for p in range(50)]


def test_a_share_below_a_thousandth_is_refused():
    with pytest.raises(DataError, match=r"^share: expected at least 1/1000 of their sum, found 0.0001 of 1.0001.$"):
        in_shares(LENGTHS, [1, 0.0001])


def test_a_stream_of_joined_sets_follows_the_shares_and_else_the_sizes():
    def first_sets_share(shares):
        source = Joined({"a": TinyData(10), "b": TinyData(40)}, shares)
        loader = StreamLoader({"source": source}, {}, 50, 1, 0, 0)
        with loader.batches(0, 20, torch.device("cpu")) as batches:
            drawn = torch.cat([batch["source"].index for (batch,) in batches])
        return (drawn < 10).double().mean().item()

    assert first_sets_share(None) == 0.2 and first_sets_share([0.6, 0.4]) == 0.6


@pytest.mark.parametrize("found", [None, -1, 10, 2.0, "3"])
def test_an_index_that_is_none_of_the_data_set_is_named_with_its_position(found):
    draw = in_range(lambda position: found if position == 3 else position, "target", 10)
    assert draw(2) == 2
    with pytest.raises(StackError) as caught:
        draw(3)
    assert str(caught.value) == (f"expected an index in 0..9 for position 3 of the stream 'target', found {found!r}.")


def test_an_index_may_be_a_tensor_and_becomes_a_number():
    assert type(in_range(lambda position: torch.tensor(position), "source", 10)(4)) is int


def test_what_is_no_function_is_refused():
    with pytest.raises(StackError, match=r"expected a function from position to index .* 'source', found \[1, 2\]."):
        in_range([1, 2], "source", 10)
