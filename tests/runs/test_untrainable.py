"""A run that could train nothing, or only part of what was meant, is refused before its first step."""

import json
import shutil

import numpy as np
import pytest
import torch

from dalib.files import load_tensors
from tests.command import refusal, run_dalib
from tests.streets import LABEL, PHOTO, RECIPE, make_streets, save, write_recipe

SAID = "strategy 'supervised' needs source.label. No image of the source data that was looked at has a labelled pixel."


def no_labels(root):
    for file in (root / "labels" / "train").iterdir():
        save(root / "labels" / "train" / file.name, np.full_like(LABEL, 255))
    return ""


def map_that_fits_no_id(root):
    (root.parent / "map.yaml").write_text("classes: [road, car]\nids: {200: road, 201: car}\nunknown: ignore\n")
    return f", label_map: '{root.parent / 'map.yaml'}'"


def no_folder(root):
    shutil.rmtree(root / "labels" / "train")
    return ""


@pytest.mark.parametrize("prepare", [no_labels, no_folder, map_that_fits_no_id])
def test_a_source_without_a_labelled_pixel_is_refused_and_a_fault(prepare, tmp_path, capsys):
    root = make_streets(tmp_path)
    options = prepare(root)
    recipe = write_recipe(
        root, RECIPE.replace("split: train}", f"split: train{options}}}").replace("val}", f"val{options}}}")
    )
    assert SAID in refusal(capsys, "train", recipe, "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert run_dalib("doctor", recipe, "--json", tmp_path / "found.json") == 2
    found = json.loads((tmp_path / "found.json").read_text())["sets"]
    faults = {each["name"]: [fault["reason"] for fault in each["faults"]] for each in found}
    assert "no pixel has a label, and a strategy trains on them" in faults["data.source"][0]
    assert not faults["data.target"]


def test_the_test_split_of_cityscapes_whose_labels_are_blank_is_refused_as_a_source(tmp_path, capsys):
    root = tmp_path / "cityscapes"
    for split, stored in (("train", 7), ("val", 7), ("test", 0)):
        save(root / f"leftImg8bit/{split}/bonn/bonn_000000_000019_leftImg8bit.png", PHOTO)
        save(root / f"gtFine/{split}/bonn/bonn_000000_000019_gtFine_labelIds.png", np.full_like(LABEL, stored))
    text = RECIPE.replace("use: folder", "use: cityscapes")
    recipe = write_recipe(
        root, text.replace("split: train", "split: test", 1).replace("batch_size: 2", "batch_size: 1")
    )
    assert SAID in refusal(capsys, "train", recipe, "--out", tmp_path / "run")
    assert run_dalib("doctor", recipe) == 2


def test_the_doctor_of_a_source_that_no_strategy_trains_on_finds_no_fault(tmp_path):
    root = make_streets(tmp_path)
    no_labels(root)
    recipe = write_recipe(root, RECIPE.replace("{use: supervised}", "{use: minent}"))
    assert run_dalib("doctor", recipe) == 0


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("strategies=[]", "no strategy of the stack has a loss, so nothing would be trained"),
        ("strategies=[{use: augment}]", "no strategy of the stack has a loss, so nothing would be trained"),
        ("strategies.0.weight=0", "the weights of supervised are 0, so nothing would be trained"),
        (f"loss={{class_weights: {[0] * 19}}}", "class_weights: expected one above 0 at least"),
        (f"strategies.0.class_weights={[0] * 19}", "class_weights: expected one above 0 at least"),
    ],
)
def test_a_recipe_that_would_train_nothing_is_refused(override, said, tmp_path, capsys):
    recipe = write_recipe(make_streets(tmp_path))
    assert said in refusal(capsys, "train", recipe, override, "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert said in refusal(capsys, "plan", recipe, override)
    assert run_dalib("doctor", recipe, override) == 2
    assert said in "".join(capsys.readouterr())


def test_the_doctor_counts_a_stack_that_trains_nothing_as_a_fault_beside_those_of_the_data(tmp_path):
    root = make_streets(tmp_path)
    (root / "images" / "train" / "a.png").write_bytes(b"no image")
    recipe = write_recipe(root)
    assert run_dalib("doctor", recipe, "strategies=[{use: augment}]", "--json", tmp_path / "found.json") == 2
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["faults"] == 2 and "so nothing would be trained" in found["stack"] and found["sets"][0]["faults"]


WEIGHED = f"{[0] * 19}".replace("0]", "1]")  # bicycle alone


def even_labels(root):
    for file in (root / "labels" / "train").iterdir():
        save(file, (LABEL // 2 * 2 % 18).astype(np.uint8))


@pytest.mark.parametrize("where", ["loss.class_weights", "strategies.0.class_weights"])
def test_class_weights_of_0_for_all_classes_that_occur_are_refused_and_a_fault(where, tmp_path, capsys):
    root = make_streets(tmp_path)
    recipe = write_recipe(root)
    assert run_dalib("train", recipe, f"{where}={WEIGHED}", "--out", tmp_path / "trains") == 0
    even_labels(root)
    said = refusal(capsys, "train", recipe, f"{where}={WEIGHED}", "--out", tmp_path / "run")
    assert "strategy 'supervised': the class_weights of its loss are 0 for every class that occurs in" in said
    assert "the labels of the source (road, building, " in said and not (tmp_path / "run").exists()
    assert run_dalib("doctor", recipe, f"{where}={WEIGHED}", "--json", tmp_path / "found.json") == 2
    found = json.loads((tmp_path / "found.json").read_text())["sets"]
    faults = {each["name"]: [fault["reason"] for fault in each["faults"]] for each in found}
    assert "the class_weights of its loss are 0" in faults["data.source"][0] and not faults["data.eval"]


def test_class_weights_of_0_for_all_classes_of_a_further_stream_are_refused(tmp_path, capsys):
    root = make_streets(tmp_path)
    even_labels(root)
    save(root / "images/few/e.png", PHOTO), save(root / "labels/few/e.png", np.full_like(LABEL, 18))
    options = [f"data.streams.few={{use: folder, root: {root}, split: few}}", "data.batch_size=1"]
    options.append("strategies=[{use: supervised}, {use: supervised, name: more, streams: [few]}]")
    recipe = write_recipe(root)
    weights = f"strategies.1.class_weights={[1] * 18 + [0]}"
    said = refusal(capsys, "train", recipe, *options, weights, "--out", tmp_path / "run")
    assert "strategy 'more': " in said and "of the few (bicycle), so it would train nothing" in said
    assert run_dalib("train", recipe, *options, "--out", tmp_path / "run") == 0


def test_a_loss_of_ones_own_that_leaves_nothing_is_refused(tmp_path, capsys):
    recipe = write_recipe(make_streets(tmp_path))
    plugins = "plugins=[tests.tiny_plugin, tests.training_plugin]"
    assert run_dalib("train", recipe, plugins, "loss={use: brier}", "--out", tmp_path / "trains") == 0
    flat = "loss={use: brier, scale: 0}"
    said = refusal(capsys, "train", recipe, plugins, flat, "--out", tmp_path / "run")
    assert "strategy 'supervised': the segmentation loss has no gradient on any class that occurs" in said
    assert run_dalib("doctor", recipe, plugins, flat) == 2


def test_whole_class_weights_train(tmp_path):
    recipe = write_recipe(make_streets(tmp_path))
    assert run_dalib("train", recipe, f"loss.class_weights={[1, 2] + [1] * 17}", "--out", tmp_path / "run") == 0


def test_a_frozen_backbone_stays_as_it_was_and_the_run_resumes_bit_for_bit(tmp_path):
    recipe = write_recipe(make_streets(tmp_path))
    frozen = "model={use: tiny, freeze: [body]}"
    runs = {name: tmp_path / name for name in ("straight", "stopped")}
    assert run_dalib("train", recipe, frozen, "train.steps=4", "--out", runs["straight"]) == 0
    for steps in (2, 4):
        arguments = [frozen, f"train.steps={steps}", "schedule=null", "--resume", "--out", runs["stopped"]]
        assert run_dalib("train", recipe, *arguments) == 0
    assert run_dalib("train", recipe, frozen, "train.steps=4", "schedule=null", "--out", tmp_path / "constant") == 0
    ours, theirs = (
        load_tensors(tmp_path / name / "checkpoints" / "last.pt")["model"] for name in ("stopped", "constant")
    )
    assert all(torch.equal(value, theirs[key]) for key, value in ours.items())
    start, other = (
        load_tensors(run / "checkpoints" / "last.pt")["model"] for run in (runs["straight"], tmp_path / "stopped")
    )
    assert all(torch.equal(start[key], other[key]) for key in start if key.startswith("body."))
    assert run_dalib("evaluate", runs["straight"]) == 0


def test_a_frozen_path_that_is_none_is_refused(tmp_path, capsys):
    recipe = write_recipe(make_streets(tmp_path))
    said = refusal(capsys, "train", recipe, "model={use: tiny, freeze: [bodi]}", "--out", tmp_path / "run")
    assert "has no module 'bodi'. Did you mean 'body'?" in said


def test_images_too_small_for_the_network_are_told_by_plan_and_before_training(tmp_path, capsys):
    recipe = tmp_path / "small.yaml"
    recipe.write_text(
        "model: {use: timm, backbone: inception_v3}\n"
        "data:\n  source: {use: diorama, size: [32, 64]}\n  target: {use: diorama, domain: target, size: [32, 64]}\n"
        "train: {steps: 1, device: cpu}\n"
    )
    for arguments in (["plan", recipe], ["train", recipe, "--out", tmp_path / "run"]):
        message = refusal(capsys, *arguments)
        assert "the network cannot take images of 32x64 (H x W), as the stream 'source' has them" in message
    assert not (tmp_path / "run").exists()
