"""Training needs no more memory and files at its end than at its beginning."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.limited import SETTLED, STEPS

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1200)]


def test_2000_steps_on_files_under_limits_do_not_grow(tmp_path, capsys):
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.limited", tmp_path],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    notes = {int(step): note for step, note in told["notes"].items()}
    settled, last = notes[SETTLED], notes[STEPS]
    most = max(note["open_files"] for note in notes.values())
    with capsys.disabled():
        for what in ("main", "workers"):
            print(
                f"\nresident, {what}: {settled[what]:.1f} MB after step {SETTLED}, {last[what]:.1f} MB after step "
                f"{STEPS} ({last[what] / settled[what] - 1:+.2%})",
                end="",
            )
        print(f"\ndata segment: {told['data']:.0f} MB; open files: {most} at most")
    assert all(note["main"] < 1.02 * settled["main"] for step, note in notes.items() if step >= SETTLED)
    assert all(note["workers"] < 1.02 * settled["workers"] for step, note in notes.items() if step >= SETTLED)
