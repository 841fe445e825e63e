"""Jobs that torchrun starts: one run of several ranks, whatever becomes of one of them."""

import json
import random
import signal
import socket
from pathlib import Path

import pytest
import torch

from dalib.yaml import dump_yaml
from tests.command import TINY
from tests.distributed.launch import Started, dalib
from tests.equal import assert_equal

pytestmark = pytest.mark.timeout(400)

LIMIT = 30  # seconds from a rank's death to the end or the restart of its job
STEPS = 16
ODD = "plugins=[tests.tiny_plugin, tests.distributed.odd_plugin]"
RECIPE = {
    "model": {"use": "tiny", "dropout": 0.2},
    "data": {
        "source": {"use": "diorama", "domain": "source", "size": [32, 64], "length": 5},
        "target": {"use": "diorama", "domain": "target", "size": [32, 64], "length": 3},
        "eval": {"use": "diorama", "domain": "target", "split": "val", "size": [32, 64], "length": 3},
        "batch_size": 4,
    },
    "strategies": [
        {"use": "augment", "streams": ["source", "target"], "flip": 0.5, "color_jitter": [0.5, 0.5, 0.5, 0.05]},
        {"use": "supervised"},
        {"use": "dacs", "threshold": 0.3},
        {"use": "odd", "seconds": 0.05},
    ],
    "train": {"steps": STEPS, "log_every": 1, "checkpoint_every": 3, "eval_every": 7},
    "evaluate": {"model": "teacher"},
    "plugins": ["tests.tiny_plugin", "tests.distributed.odd_plugin"],
}
CLOCKS = ("seconds", "images_per_second", "time", "ranks")
draw = random.Random(16)
KILLS = [(draw.randrange(2), draw.randrange(1, STEPS), number % 2) for number in range(10)]


def outcome(folder: Path) -> dict:
    """Return what a run has come to, and the names of its files."""
    return {
        "files": sorted(str(path.relative_to(folder)) for path in folder.rglob("*")),
        "checkpoints": {p.name: timeless(torch.load(p, weights_only=True)) for p in folder.glob("checkpoints/*")},
        "metrics": [timeless(line) for line in metrics(folder)],
        "results": timeless(json.loads((folder / "results.json").read_text())),
        "panels": {path.name: path.read_bytes() for path in folder.glob("panels/*")},
    }


def timeless(values: dict) -> dict:
    return {key: value for key, value in values.items() if key not in CLOCKS}


