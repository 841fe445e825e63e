"""A run whose target has no labels, or labels that do not fit: training never reads them."""

import io
import json
import re

import numpy as np
import pytest
import torch
from rich.console import Console

from dalib import DalibError, make_recipe, run
from dalib.cli import main
from dalib.runs.loading import load_run
from dalib.yaml import parse_yaml
from tests.command import refusal
from tests.streets import LABEL, PHOTO, make_streets, save

TARGET = "{use: folder, root: PHOTOS}"
RECIPE = """\
model: {use: tiny}
data:
  source: {use: folder, root: STREETS, split: train, label_map: MAP}
  target: TARGET
  batch_size: 2
strategies: [{use: supervised}, {use: dacs, threshold: 0.2}]
optimizer: {use: sgd, lr: 1e-2}
train: {steps: 2, log_every: 1, eval_every: 1}
plugins: [tests.tiny_plugin]
"""
CLASSES = ["even", "odd", "never"]


@pytest.fixture
def write(tmp_path):
    """Write the recipe with a target; the source has three classes of its own, one without a pixel."""
    streets = make_streets(tmp_path)
    ids = ", ".join(f"{i}: {CLASSES[i % 2]}" for i in range(19))
    (tmp_path / "map.yaml").write_text(f"{{classes: [even, odd, never], ids: {{{ids}}}}}")
    for name in "abc":
        save(tmp_path / "photos" / f"{name}.png", np.roll(PHOTO, ord(name)))

    def written(target=TARGET):
        text = RECIPE.replace("TARGET", target).replace("PHOTOS", str(tmp_path / "photos"))
        text = text.replace("STREETS", str(streets)).replace("MAP", str(tmp_path / "map.yaml"))
        path = tmp_path / "recipe.yaml"
        path.write_text(text)
        return path

    return written


def trained(path, folder):
    said = io.StringIO()
    result = run(make_recipe(parse_yaml(path.read_text())), folder, console=Console(file=said, width=200))
    return result, json.loads((folder / "results.json").read_text()), said.getvalue()


def test_a_folder_of_photos_trains_pictures_and_reports_without_a_label_map_split_or_eval(write, tmp_path):
    result, results, said = trained(write(), tmp_path / "run")
    assert result.miou is None and results["miou"] is None
    assert results["unlabelled"].startswith("there is no label in data.target; name") and results["unlabelled"] in said
    assert "Without a mIoU there is no best.pt" in said and "no labels, so no mIoU" in said
    assert not (tmp_path / "run" / "checkpoints" / "best.pt").exists() and "best" not in results
    measures = results["label_free"]
    assert measures["images"] == 3 and measures["threshold"] == 0.9
    assert all(0 <= measures[name] <= 1 for name in ("entropy", "confident", "agreement"))
    assert list(measures["predicted"]) == CLASSES and sum(measures["predicted"].values()) == pytest.approx(1)
    even = (LABEL % 19 % 2 == 0).mean()
    assert measures["source"] == {"even": pytest.approx(even), "odd": pytest.approx(1 - even), "never": 0}
    assert "data.source, 3 of 3 images looked at: classes without a pixel: never." in said
    logged = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert {"eval/entropy", "eval/confident", "eval/agreement"} <= logged[0].keys() and "eval/miou" not in logged[0]
    report = (tmp_path / "run" / "report.html").read_text()
    assert "no labels given" in report and "mean entropy" in report and "Share of each class" in report
    assert len(list((tmp_path / "run" / "panels").iterdir())) == 3


def test_photos_of_all_kinds_train_and_what_is_passed_over_is_told(write, tmp_path, caplog):
    path = write()
    for name in ("d.tif", "e.tif", "f.tiff", "g.bmp", "h.bmp", "i.gif", ".hidden.png"):
        save(tmp_path / "photos" / name, PHOTO)
    assert trained(path, tmp_path / "run")[1]["label_free"]["images"] == 8
    assert "8 images; passed over: 1 .gif (images are " in caplog.text


