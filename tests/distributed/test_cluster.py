"""The batch script for SLURM: checked by bash and shellcheck, and run by stand-ins for SLURM's commands."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dalib.yaml import dump_yaml
from tests.distributed.launch import PATIENCE, ROOT, environment
from tests.distributed.slurm import descendants
from tests.distributed.test_jobs import RECIPE, STEPS, checkpoint, finish, messages, outcome
from tests.equal import assert_equal

pytestmark = pytest.mark.timeout(400)

SCRIPT = ROOT / "examples" / "cluster" / "train.sbatch"


class Slurm:
    """A job of the batch script on two nodes of one rank each."""

    def __init__(self, room: Path) -> None:
        self.room = room
        source = (ROOT / "tests" / "distributed" / "slurm.py").read_text()
        for name in ("srun", "scancel", "scontrol"):
            (room / name).write_text(f"#!{sys.executable}\n{source}")
            (room / name).chmod(0o755)

    def submit(self, *arguments: object, restarts: int = 0) -> subprocess.Popen[str]:
        paths = [str(self.room), str(Path(sys.executable).parent), os.environ["PATH"]]
        told = {"PATH": os.pathsep.join(paths), "SLURM_JOB_ID": str(free_job()), "SLURM_JOB_NODELIST": "node[1-2]"}
        told |= {"SLURM_NNODES": "2", "SLURM_CPUS_PER_TASK": "1", "SLURM_GPUS_ON_NODE": "1"}
        told |= {"SLURM_RESTART_COUNT": str(restarts)} if restarts else {}
        command = ["bash", SCRIPT, *map(str, arguments)]
        pipe = subprocess.PIPE
        return subprocess.Popen(
            command, cwd=ROOT, env=environment(**told), stdout=pipe, stderr=subprocess.STDOUT, text=True
        )


def free_job() -> int:
    """Return a number of a job whose port nobody has."""
    for job in range(os.getpid(), os.getpid() + 100):
        with socket.socket() as probe:
            if probe.connect_ex(("localhost", 20_000 + job % 10_000)):
                return job
    raise AssertionError("no port is free")


def await_step(step: int, folder: Path, job: subprocess.Popen[str]) -> None:
    metrics, end = folder / "metrics.jsonl", time.monotonic() + PATIENCE
    while not metrics.exists() or metrics.read_text().count("\n") < step:
        assert job.poll() is None and time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture
def slurm(tmp_path):
    (tmp_path / "slurm").mkdir()
    return Slurm(tmp_path / "slurm")


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "ranks.yaml"
    path.write_text(dump_yaml(RECIPE))
    return path


def test_the_batch_script_is_sound():
    subprocess.run(["bash", "-n", SCRIPT], check=True)
    shellcheck = shutil.which("shellcheck", path=Path(sys.executable).parent)
    done = subprocess.run([shellcheck, SCRIPT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_without_a_recipe_the_batch_script_says_how_to_call_it(slurm):
    job = slurm.submit("recipe.yaml")
    said, _ = job.communicate(timeout=PATIENCE)
    assert job.returncode == 2 and said.startswith("usage: sbatch ")


@pytest.mark.distributed
def test_a_job_at_its_time_limit_saves_queues_itself_again_and_goes_on_bit_for_bit(slurm, recipe, tmp_path):
    folder = tmp_path / "run"
    job = slurm.submit(recipe, folder)
    await_step(4, folder, job)
    job.send_signal(signal.SIGUSR1)
    said, _ = job.communicate(timeout=PATIENCE)
    (told,) = messages(said)
    assert told.startswith(f"stopped at step {checkpoint(folder)['step']} of {STEPS} by SIGTERM; it is saved"), said
    assert (slurm.room / "requeued").exists()
    again = slurm.submit(recipe, folder, restarts=1)
    said, _ = again.communicate(timeout=PATIENCE)
    assert again.returncode == 0, said
    finish(2, recipe, tmp_path / "unbroken")
    assert_equal(outcome(tmp_path / "unbroken"), outcome(folder))


@pytest.mark.distributed
def test_a_job_that_fails_is_not_queued_again(slurm, recipe, tmp_path):
    job = slurm.submit(recipe, tmp_path / "run", "model.use=tinny")
    said, _ = job.communicate(timeout=PATIENCE)
    assert "there is no model 'tinny'" in said and job.returncode != 0
    assert not (slurm.room / "requeued").exists()


@pytest.mark.distributed
def test_rank_0_saves_at_a_signal_though_the_node_of_the_store_has_nothing_left_to_do(recipe, tmp_path):
    folder, place = tmp_path / "run", f"--rdzv-endpoint=localhost:{20_000 + free_job() % 10_000}"
    plugins = [*RECIPE["plugins"], "tests.distributed.slow_writer_plugin"]
    told = ["-m", "dalib", "train", recipe, "--out", folder, f"plugins={plugins}", "train.checkpoint_every=1000"]
    nodes = []
    for address in ("localhost", "127.0.0.1"):  # the first has the store, and the first in the alphabet rank 0
        options = ["--nnodes=2", "--rdzv-backend=c10d", place, f"--local-addr={address}", "--shutdown-timeout=100"]
        command = [sys.executable, "-m", "torch.distributed.run", *options, *map(str, told)]
        nodes.append(subprocess.Popen(command, cwd=ROOT, env=environment()))
        time.sleep(4)
    await_step(3, folder, nodes[0])
    for node in nodes:
        for pid in [node.pid, *descendants(node.pid)]:
            os.kill(pid, signal.SIGTERM)
    for node in nodes:
        node.wait(timeout=PATIENCE)
    assert checkpoint(folder)["step"] >= 3
