"""What a run minds about ranks, as far as one process shows it; jobs of several are in tests/distributed."""

import pytest
import torch

from tests.command import TINY, refusal, run_dalib


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return path


def test_a_checkpoint_of_another_number_of_ranks_goes_on_and_what_that_changes_is_told(recipe, capsys):
    folder = recipe.parent / "run"
    assert run_dalib("train", recipe, "--out", folder) == 0
    last = folder / "checkpoints" / "last.pt"
    state = torch.load(last, weights_only=True)
    assert state["ranks"] == 1
    assert run_dalib("train", recipe, "--out", folder, "--resume") == 0
    assert "ranks" not in capsys.readouterr().out
    torch.save(state | {"ranks": 2}, last)
    assert run_dalib("train", recipe, "--out", folder, "--resume", "train.steps=3") == 0
    assert "the number of ranks was 2 and is 1." in capsys.readouterr().out
    assert torch.load(last, weights_only=True)["ranks"] == 1


def test_a_batch_that_does_not_divide_among_the_ranks_is_refused_with_the_numbers(recipe, monkeypatch, capsys):
    monkeypatch.setattr("dalib.ranks.world", lambda: 2)
    said = refusal(capsys, "train", recipe, "--out", recipe.parent / "run", "data.batch_size=6", "train.accumulate=2")
    assert said == (
        "data.batch_size: 6 images, which count all ranks, do not divide into 2 ranks times 2 micro-batches "
        "(train.accumulate); expected a multiple of 4."
    )
    assert not (recipe.parent / "run").exists()


@pytest.mark.parametrize(("value", "expected"), [("0", "at least 1"), ("90000", "at most 86400"), ("1.5", "a whole")])
def test_the_timeout_is_within_its_bounds(value, expected, recipe, capsys):
    said = refusal(capsys, "train", recipe, f"train.timeout={value}")
    assert "train.timeout: expected" in said and expected in said
