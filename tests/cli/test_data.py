"""The commands know data sets of lists and of further streams."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dalib.files import load_tensors
from tests.command import RECIPE, run_dalib
from tests.equal import assert_equal

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


def street(label: np.ndarray, folder: Path) -> None:
    """Write four frames as GTA5's, (H, W) = (48, 64)."""
    for number in range(4):
        image = np.random.default_rng(number).integers(0, 256, (48, 64, 3), dtype=np.uint8)
        for name, pixels in (("images", image), ("labels", label)):
            (folder / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")


def trained(source: str) -> list[str]:
    return [f"data.source={source}", "data.streams={}", "strategies=[{use: supervised}]", "train.steps=1"]


TRAIN_IDS = np.repeat(np.array([[0, 0, 1, 2, 8, 10, 10, 13]], np.uint8), 48, 0).repeat(8, 1)


def test_train_ids_that_gta5_reads_as_ids_stop_train_and_doctor(recipe, tmp_path, capsys):
    street(TRAIN_IDS, tmp_path / "gta")
    for use, status in (("gta5", 2), ("folder", 0)):
        options = trained(f"{{use: {use}, root: {tmp_path / 'gta'}, size: [32, 64]}}")
        assert run_dalib("train", recipe, "--out", tmp_path / use, *options) == status
        assert run_dalib("doctor", recipe, *options) == status
        said = " ".join("".join(capsys.readouterr()).split())
        assert ("as of train ids. Read them with `use: folder`" in said) == (use == "gta5")


def test_a_run_goes_on_where_its_data_have_moved_and_ends_as_it_would_have(recipe, tmp_path, capsys):
    street(TRAIN_IDS, tmp_path / "old")
    options = trained(f"{{use: folder, root: {tmp_path / 'old'}, size: [32, 48], resize: fit}}")
    assert run_dalib("train", recipe, "--out", tmp_path / "whole", *options, "train.steps=2") == 0
    assert run_dalib("train", recipe, "--out", tmp_path / "run", *options, "train.steps=1") == 0
    (tmp_path / "old").rename(tmp_path / "new")
    moved = [*options, f"data.source.root={tmp_path / 'new'}", "train.steps=2"]
    capsys.readouterr()
    assert run_dalib("train", recipe, "--out", tmp_path / "run", *moved, "--resume") == 0
    assert "the run is the same only if the same files lie there" in " ".join(capsys.readouterr().out.split())
    weights = [load_tensors(tmp_path / run / "checkpoints" / "last.pt")["model"] for run in ("whole", "run")]
    assert_equal(*weights)
