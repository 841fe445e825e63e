"""The commands know data sets of lists and of further streams."""

import json

import pytest

from tests.command import RECIPE, run_dalib

SMALL = "use: diorama, size: [32, 64], length: 2"
LISTS = (
    RECIPE.replace(
        "  source: {use: diorama, domain: source, size: [32, 64], length: 6}\n",
        f"  source: [{{{SMALL}, share: 2}}, {{{SMALL}, seed: 1, share: 1}}]\n"
        f"  streams:\n    few: {{{SMALL}, domain: target}}\n",
    )
    .replace("bisenet}", "tiny}")
    .replace("  eval: {use: diorama, domain: target, split: val, size: [32, 64], length: 2}\n", "  eval: null\n")
    .replace("{use: supervised}", "{use: supervised, streams: [source, few]}")
    + "plugins: [tests.tiny_plugin]\n"
)


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "lists.yaml"
    path.write_text(LISTS)
    return path


def test_doctor_examines_every_data_set_of_lists_and_streams(recipe, tmp_path, capsys):
    assert run_dalib("doctor", recipe, "--json", tmp_path / "found.json") == 0
    found = json.loads((tmp_path / "found.json").read_text())
    assert [each["name"] for each in found["sets"]] == [
        *("data.source[0]", "data.source[1]", "data.target", "data.streams.few", "data.eval")
    ]
    assert run_dalib("doctor", recipe, "data.source.1.size=[32, 48]") == 2
    assert "data.source[0] has images of 32 x 64, data.source[1] of 32 x 48 (H x W); give both the same" in " ".join(
        capsys.readouterr().out.split()
    )


def test_plan_knows_the_size_of_a_list_where_its_data_sets_agree(recipe, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert run_dalib("plan", recipe) == 0
    said = capsys.readouterr().out
    assert "source 32x64, target 32x64, few 32x64" in said and "loaded: source, few" in said
    assert run_dalib("plan", recipe, "data.source.1.size=[32, 48]") == 0
    assert "source ?, target 32x64, few 32x64" in capsys.readouterr().out


def test_a_run_trains_on_lists_and_streams_and_is_evaluated_on_another_list(recipe, tmp_path):
    folder = tmp_path / "run"
    assert run_dalib("train", recipe, "--out", folder, "train.steps=1", "data.target.split=val") == 0
    for override, images in (("data.eval.length=1", 1), (f"data.eval=[{{{SMALL}}}, {{{SMALL}}}]", 4)):
        assert run_dalib("evaluate", folder, override, "--json", tmp_path / "scores.json") == 0
        assert json.loads((tmp_path / "scores.json").read_text())["images"] == images
