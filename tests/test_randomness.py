"""Draws depend on their key and nothing else."""

import torch

from dalib.randomness import seed_of, seeded

CPU = torch.device("cpu")


def test_a_key_gives_the_same_seed_for_ever():
    assert seed_of(0, 1, "fda") == 4135730417899364306
    assert 0 <= seed_of("x") < 2**63


def test_keys_that_look_alike_give_different_seeds():
    keys = [(1, 2), (12,), ("1", "2"), (2, 1), ("1, 2",), (1, "2")]
    assert len({seed_of(*key) for key in keys}) == len(keys)


def test_the_body_draws_from_its_key_and_leaves_no_trace():
    def draw(*key):
        with seeded(CPU, *key):
            return torch.rand(4)

    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    first = draw(0, "a")
    assert torch.equal(torch.rand(4), expected)
    assert torch.equal(draw(0, "a"), first)
    assert not torch.equal(draw(0, "b"), first)


def test_the_generators_come_back_after_an_error_and_from_nested_bodies():
    state = torch.get_rng_state()
    try:
        with seeded(CPU, 1), seeded(CPU, 2):
            torch.rand(1)
            raise KeyError
    except KeyError:
        pass
    assert torch.equal(torch.get_rng_state(), state)
