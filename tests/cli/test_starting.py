"""The first seconds of a command, in a process and a terminal of its own."""

import os
import pty
import signal
import subprocess
import sys
import time

import pytest


@pytest.fixture
def slow_torch(tmp_path):
    """The environment of a process in which importing torch never ends."""
    (tmp_path / "torch.py").write_text("import time\nprint('torch', flush=True)\ntime.sleep(60)\n")
    return {"PYTHONPATH": ":".join([str(tmp_path), *sys.path]), "TERM": "xterm"}


def read_until(terminal, text):
    read = b""
    while text not in read:
        read += os.read(terminal, 1000)
    return read


def test_a_command_says_at_once_what_it_does_and_ctrl_c_ends_it_with_one_line(slow_torch):
    terminal, theirs = pty.openpty()
    command = [sys.executable, "-m", "dalib", "plugins"]
    with subprocess.Popen(command, env=slow_torch, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        said = read_until(terminal, b"importing PyTorch")
        if b"torch\r\n" not in said:
            read_until(terminal, b"torch\r\n")
        process.send_signal(signal.SIGINT)
        rest = read_until(terminal, b"interrupted.")
    os.close(terminal)
    assert process.returncode == 130
    assert b"Traceback" not in rest and b"\x1b[?25h" in rest  # which shows the cursor


def test_ctrl_c_before_the_libraries_are_there_leaves_one_line_without_a_terminal(slow_torch):
    command = [sys.executable, "-m", "dalib", "plugins"]
    with subprocess.Popen(command, env=slow_torch, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"torch\n"
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=20)[1]
    assert (process.returncode, said) == (130, b"dalib: interrupted.\n")


@pytest.mark.parametrize(
    ("module", "code", "status"),
    [("yaml", "say()", 130), ("sitecustomize", "import atexit; atexit.register(say)", 2)],
    ids=["before the command line is there", "after the command is done"],
)
def test_ctrl_c_at_the_very_start_and_end_of_the_process_leaves_no_traceback(module, code, status, tmp_path):
    (tmp_path / f"{module}.py").write_text(
        f"import time\ndef say():\n    print('here', flush=True)\n    time.sleep(2)\n{code}\n"
    )
    command, pipe = [sys.executable, "-m", "dalib", "plan", "none.yaml"], subprocess.PIPE
    environment = {"PYTHONPATH": ":".join([str(tmp_path), *sys.path])}
    with subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout.readline() == "here\n"
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=20)[1]
    assert process.returncode == status and said.startswith("dalib: ") and said.count("\n") == 1, said


@pytest.mark.parametrize(
    "arguments",
    [["train", "none.yaml"], ["plan", "none.yaml"], ["evaluate", "none"], ["predict", "none", "x", "--out", "o"]],
)
def test_a_path_that_is_misspelt_is_answered_without_torch(arguments, slow_torch, tmp_path):
    command = [sys.executable, "-m", "dalib", *arguments]
    ended = subprocess.run(command, env=slow_torch, cwd=tmp_path, capture_output=True, text=True, timeout=30)
    assert ended.returncode == 2 and ended.stderr.startswith(f"dalib: {arguments[1]} does not exist")
