"""A run that an error ends is saved as of its last whole step, says so, and goes on from there."""

import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time

import pytest
import torch

from dalib.errors import StrategyError
from tests.command import TINY, refusal, run_dalib

FAULTY = TINY.replace("tests.tiny_plugin", "tests.tiny_plugin, tests.faulty_plugin").replace(
    "  - {use: supervised}\n", "  - {use: supervised}\n  - {use: faulty, how: none}\n"
)


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "faulty.yaml"
    path.write_text(FAULTY)
    return path


def arguments(recipe, how, *rest):
    return ["train", recipe, "--out", recipe.parent / how, "train.steps=4", f"strategies.1.how={how}", *rest]


def state_of(folder):
    return torch.load(folder / "checkpoints" / "last.pt", weights_only=True)


def metrics(folder):
    return [
        json.loads(line, parse_constant=pytest.fail) for line in (folder / "metrics.jsonl").read_text().splitlines()
    ]


def test_a_fault_in_a_hook_saves_the_last_whole_step_from_where_the_run_goes_on(recipe, monkeypatch):
    folder = recipe.parent / "code"
    with pytest.raises(StrategyError, match="strategy 'faulty' in its hook 'loss' at step 3 raised KeyError") as caught:
        run_dalib(*arguments(recipe, "code"))
    assert caught.value.__notes__ == [f"The run is saved as of step 2. Go on with `dalib train {folder} --resume`."]
    assert state_of(folder)["step"] == 2 and state_of(folder)["strategies"]["faulty"] == {"done": 2}
    assert run_dalib(*arguments(recipe, "none")) == 0
    monkeypatch.setattr("tests.faulty_plugin.Faulty.at", 99)  # mended
    monkeypatch.setattr("dalib.runs.run.check_same_recipe", lambda folder, recipe: None)
    assert run_dalib(*arguments(recipe, "code", "strategies.1.at=99", "--resume")) == 0
    whole = state_of(recipe.parent / "none")
    assert all(torch.equal(value, whole["model"][key]) for key, value in state_of(folder)["model"].items())


def test_a_users_error_from_a_strategy_is_one_line_and_status_2(recipe, capsys):
    said = refusal(capsys, *arguments(recipe, "user"))
    assert said.startswith(
        "the moon is down. It was raised by strategy 'faulty' in its hook 'loss' at step 3. The run is"
    )
    assert "is saved as of step 2." in said


@pytest.mark.parametrize(
    ("every", "said"),
    [
        (2, "The run is saved as of step 2. Go on with"),
        (9, "The run could not be saved, for step 3 broke off in the middle of its update"),
    ],
)
def test_after_a_fault_behind_the_update_nothing_is_saved_but_what_was(every, said, recipe):
    with pytest.raises(StrategyError) as caught:
        run_dalib(*arguments(recipe, "after", f"train.checkpoint_every={every}"))
    (note,) = caught.value.__notes__
    assert note.startswith(said)
    if every == 2:
        with pytest.raises(StrategyError):
            run_dalib(*arguments(recipe, "code"))
        saved, whole = state_of(recipe.parent / "after"), state_of(recipe.parent / "code")
        assert all(torch.equal(value, whole["model"][key]) for key, value in saved["model"].items())
    else:
        assert "So it has no checkpoint." in note and not (recipe.parent / "after" / "checkpoints").exists()


def test_a_run_that_goes_bad_stops_with_a_finite_checkpoint(recipe, capsys):
    folder = recipe.parent / "nan"
    said = refusal(capsys, *arguments(recipe, "nan"))
    assert said.startswith(
        "step 3 went bad: term 'x' of strategy 'faulty' is not finite. The step is undone. Start again"
    )
    assert "The run is saved as of step 2." in said
    assert state_of(folder)["step"] == 2
    assert all(value.isfinite().all() for value in state_of(folder)["model"].values())
    assert [line["step"] for line in metrics(folder)] == [1, 2]
    assert run_dalib(*arguments(recipe, "nan", "train.on_non_finite=skip", "--resume")) == 0
    skipped = metrics(folder)[2:]
    assert [line["skipped"] for line in skipped] == [1, 1]
    assert "faulty/x" not in skipped[0] and "faulty/x" in skipped[1]


@pytest.mark.parametrize("how", ["death", "code"])
def test_a_dead_worker_and_a_broken_data_set_end_the_run_saved_with_all_processes(how, recipe, capsys):
    folder = recipe.parent / "none"
    told = arguments(recipe, "none", f"data.source={{use: faulty, how: {how}}}", "data.workers=2", "train.steps=9")
    if how == "death":
        said = refusal(capsys, *told)
        assert re.match(r"a worker process that loads the source data \(pid \d+\) was ended by SIGKILL\. ", said)
    else:
        with pytest.raises(RuntimeError, match=r"street_4.png of the source data could not be loaded") as caught:
            run_dalib(*told)
        said = caught.value.__notes__[0]
    saved = state_of(folder)["step"]
    assert f"The run is saved as of step {saved}. Go on with" in said
    assert multiprocessing.active_children() == []


def test_evaluation_reads_in_the_recipes_worker_processes(recipe, capsys):
    eval_dies = ["data.eval={use: faulty, how: death}", "data.workers=1"]
    for command in (arguments(recipe, "none"), ["evaluate", recipe.parent / "none"]):
        said = refusal(capsys, *command, *eval_dies)
        assert re.match(r"a worker process that loads the eval data \(pid \d+\) was ended by SIGKILL\. ", said)
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_signal_to_the_whole_group_ends_the_run_as_one_to_it_alone_does(number, recipe):
    folder = recipe.parent / "none"
    told = arguments(recipe, "none", "data.source={use: faulty, how: slow}", "data.workers=2", "train.steps=999")
    environment = {"PYTHONPATH": ":".join(sys.path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "dalib", *map(str, told)]
    with subprocess.Popen(command, env=environment, start_new_session=True, stderr=subprocess.PIPE) as process:
        while not (folder / "metrics.jsonl").exists() and process.poll() is None:
            time.sleep(0.05)
        os.killpg(process.pid, number)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + number, said.decode()
    assert state_of(folder)["step"] >= 1 and b"it is saved. Go on with" in said
