"""The example that measures how well validators choose."""

import importlib.util
import json
import math
import sys
from pathlib import Path

import pytest

from dalib import Evidence, Validator, make_recipe, run
from dalib.runs.select import Candidate
from dalib.yaml import parse_yaml
from tests.command import TINY

SCRIPT = Path(__file__).parents[2] / "examples" / "choosing.py"


@pytest.fixture(scope="module")
def choosing():
    spec = importlib.util.spec_from_file_location("choosing", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Given(Validator):
    def score(self, evidence):
        return evidence.source


class Lower(Given):
    higher = False


def group_of(choosing, monkeypatch, scores, mious):
    monkeypatch.setattr(choosing, "validators", lambda names: {"up": Given(), "down": Lower()})
    group = choosing.Group(["up", "down"])
    for step, (score, miou) in enumerate(zip(scores, mious, strict=True)):
        group.add(Candidate(run=Path("r"), checkpoint=Path(f"r/{step}"), step=step), Evidence(source=score), miou)
    return group.figures()


def test_correlation_gap_and_the_worst_by_hand(choosing, monkeypatch):
    figures = group_of(choosing, monkeypatch, scores=[1.0, 2.0, 3.0, 4.0], mious=[0.1, 0.3, 0.4, 0.2])
    # Ranks 1 2 3 4 and 1 3 4 2: 1 - 6 * (0 + 1 + 1 + 4) / (4 * 15).
    assert figures["up"] == {"correlation": pytest.approx(0.4), "gap": pytest.approx(20.0), "avoids_worst": True}
    assert figures["down"] == {"correlation": pytest.approx(-0.4), "gap": pytest.approx(30.0), "avoids_worst": False}


def test_ties_share_their_ranks_and_what_is_constant_or_unknown_has_no_correlation(choosing, monkeypatch):
    assert choosing.ranks([0.5, 0.1, 0.5, 0.9]) == [2.5, 1.0, 2.5, 4.0]
    assert choosing.spearman([1.0, 1.0], [0.1, 0.2]) is None
    unknown = group_of(choosing, monkeypatch, scores=[math.nan, 1.0], mious=[0.1, 0.2])
    assert unknown["up"] == {"correlation": None, "gap": None, "avoids_worst": None}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folders = [tmp_path_factory.mktemp("runs") / f"run{seed}" for seed in range(3)]
    for seed, folder in enumerate(folders):
        value = parse_yaml(TINY)
        value["train"] |= {"steps": 3, "keep_every": 1, "eval_every": 1, "seed": seed}
        run(make_recipe(value), folder)
    return folders


def test_runs_are_judged_within_and_between_and_written_as_markdown_and_json(
    choosing, runs, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(sys, "argv", ["choosing.py", *map(str, runs), "--out", str(tmp_path / "out")])
    choosing.main()
    printed = capsys.readouterr().out
    assert (tmp_path / "out" / "choosing.md").read_text() == printed
    found = json.loads((tmp_path / "out" / "choosing.json").read_text())
    assert list(found) == [*map(str, runs), "between runs"]
    for folder in runs:
        logged = [json.loads(line)["eval/miou"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
        assert [one["miou"] for one in found[str(folder)]["candidates"]] == pytest.approx(logged)
    between = found["between runs"]
    assert [one["checkpoint"] for one in between["candidates"]] == [str(f / "checkpoints" / "last.pt") for f in runs]
    known = {"ensv", "ensv_miou", "entropy", "infomax", "snd"}
    assert known <= between["validators"].keys()
    assert all(-1 <= (between["validators"][name]["correlation"] or 0) <= 1 for name in known)
    assert all(f"\n| {name} |" in printed for name in (*known, "run0", "between runs"))


def test_runs_with_too_few_checkpoints_are_wrong_usage(choosing, runs, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["choosing.py", str(runs[0] / "checkpoints" / "last.pt")])
    with pytest.raises(SystemExit) as ended:
        choosing.main()
    assert (
        ended.value.code == 2
        and "expected at least 3 checkpoints, found 1; train.keep_every" in capsys.readouterr().err
    )