def test_label_free_measures_are_those_of_a_loop_over_the_pixels(write, tmp_path):
    result, _, _ = trained(write(), tmp_path / "run")
    engine = load_run(tmp_path / "run").engine
    engine.teacher.module.eval()
    images = [np.roll(PHOTO, ord(name)) for name in "abc"]
    with torch.no_grad():
        x = torch.stack([torch.from_numpy(image.copy()).movedim(-1, 0) for image in images]).float() / 255
        p, other = engine.model(x).double().softmax(1), engine.teacher.module(x)
    entropy = -(p * p.log()).sum(1) / np.log(3)
    assert result.label_free.entropy == pytest.approx(entropy.mean().item(), abs=1e-6)
    assert result.label_free.confident == pytest.approx((p.max(1).values >= 0.9).double().mean().item())
    shares = [(p.argmax(1) == k).double().mean().item() for k in range(3)]
    assert result.label_free.predicted.tolist() == pytest.approx(shares)
    assert result.label_free.agreement == pytest.approx((p.argmax(1) == other.argmax(1)).double().mean().item())


def test_without_any_label_of_the_target_best_is_by_a_validator_and_select_ranks(write, tmp_path, capsys):
    path = write()
    text = path.read_text().replace("steps: 2,", "steps: 3, keep_every: 1,")
    path.write_text(text + "evaluate: {best: agreement, validators: [entropy, infomax, snd, ensv]}\n")
    _, results, said = trained(path, tmp_path / "run")
    logged = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    agreements = [line["eval/agreement"] for line in logged]
    best = agreements.index(max(agreements)) + 1
    assert results["best"] == {"miou": None, "step": best, "by": "agreement", "score": pytest.approx(max(agreements))}
    assert torch.load(tmp_path / "run" / "checkpoints" / "best.pt", weights_only=True)["step"] == best
    assert f"best: agreement {max(agreements):.4g} at step {best}" in said and "there is no best.pt" not in said
    assert {"eval/entropy", "eval/infomax", "eval/snd"} <= logged[0].keys() and "eval/ensv" not in logged[0]
    assert results["validators"]["ensv"] == logged[2]["eval/ensv"] > 0
    assert "best by agreement" in (tmp_path / "run" / "report.html").read_text()
    assert main(["select", str(tmp_path / "run"), "--validators", "agreement", "snd"]) == 0
    assert "chosen by ensv" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("evaluate", "expected"),
    [
        ("{best: snb}", r"evaluate.best.use: there is no validator 'snb'"),
        (
            "{validators: [snd, {use: snd}]}",
            r"evaluate.validators\[1\]: 'snd' is named at evaluate.validators\[0\], too",
        ),
    ],
)
def test_a_validator_that_cannot_be_is_refused(evaluate, expected, write, tmp_path):
    path = write()
    path.write_text(path.read_text() + f"evaluate: {evaluate}\n")
    with pytest.raises(DalibError, match=expected):
        trained(path, tmp_path / "run")


def test_the_sources_own_score_judges_by_its_held_out_images_and_says_where_there_are_none(write, tmp_path):
    path = write()
    path.write_text(path.read_text() + "evaluate: {best: source, validators: []}\n")
    result, results, _ = trained(path, tmp_path / "run")
    assert result.miou is None and results["best"]["by"] == "source"
    assert results["validators"] == {"source": pytest.approx(result.evidence.source)} and result.evidence.source > 0
    path.write_text(path.read_text().replace("split: train", "split: null"))
    with pytest.raises(DalibError, match=r"held out, data.source with `split: val`, and images of that are trained on"):
        trained(path, tmp_path / "again")


def test_agreement_without_a_teacher_is_refused(write, tmp_path):
    path = write()
    text = path.read_text().replace(", {use: dacs, threshold: 0.2}", "")
    path.write_text(text + "evaluate: {validators: [agreement]}\n")
    with pytest.raises(DalibError, match="'agreement' compares student and teacher, and no strategy of this stack"):
        trained(path, tmp_path / "run")


