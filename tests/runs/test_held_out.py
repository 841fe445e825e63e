"""Scoring on images that are trained on is told wherever the score is."""

import json

import pytest

from tests.command import TINY, run_dalib
from tests.streets import LABEL, PHOTO, RECIPE, make_streets, save, write_recipe

SAID = "are trained on with their labels, "


@pytest.fixture
def streets(tmp_path):
    root = make_streets(tmp_path)
    save(root / "images/val/e.png", PHOTO), save(root / "labels/val/e.png", LABEL)
    (root / "few.txt").write_text("val/d\ntrain/a\n")
    return root


def told(recipe, tmp_path, capsys, *options):
    """Return what train, results, report, doctor and evaluate say."""
    run = tmp_path / "run"
    capsys.readouterr()
    assert run_dalib("train", recipe, "--out", run, *options) == 0
    said = [capsys.readouterr().out, (run / "report.html").read_text()]
    said.append(json.loads((run / "results.json").read_text()).get("trained_on", ""))
    assert run_dalib("doctor", recipe, *options, "--json", tmp_path / "found.json") == 0
    said.append(capsys.readouterr().out)
    sets = json.loads((tmp_path / "found.json").read_text())["sets"]
    said.append(str([found["notes"] for found in sets if found["name"].startswith("data.eval")]))
    assert run_dalib("evaluate", run) == 0
    said.append(capsys.readouterr().err)
    return [" ".join(text.split()) for text in said]


STREAM = "data.streams.few={use: folder, root: ROOT, list: few.txt}"
FEW = [STREAM, "strategies=[{use: supervised, streams: [source, few]}]"]
CASES = {
    "the source": (
        ["data.eval.split=train"],
        "of its 3 images some are trained on with their labels, 3 in data.source:",
    ),
    "part of a stream": (FEW, "of its 2 images some are trained on with their labels, 1 in data.streams.few:"),
    "the stream": (
        [*FEW, "data.eval={use: folder, root: ROOT, list: few.txt}"],
        "of its 2 images some are trained on with their labels, 1 in data.source and 2 in data.streams.few:",
    ),
    "a list": (
        ["data.eval=[{use: folder, root: ROOT, split: val}, {use: folder, root: ROOT, split: train}]"],
        "of its 5 images some are trained on with their labels, 3 in data.source:",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_images_that_are_scored_and_trained_on_are_told_everywhere(case, streets, tmp_path, capsys):
    options, expected = CASES[case]
    options = [option.replace("ROOT", str(streets)) for option in options]
    for said in told(write_recipe(streets), tmp_path, capsys, *options):
        assert expected in said and said.count(SAID) == 1


def test_made_up_images_are_the_same_by_their_options(tmp_path, capsys):
    path = tmp_path / "recipe.yaml"
    path.write_text(TINY)
    same = "data.eval={use: diorama, domain: source, size: [48, 64], length: 6}"
    assert all("6 in data.source:" in said for said in told(path, tmp_path, capsys, same))


def test_held_out_images_and_those_of_the_target_are_not_told(streets, tmp_path, capsys):
    text = RECIPE.replace("split: train}", "split: val}").replace("split: val}", "split: train}", 1)
    assert not any(SAID in said for said in told(write_recipe(streets, text), tmp_path, capsys))


def test_a_stream_that_no_strategy_reads_is_not_trained_on(streets, tmp_path, capsys):
    stream = STREAM.replace("ROOT", str(streets))
    assert run_dalib("train", write_recipe(streets), "--out", tmp_path / "run", stream) == 0
    assert SAID not in " ".join(capsys.readouterr().out.split())
