"""Choosing among the checkpoints of runs without a label of the target."""

import json
import shutil

import pytest

from dalib import DalibError, make_recipe, run
from dalib.core.create import validator_from
from dalib.runs.select import find_candidates, select
from dalib.yaml import parse_yaml
from tests.command import TINY, refusal, run_dalib


def validators(*names):
    return {name: validator_from({"use": name}, "--by") for name in names}


def make(folder, *changes, **train):
    value = parse_yaml(TINY)
    value["train"] |= {"steps": 3, "keep_every": 1, "eval_every": 1, **train}
    value["data"] |= dict(changes)
    run(make_recipe(value), folder)
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    return make(root / "one"), make(root / "two", seed=1)


def test_a_step_of_a_run_is_one_candidate_and_previous_is_none(runs):
    found = find_candidates(runs)
    assert [(one.run, one.checkpoint.name, one.step) for one in found] == [
        (folder, name, step)
        for folder in runs
        for step, name in ((1, "step_000001.pt"), (2, "step_000002.pt"), (3, "last.pt"))
    ]
    (best,) = find_candidates([runs[0] / "checkpoints" / "best.pt"])
    assert best.run == runs[0] and best.step == json.loads((runs[0] / "results.json").read_text())["best"]["step"]


def test_the_scores_are_those_of_the_runs_own_evaluations(runs):
    ranking = select([runs[0]], validators("ensv", "snd", "entropy", "infomax"))
    logged = [json.loads(line) for line in (runs[0] / "metrics.jsonl").read_text().splitlines()]
    for name in ("snd", "entropy", "infomax"):
        assert ranking.scores()[name] == pytest.approx([line[f"eval/{name}"] for line in logged], abs=1e-6)
    assert ranking.scores()["ensv"][-1] == pytest.approx(logged[-1]["eval/ensv"], abs=1e-9)
    assert [one.step for one in ranking.candidates] == [1, 2, 3]


def test_no_label_is_read(runs, monkeypatch):
    from dalib.evaluation.metrics import ConfusionMatrix

    def never(*arguments):
        raise AssertionError("a label was scored")

    monkeypatch.setattr(ConfusionMatrix, "update", never)
    assert len(select(runs, validators("snd")).candidates) == 6


def test_the_order_is_by_the_validator_in_its_direction(runs):
    ranking = select(runs, validators("ensv", "entropy"))
    for name, sign in (("ensv", 1), ("entropy", -1)):
        scores = ranking.scores()[name]
        assert [scores[number] for number in ranking.order(name)] == sorted(scores, key=lambda s: -sign * s)


def test_runs_of_other_data_or_classes_are_left_out_with_the_reason(runs, tmp_path):
    other = make(tmp_path / "other", ("eval", {"use": "diorama", "split": "val", "size": [32, 64], "length": 2}))
    ranking = select([runs[0], other], validators("snd"))
    assert [one.run for one in ranking.candidates] == [runs[0]] * 3
    assert len(ranking.left_out) == 3
    assert set(ranking.left_out.values()) == {"its evaluation data are others; --recipe names what all are judged on"}
    common = make_recipe(parse_yaml(TINY))
    assert len(select([runs[0], other], validators("snd"), recipe=common).candidates) == 6


def test_select_prints_the_ranking_and_its_doubts_and_writes_them(runs, tmp_path, capsys):
    assert run_dalib("select", *runs, "--by", "snd", "--json", tmp_path / "s.json") == 0
    printed = capsys.readouterr().out
    told = json.loads((tmp_path / "s.json").read_text())
    assert "6 candidates by snd, no label read" in printed and f"chosen by snd: {told['chosen']}" in printed
    assert "so this is a guess" in printed and "other validators agree with it" in printed
    scores = [one["scores"]["snd"] for one in told["candidates"]]
    assert scores == sorted(scores, reverse=True) and told["candidates"][0]["checkpoint"] == told["chosen"]
    assert told["higher"] == {"entropy": False, "infomax": True, "snd": True, "ensv": True}


def test_select_says_that_checkpoints_of_one_run_vote_for_each_other(runs, capsys):
    assert run_dalib("select", runs[0], "--validators", "entropy") == 0
    assert "All candidates are of one run, predict alike and vote for each other" in capsys.readouterr().out
    assert run_dalib("select", runs[0] / "checkpoints" / "last.pt", runs[1]) == 0
    assert "3 of the 4 candidates are of" in capsys.readouterr().out


def test_a_choice_that_cannot_be_made_is_refused(runs, tmp_path, capsys):
    said = refusal(capsys, "select", runs[0] / "checkpoints" / "last.pt")
    assert said.startswith("the validator 'ensv' knows no score of these checkpoints: it compares candidates")
    assert "there is no validator 'snb'. Did you mean 'snd'" in refusal(capsys, "select", runs[0], "--by", "snb")
    assert "does not exist" in refusal(capsys, "select", tmp_path / "no")
    assert "knows no score" in refusal(capsys, "select", runs[0], "--by", "agreement")


def test_the_sources_own_score_is_of_held_out_images(runs):
    ranking = select([runs[0]], validators("source"))
    scores = ranking.scores()["source"]
    assert len(set(scores)) > 1 and all(0 <= score <= 1 for score in scores)


def test_a_source_without_other_images_has_no_score_of_its_own(runs, tmp_path):
    copied = shutil.copytree(runs[0], tmp_path / "run")
    value = parse_yaml(TINY)
    value["data"]["source"]["split"] = "val"
    with pytest.raises(DalibError, match="and images of that are trained on"):
        select([copied], validators("source"), recipe=make_recipe(value))