@pytest.mark.parametrize("damage", ["partial", "encoding", "size", "broken", "classes"])
def test_labels_of_the_target_that_are_partial_or_other_do_not_stop_a_run(damage, write, tmp_path):
    root = tmp_path / "other"
    for name in ("train/a", "train/b", "val/c"):
        save(root / "images" / f"{name}.png", PHOTO)
        if damage != "partial" or name == "train/a":
            label = {"encoding": LABEL + 60, "size": LABEL[:4]}.get(damage, LABEL)
            save(root / "labels" / f"{name}.png", label)
    if damage == "broken":
        for file in (root / "labels").rglob("*.png"):
            file.write_bytes(b"no image")
    (root / "labels" / "val").mkdir(parents=True, exist_ok=True)
    result, results, said = trained(write(f"{{use: folder, root: {root}, split: train}}"), tmp_path / "run")
    assert result.miou is None and "data.target has no labelled split val (" in said
    assert results["label_free"]["images"] == 2 and results["steps"] == 2


def test_the_same_weights_come_out_whatever_labels_the_target_has(write, tmp_path):
    for name in "abc":
        save(tmp_path / "with" / "images" / f"{name}.png", np.roll(PHOTO, ord(name)))
        save(tmp_path / "with" / "labels" / f"{name}.png", LABEL)
    models = []
    for number, target in enumerate([TARGET, f"{{use: folder, root: {tmp_path / 'with'}, labels: null}}"]):
        trained(write(target), tmp_path / f"run{number}")
        models.append(torch.load(tmp_path / f"run{number}" / "checkpoints" / "last.pt", weights_only=True)["model"])
    assert all(torch.equal(value, models[1][key]) for key, value in models[0].items())


def test_labels_null_says_that_labels_which_lie_there_are_not_meant(write, tmp_path):
    streets = tmp_path / "streets"
    target = f"{{use: folder, root: {streets}, split: train, label_map: {tmp_path / 'map.yaml'}}}"
    assert trained(write(target), tmp_path / "with")[0].miou is not None
    result, _, said = trained(write(target.replace("}", ", labels: null}")), tmp_path / "without")
    assert result.miou is None and "there is no label in data.target with split val; name labelled images" in said


def test_an_eval_that_the_recipe_names_is_still_refused_where_it_cannot_be_read(write, tmp_path):
    path = write()
    path.write_text(path.read_text().replace("  batch_size", "  eval: {use: folder, root: /nowhere}\n  batch_size"))
    with pytest.raises(DalibError, match="/nowhere: expected a folder of images"):
        trained(path, tmp_path / "run")


def test_the_commands_know_a_target_without_labels(write, tmp_path, capsys):
    path, out = str(write()), str(tmp_path / "run")
    assert main(["doctor", path]) == 0
    assert "data.eval: no labels to score on" in capsys.readouterr().out
    assert main(["plan", path]) == 0 and main(["train", path, "--out", out]) == 0
    assert main(["evaluate", out, "evaluate.limit=2", "--json", str(tmp_path / "scores.json")]) == 0
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["miou"] is None and scores["label_free"]["images"] == 2
    assert main(["predict", out, str(tmp_path / "photos"), "--out", str(tmp_path / "out")]) == 0
    assert main(["train", path, "--out", out, "--resume"]) == 0


def test_a_run_is_not_resumed_after_the_label_map_was_reordered(write, tmp_path, capsys):
    path, out = write(), tmp_path / "run"
    trained(path, out)
    text = (tmp_path / "map.yaml").read_text()
    (tmp_path / "map.yaml").write_text(text.replace("even, odd, never", "odd, even, never"))
    said = refusal(capsys, "train", path, "--out", out, "--resume", "train.steps=4")
    assert "the checkpoint's classes are even, odd, never; the data's are odd, even, never." in said


