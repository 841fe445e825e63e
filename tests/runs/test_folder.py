"""The files of a run."""

import json
import subprocess
import sys

import pytest
import torch

from dalib.core import checkpoint
from dalib.errors import CheckpointError, DalibError
from dalib.files import find_checkpoint
from dalib.runs.environment import environment_of
from dalib.runs.folder import RunFolder
from dalib.runs.lock import locked


def test_a_folder_holds_one_run(tmp_path):
    folder = RunFolder(tmp_path)
    folder.start("model: x\n", {"python": "3"})
    assert folder.recipe.read_text() == "model: x\n" and json.loads(folder.environment.read_text()) == {"python": "3"}
    with pytest.raises(DalibError, match=r"already holds a run. Go on with it by --resume, or choose another folder"):
        folder.start("model: y\n", {})
    assert folder.recipe.read_text() == "model: x\n"


@pytest.mark.parametrize(("name", "reason"), [("file", "it is a file"), ("file/run", "Not a directory")])
def test_a_path_that_cannot_be_a_folder_is_named(name, reason, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DalibError) as caught, locked(tmp_path / name):
        pass
    assert str(caught.value) == f"{tmp_path / name} cannot hold a run: {reason}. Choose another folder with --out."


def test_two_processes_do_not_train_in_one_folder(tmp_path, monkeypatch):
    monkeypatch.setattr("dalib.runs.lock.PATIENCE", 0)
    folder = RunFolder(tmp_path / "new" / "run")
    held = (
        "import sys; from pathlib import Path; from dalib.runs.lock import locked\n"
        f"with locked(Path({str(folder.path)!r})): print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", held], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline() == b"held\n"
        with pytest.raises(DalibError) as caught, locked(folder.path):
            pass
        assert str(caught.value) == (
            f"{folder.path} is in use: another process trains there. Wait for it or end it, or choose another folder "
            "with --out."
        )
        other.kill()
        other.wait()
    with locked(folder.path):  # a process that was killed holds nothing
        folder.log({"step": 1})
    assert [file.name for file in folder.path.iterdir()] == ["metrics.jsonl"]


def test_a_folder_that_nothing_was_written_to_goes_again(tmp_path):
    with locked(tmp_path / "run"):
        pass
    assert not (tmp_path / "run").exists()


def test_rewinding_drops_what_came_after_a_step_and_a_line_cut_short(tmp_path):
    folder = RunFolder(tmp_path)
    folder.rewind(3)
    for step in (1, 2, 3, 4):
        folder.log({"step": step, "loss": 0.5})
    with folder.metrics.open("a") as file:
        file.write('{"step": 2, "lo')
    folder.rewind(2)
    assert [json.loads(line)["step"] for line in folder.metrics.read_text().splitlines()] == [1, 2]


def save(path, step):
    checkpoint.write({"model": {}, "step": step}, path)


def damage(path):
    path.write_bytes(path.read_bytes()[:-1])


def test_a_checkpoint_is_found_by_its_folder_or_its_path(tmp_path):
    with pytest.raises(CheckpointError, match=r"has no checkpoint; expected .*last.pt. Has the run written one yet"):
        find_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match="does not exist; expected a run folder or a checkpoint"):
        find_checkpoint(tmp_path / "none")
    folder = RunFolder(tmp_path)
    save(folder.previous, 1)  # a process killed between two renames leaves no other
    assert find_checkpoint(tmp_path) == folder.previous
    save(folder.last, 2)
    assert find_checkpoint(tmp_path) == find_checkpoint(folder.last) == folder.last


def test_the_newest_whole_checkpoint_is_taken_and_damaged_ones_are_named_and_set_aside(tmp_path, caplog):
    folder = RunFolder(tmp_path)
    assert folder.newest() is None
    for path, step in ((folder.last, 9), (folder.previous, 8), (folder.kept(6), 6), (folder.kept(2_000_000), 7)):
        save(path, step)
    save(folder.best, 5)
    assert folder.newest()["step"] == 9 and not caplog.messages
    damage(folder.last)
    damage(folder.previous)
    assert folder.newest()["step"] == 7
    for message, path in zip(caplog.messages, (folder.last, folder.previous), strict=True):
        assert message.startswith(f"checkpoint {path} cannot be read: ")
    assert caplog.messages[0].endswith(f"last.pt.damaged; {folder.kept(2_000_000)}, of step 7, is whole.")
    assert folder.checkpoints == [folder.kept(2_000_000), folder.kept(6)]


def test_where_all_checkpoints_are_damaged_the_newest_is_named_and_none_is_touched(tmp_path):
    folder = RunFolder(tmp_path)
    for path in (folder.last, folder.previous):
        save(path, 1)
        damage(path)
    with pytest.raises(CheckpointError, match=r"last\.pt cannot be read: "):
        folder.newest()
    assert folder.checkpoints == [folder.last, folder.previous]


def test_a_score_stands_in_the_line_of_its_step_in_place_of_an_earlier_one(tmp_path):
    folder = RunFolder(tmp_path)
    folder.log_score(3, {"eval/miou": 0.1})  # a checkpoint alone was copied here
    assert folder.metrics.read_text() == '{"step": 3, "eval/miou": 0.1}\n'
    folder.log({"step": 4, "a/b": 1.0})
    for score in (0.2, 0.3):
        folder.log_score(4, {"eval/miou": score})
    assert folder.metrics.read_text().splitlines() == [
        '{"step": 3, "eval/miou": 0.1}',
        '{"step": 4, "a/b": 1.0, "eval/miou": 0.3}',
    ]


def test_the_environment_says_what_a_figure_was_measured_on():
    environment = environment_of(torch.device("cpu"))
    assert environment["device"] == "cpu" and environment["hardware"] and environment["threads"] >= 1
    assert environment["packages"]["torch"] and json.dumps(environment)
