"""A run is evaluated with the weights that it was trained to, and with the stack that is asked for."""

import json

import pytest
import torch

from dalib import create_model, make_recipe, run
from dalib.core import checkpoint
from dalib.errors import RecipeError
from dalib.runs.folder import RunFolder
from dalib.runs.loading import load_run
from dalib.yaml import parse_yaml
from tests.command import TINY, refusal, run_dalib
from tests.tiny import TinyData


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run with a teacher and a discriminator."""
    return trained(
        tmp_path_factory.mktemp("loading") / "run",
        "strategies: [{use: supervised}, {use: adversarial, weight: 0.001}, {use: dacs}]",
    )


def trained(path, strategies, **sections):
    value = parse_yaml(TINY) | parse_yaml(strategies) | sections
    value["plugins"] = ["tests.tiny_plugin", "tests.around_plugin"]
    run(make_recipe(value), path)
    return path


def scores(folder, *overrides):
    """Return the mIoU and the classes with an IoU above 0."""
    assert run_dalib("evaluate", folder, *overrides, "--json", folder / "scores.json") == 0
    found = json.loads((folder / "scores.json").read_text())
    return found["miou"], [i for i, iou in enumerate(found["iou"].values()) if iou]


def test_strategies_around_predictions_are_added_to_a_finished_run(folder):
    plain = scores(folder)
    added = "strategies=[{use: supervised}, {use: dacs}, {use: constant, number: 2}]"  # the discriminator is gone
    assert scores(folder, added)[1] == [2] != plain[1]
    assert scores(folder, added, "evaluate.model=teacher")[1] == [2]
    assert scores(folder, "strategies=[{use: constant, number: 1}]")[1] == [1]
    assert scores(folder) == plain


def test_a_strategy_whose_module_the_models_optimiser_trained_may_be_left_out(tmp_path):
    path = trained(tmp_path / "run", "strategies: [{use: supervised}, {use: owns}]")
    assert scores(path) == scores(path, "strategies=[{use: supervised}]")
    assert scores(path, "strategies.2={use: constant, number: 2}")[1] == [2]


def test_a_run_tears_its_strategies_down_once(tmp_path):
    file = tmp_path / "told"
    trained(tmp_path / "run", f"strategies: [{{use: supervised}}, {{use: owns, file: {file}}}]")
    assert file.read_text() == "torn down\n"


def test_options_of_a_strategy_around_predictions_can_be_changed(tmp_path):
    path = trained(tmp_path / "run", "strategies: [{use: supervised}, {use: constant, number: 2}]")
    assert scores(path)[1] == [2] and scores(path, "strategies.1.number=1")[1] == [1]


def test_strategies_in_both_stacks_keep_their_state_and_others_begin_anew(tmp_path):
    path = trained(tmp_path / "run", "strategies: [{use: supervised}, {use: constant}]")
    file = RunFolder(path).last
    state = checkpoint.read(file)
    state["strategies"]["constant"]["calls"] = 7
    checkpoint.write(state, file)
    overrides = ["strategies=[{use: constant, name: new}, {use: constant}, {use: noisy}]"]
    new, old, _ = load_run(path, overrides=overrides).engine.stack.strategies
    assert (new.calls, old.calls) == (0, 7)
    of_other_kind = load_run(path, overrides=["strategies=[{use: noisy, name: constant}]"])
    assert of_other_kind.engine.stack.strategies[0].name == "constant"


def test_a_strategy_that_acts_in_training_is_refused(folder, capsys):
    assert refusal(capsys, "evaluate", folder, "strategies=[{use: supervised}, {use: fda}]") == (
        "strategy 'fda' acts in training (pre_batch), and the run was trained without it; an evaluation can add "
        "strategies with a predictor alone. Train a run with it, or drop it."
    )


@pytest.mark.parametrize("override", ["model.dropout=0.5", "train.seed=3", "optimizer.lr=1"])
def test_what_was_trained_is_not_changed_by_an_evaluation(override, folder, capsys):
    section = override.partition(".")[0]
    assert refusal(capsys, "evaluate", folder, override) == (
        f"override {override!r}: an evaluation may change data, evaluate, strategies, plugins; {section} says how the "
        "run was trained. Train a new run with it, or drop it."
    )


def test_an_exported_file_has_no_strategies(folder, tmp_path, capsys):
    recipe = folder / "recipe.yaml"
    said = refusal(capsys, "evaluate", tmp_path / "net.onnx", "--recipe", recipe, "strategies=[]")
    assert said == "override 'strategies=[]': an exported file has no strategies around it; evaluate the run."


def test_with_another_recipe_the_strategies_are_still_the_runs(folder, tmp_path):
    (tmp_path / "other.yaml").write_text(TINY.replace("- {use: supervised}", "- {use: minent}"))
    assert scores(folder, "--recipe", tmp_path / "other.yaml") == scores(folder)
    assert scores(folder, "--recipe", tmp_path / "other.yaml", "strategies=[{use: constant, number: 2}]")[1] == [2]


def test_one_checkpoint_has_one_score_whatever_a_predictor_draws(tmp_path):
    path = trained(tmp_path / "run", "strategies: [{use: supervised}, {use: noisy}]")
    trained_to = json.loads((path / "results.json").read_text())["miou"]
    assert {trained_to, *(scores(path)[0] for _ in range(2))} == {trained_to}


@pytest.mark.parametrize("model", ["student", "teacher"])
def test_a_predictor_that_keeps_the_model_is_scored_with_what_was_trained(model, tmp_path):
    path = trained(
        tmp_path / "run", "strategies: [{use: supervised}, {use: dacs}, {use: keeps}]", evaluate={"model": model}
    )
    assert scores(path)[0] == json.loads((path / "results.json").read_text())["miou"]


def test_a_copy_that_setup_makes_of_a_loaded_model_is_the_trained_one(folder):
    keeps = load_run(folder, overrides=["strategies=[{use: keeps, copied: true}]"]).engine.stack.strategies[0]
    stored = checkpoint.read(RunFolder(folder).last)["model"]
    assert all(torch.equal(value, stored[key]) for key, value in keeps._model.network.state_dict().items())


def test_scoring_the_teacher_leaves_the_students_statistics_alone(tmp_path):
    """Even where a predictor runs the student, which is then in eval mode."""
    path = trained(
        tmp_path / "run", "strategies: [{use: supervised}, {use: dacs}, {use: keeps}]", evaluate={"model": "teacher"}
    )
    engine, stored = load_run(path).engine, checkpoint.read(RunFolder(path).last)["model"]
    engine.model.train()
    engine.evaluate(TinyData(num_classes=19), teacher=True)
    assert engine.model.training
    assert all(torch.equal(v, stored[k]) for k, v in engine.model.network.state_dict().items())


@pytest.fixture
def of_another(tmp_path):
    """A file of weights of another model, and a function that trains a run with a strategy that reads it."""
    file = tmp_path / "other.pt"
    torch.save(create_model("tiny", 19).network.state_dict(), file)
    options = f"other: {{use: tiny, weights: {file}}}"
    return file, lambda use: trained(tmp_path / use, f"strategies: [{{use: supervised}}, {{use: {use}, {options}}}]")


def test_files_of_models_that_a_strategy_trains_with_are_not_wanted_again(of_another, tmp_path):
    file, train = of_another
    path = train("distil")
    file.unlink()
    assert scores(path)[0] == json.loads((path / "results.json").read_text())["miou"]
    assert load_run(path).recipe.strategies[1]["other"] == {"use": "tiny", "weights": None}


def test_a_model_that_predicts_is_read_again_rather_than_scored_at_random(of_another, tmp_path, capsys):
    file, train = of_another
    path = train("ensemble")
    assert scores(path)[0] == json.loads((path / "results.json").read_text())["miou"]
    file.unlink()
    assert refusal(capsys, "evaluate", path).startswith(f"{file} is not a file; give the path of a file of weights")
    assert run_dalib("plan", path / "recipe.yaml") == 0


def test_weights_of_a_run_with_its_classes_in_another_order_are_refused(tmp_path):
    first = trained(tmp_path / "first", "strategies: [{use: supervised}]")
    file = RunFolder(first).last
    state = checkpoint.read(file)
    state["classes"] = state["classes"][::-1]
    checkpoint.write(state, file)
    with pytest.raises(RecipeError, match=r"model\.weights: .* give the label maps one order of classes"):
        trained(tmp_path / "second", "strategies: [{use: supervised}]", model={"use": "tiny", "weights": str(first)})


def test_a_run_that_is_past_the_recipes_steps_is_not_taken_for_finished(tmp_path, capsys):
    path = trained(tmp_path / "run", "strategies: [{use: supervised}]")
    assert "has done 2 steps, and the recipe has train.steps 1" in refusal(
        capsys, "train", path, "train.steps=1", "--resume"
    )


def test_a_runs_folder_is_resumed_by_its_name(tmp_path, monkeypatch):
    path = trained(tmp_path / "elsewhere" / "run", "strategies: [{use: supervised}]")
    monkeypatch.chdir(tmp_path)
    assert run_dalib("train", path, "train.steps=3", "--resume") == 0
    assert json.loads((path / "results.json").read_text())["steps"] == 3 and not (tmp_path / "runs").exists()


@pytest.mark.parametrize("use", ["bn_adapt", "tent"])
def test_a_strategy_that_adapts_is_scored_alike_after_training_and_when_it_is_added(use, tmp_path):
    path = trained(tmp_path / "run", "strategies: [{use: supervised}]")
    plain, added = scores(path), scores(path, f"strategies=[{{use: supervised}}, {{use: {use}}}]")
    within = trained(tmp_path / "within", f"strategies: [{{use: supervised}}, {{use: {use}}}]")
    assert added[0] == json.loads((within / "results.json").read_text())["miou"] == scores(within)[0] != plain[0]