def test_masks_of_0_and_255_are_warned_of_before_the_training_and_by_the_doctor(write, tmp_path, capsys):
    path = write()
    for file in (tmp_path / "streets" / "labels").rglob("*.png"):
        save(file, np.where(LABEL > 9, 255, 0).astype(np.uint8))
    (tmp_path / "map.yaml").write_text("classes: [background, crack]")
    _, _, said = trained(path, tmp_path / "run")
    advice = "classes without a pixel: crack. Masks of 0 and 255? 255 is ignored unless the label map says"
    assert f"{advice} `ids: {{0: background, 255: crack}}`." in said
    main(["doctor", str(path)])
    assert advice in " ".join(capsys.readouterr().out.split())
    (tmp_path / "map.yaml").write_text("{classes: [background, crack], ids: {0: background, 255: crack}}")
    assert "without a pixel" not in trained(path, tmp_path / "mended")[2]


MASKS = "`classes: [background, crack]` and `ids: {0: background, 255: crack}`"


@pytest.mark.parametrize(
    ("label_map", "said"),
    [
        ("classes: [crack]\nids: {255: crack}", "masks of 0 and 255 take a label map that says "),
        ("classes: [wall, crack]\nids: {255: crack}", "found 0. .* Masks of 0 and 255 take "),
        ("classes: [wall, crack]\nchannel: red\nids: {255: crack}", "found 0. .* Masks of 0 and 255 take "),
        ("classes: [wall, crack]", "found RGB; .*`channel: red`.* Masks of 0 and 255 take "),
    ],
)
def test_the_first_refusal_of_masks_of_0_and_255_says_what_their_label_map_is(label_map, said, write, tmp_path, capsys):
    path = write()
    for file in (tmp_path / "streets" / "labels").rglob("*.png"):
        mask = np.where(LABEL > 9, 255, 0).astype(np.uint8)
        save(file, np.stack([mask] * 3, -1) if "RGB" in said or "red" in label_map else mask)
    (tmp_path / "map.yaml").write_text(label_map)
    assert re.search(said + re.escape(MASKS), refusal(capsys, "train", path, "--out", tmp_path / "run"))


def test_masks_without_a_label_map_are_told_before_training_by_doctor_and_where_they_are_scored(
    write, tmp_path, capsys
):
    path = write()
    path.write_text(path.read_text().replace(f", label_map: {tmp_path / 'map.yaml'}", ""))
    root = tmp_path / "streets"
    advice = f"Masks of 0 and 255? 255 is ignored unless the label map says {MASKS}"
    scored = f"data.eval={{use: folder, root: {root}, split: val}}"
    assert main(["train", str(path), "--out", str(tmp_path / "whole"), scored]) == 0
    for file in (root / "labels").rglob("*.png"):
        save(file, np.where(LABEL > 9, 255, 0).astype(np.uint8))
    assert advice in trained(path, tmp_path / "run")[2]
    main(["doctor", str(path)])
    assert advice in " ".join(capsys.readouterr().out.split())
    assert main(["evaluate", str(tmp_path / "whole")]) == 0
    assert f"data.eval: of the classes one alone has pixels. {advice}" in capsys.readouterr().err
    for file in (root / "labels" / "train").rglob("*.png"):
        save(file, LABEL)
    assert main(["train", str(path), "--out", str(tmp_path / "eval"), scored]) == 0
    assert f"data.eval: of the classes one alone has pixels. {advice}" in " ".join(capsys.readouterr().out.split())


def test_a_photo_that_cannot_be_read_is_skipped_when_they_are_judged_too(write, tmp_path):
    path = write()
    (tmp_path / "photos" / "b.png").write_bytes(b"no picture")
    value = parse_yaml(path.read_text())
    value["data"]["on_bad_item"] = "skip"
    result = run(make_recipe(value), tmp_path / "run")
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert result.miou is None and result.label_free is not None
    assert [name for name in results["bad_items"] if "b.png" in name]