def metrics(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def checkpoint(folder: Path) -> dict:
    return torch.load(folder / "checkpoints" / "last.pt", weights_only=True)


def finish(ranks: int, recipe: Path, folder: Path, *more: object) -> str:
    """Train to the end, and return what was said."""
    done = dalib(ranks, "train", recipe, "--out", folder, *more)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def messages(said: str) -> list[str]:
    return [line.removeprefix("dalib: ") for line in said.splitlines() if line.startswith("dalib: ")]


@pytest.fixture
def tiny(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return path


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "ranks.yaml"
    path.write_text(dump_yaml(RECIPE))
    return path


@pytest.fixture(scope="module")
def unbroken(recipe):
    folder = recipe.parent / "unbroken"
    finish(2, recipe, folder)
    return folder


def test_two_ranks_leave_one_run_and_say_everything_once(tiny, tmp_path):
    said = finish(2, tiny, tmp_path / "two")
    finish(0, tiny, tmp_path / "one")
    two, one = outcome(tmp_path / "two"), outcome(tmp_path / "one")
    assert two["files"] == one["files"]
    assert [line.keys() for line in two["metrics"]] == [line.keys() for line in one["metrics"]]
    assert said.count("step 1/2") == said.count("report: ") == 1
    assert checkpoint(tmp_path / "two")["ranks"] == 2 and checkpoint(tmp_path / "one")["ranks"] == 1


@pytest.mark.distributed
@pytest.mark.parametrize(("rank", "step", "restarts"), KILLS)
def test_a_job_whose_rank_is_killed_ends_or_restarts_and_goes_on_bit_for_bit(
    rank, step, restarts, recipe, unbroken, tmp_path
):
    folder = tmp_path / "run"
    with Started(2, "train", recipe, "--out", folder, restarts=restarts) as job:
        job.await_step(step, folder)
        job.send(signal.SIGKILL, rank)
        status, said, seconds = job.end()
    assert f"rank {rank} on " in said and "nothing more is heard of it" in said, said
    if restarts:
        assert status == 0, said
    else:
        assert status != 0 and seconds < LIMIT
        if rank:
            assert checkpoint(folder)["step"] >= step  # rescued by rank 0
        finish(2, recipe, folder, "--resume")
    assert_equal(outcome(unbroken), outcome(folder))


@pytest.mark.distributed
def test_a_job_on_two_hosts_restarts_and_goes_on_bit_for_bit(recipe, unbroken, tmp_path):
    folder = tmp_path / "run"
    with socket.socket() as free:
        free.bind(("localhost", 0))
        place = f"--rdzv-endpoint=localhost:{free.getsockname()[1]}"
    told = {"restarts": 1, "meeting": ["--nnodes=2", "--rdzv-backend=c10d", "--rdzv-id=two", place]}
    with (
        Started(1, "train", recipe, "--out", folder, **told) as one,
        Started(1, "train", recipe, "--out", folder, **told) as other,
    ):
        one.await_step(4, folder)
        (other if 1 in other.pids() else one).send(signal.SIGKILL, 1)
        ends = [host.end() for host in (one, other)]
    assert [status for status, _, _ in ends] == [0, 0], ends
    assert "rank 1 on " in "".join(said for _, said, _ in ends)
    assert_equal(outcome(unbroken), outcome(folder))


@pytest.mark.distributed
@pytest.mark.parametrize("rank", [0, 1])
def test_a_stopped_rank_is_named_within_the_timeout(rank, recipe, tmp_path):
    folder = tmp_path / "run"
    with Started(2, "train", recipe, "--out", folder, "train.timeout=5") as job:
        job.await_step(2, folder)
        job.send(signal.SIGSTOP, rank)
        status, said, seconds = job.end()
    (told,) = messages(said)
    assert told.startswith(f"rank {rank} on ") and "nothing more is heard of it" in told
    assert status != 0 and seconds < 30 + LIMIT  # torchrun itself waits 30 s for a stopped process


@pytest.mark.distributed
def test_a_hanging_rank_is_named_and_ends(tiny, tmp_path):
    folder = tmp_path / "run"
    told = ("train.timeout=5", "train.steps=9", "strategies.1={use: odd, how: hang}", ODD)
    done = dalib(2, "train", tiny, "--out", folder, *told)
    (said,) = messages(done.stderr)
    assert done.returncode != 0 and said.startswith("rank 1 on ") and "whose last step was 2" in said
    assert "it hangs, or takes longer than train.timeout. The run is saved as of step" in said


@pytest.mark.distributed
@pytest.mark.parametrize(("number", "workers"), [(signal.SIGINT, 0), (signal.SIGTERM, 1)])
def test_a_signal_to_torchrun_ends_all_ranks_after_one_step_saved(number, workers, recipe, unbroken, tmp_path):
    folder = tmp_path / "run"
    with Started(2, "train", recipe, "--out", folder, f"data.workers={workers}") as job:
        job.await_step(4, folder)
        job.send(number)
        _, said, seconds = job.end()
    (told,) = messages(said)
    assert told.startswith(f"stopped at step {checkpoint(folder)['step']} of {STEPS} by ") and seconds < LIMIT
    finish(2, recipe, folder, "--resume")
    assert_equal(outcome(unbroken), outcome(folder))


@pytest.mark.distributed
def test_a_signal_to_one_rank_stops_the_others_with_it(recipe, tmp_path):
    folder = tmp_path / "run"
    with Started(2, "train", recipe, "--out", folder) as job:
        job.await_step(4, folder)
        job.send(signal.SIGTERM, 1)
        _, said, seconds = job.end()
    assert [told[:15] for told in messages(said)] == ["stopped at step"] and seconds < LIMIT


@pytest.mark.distributed
@pytest.mark.parametrize("ranks", [1, 4])
def test_a_run_goes_on_under_another_number_of_ranks_and_says_what_that_changes(ranks, recipe, unbroken, tmp_path):
    folder = tmp_path / "run"
    with Started(2, "train", recipe, "--out", folder) as job:
        job.await_step(4, folder)
        job.send(signal.SIGTERM)
        job.end()
    stopped = checkpoint(folder)["step"]
    said = finish(ranks, recipe, folder, "--resume")
    assert f"the number of ranks was 2 and is {ranks}." in said
    assert checkpoint(folder)["step"] == STEPS and checkpoint(folder)["ranks"] == ranks
    whole, changed = outcome(unbroken), outcome(folder)
    assert changed["files"] == whole["files"]
    assert_equal(whole["metrics"][:stopped], changed["metrics"][:stopped])
    assert whole["metrics"][stopped] != changed["metrics"][stopped]  # BatchNorm and draws are others


@pytest.mark.distributed
def test_evaluation_is_the_same_on_1_2_and_4_ranks(unbroken, tmp_path):
    results = []
    for ranks in (0, 1, 2, 4):
        done = dalib(ranks, "evaluate", unbroken, "--json", tmp_path / f"{ranks}.json")
        assert done.returncode == 0 and done.stdout.count("mean of") == 1, done.stderr
        results.append((tmp_path / f"{ranks}.json").read_text())
    assert len(set(results)) == 1


@pytest.mark.distributed
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("model.use=tinny", "there is no model 'tinny'"),
        ("data.batch_size=3", "data.batch_size: 3 images, which count all ranks, do not divide into 2 ranks"),
        ("data.source.use=folder", "data.source"),
    ],
)
def test_a_users_mistake_is_told_once(change, message, tiny, tmp_path):
    done = dalib(2, "train", tiny, "--out", tmp_path / "run", change)
    (told,) = messages(done.stderr)
    assert message in told and done.returncode != 0 and not (tmp_path / "run").exists()


@pytest.mark.distributed
def test_a_command_that_ranks_do_not_share_is_refused_once_instead_of_done_by_each(tiny):
    done = dalib(2, "plan", tiny)
    (told,) = messages(done.stderr)
    assert "`dalib plan` is a command of one process" in told and not done.stdout and done.returncode != 0


@pytest.mark.distributed
def test_where_rank_0_alone_fails_the_others_end_too(tiny, tmp_path):
    (tmp_path / "file").write_text("")
    done = dalib(2, "train", tiny, "--out", tmp_path / "file")
    (told,) = messages(done.stderr)
    assert "cannot hold a run: it is a file" in told


@pytest.mark.distributed
@pytest.mark.parametrize("how", ["user", "code"])
def test_where_another_rank_alone_fails_the_run_is_saved(how, tiny, tmp_path):
    folder = tmp_path / "run"
    told = (f"strategies.1={{use: odd, how: {how}}}", ODD, "train.steps=9")
    done = dalib(2, "train", tiny, "--out", folder, *told)
    *own, rescue = messages(done.stderr)
    assert [told[:16] for told in own] == (["the moon is down"] if how == "user" else [])
    assert done.stderr.count("StrategyError: strategy 'odd' in its hook 'loss' at step 3 raised") == (how == "code")
    assert rescue.startswith("rank 1 on ") and f"saved as of step {checkpoint(folder)['step']}" in rescue


@pytest.mark.distributed
def test_a_restart_does_not_go_on_with_the_run_of_somebody_else(tiny, tmp_path):
    finish(0, tiny, tmp_path / "run")
    before = outcome(tmp_path / "run")
    done = dalib(2, "train", tiny, "--out", tmp_path / "run", "train.steps=9", restarts=1)
    assert [told[-60:] for told in messages(done.stderr)] == 2 * [messages(done.stderr)[0][-60:]]
    assert "already holds a run" in done.stderr and done.returncode != 0
    assert_equal(before, outcome(tmp_path / "run"))


@pytest.mark.distributed
def test_what_each_rank_could_not_read_is_in_the_runs_files(tiny, tmp_path):
    folder = tmp_path / "run"
    bad = ("data.source={use: odd}", "data.on_bad_item=skip", "data.streams={}", "train.steps=6", ODD)
    said = finish(2, tiny, folder, *bad)
    assert sorted(json.loads((folder / "results.json").read_text())["bad_items"]) == [
        "source street_2.png",
        "source street_5.png",
    ]
    assert said.count("skipping a bad item: ") == 2 and metrics(folder)[-1]["bad_items"] == 2
    assert len(checkpoint(folder)["bad_items"]) == 2
