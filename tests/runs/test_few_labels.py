"""A few labelled images of the target beside the source, from recipe to result."""

import json
from pathlib import Path

import pytest
import torch

from dalib import Engine, load_recipe, run
from tests.command import run_dalib
from tests.equal import assert_equal

RECIPE = Path(__file__).parents[2] / "examples" / "recipes" / "diorama" / "few_labels.yaml"
SIZE = "[32, 64]"
SMALL = [
    "model={use: tiny}",
    "plugins=[tests.tiny_plugin]",
    f"data.source={{use: diorama, domain: source, size: {SIZE}, length: 6}}",
    f"data.target={{use: diorama, domain: target, size: {SIZE}, length: 6}}",
    f"data.streams.labelled={{use: diorama, domain: target, size: {SIZE}, length: 3}}",
    f"data.eval={{use: diorama, domain: target, split: val, size: {SIZE}, length: 2}}",
    "data.batch_size=2",
    "train={steps: 4, log_every: 1, checkpoint_every: 2, device: cpu}",
]


def weights(folder):
    return torch.load(folder / "checkpoints" / "last.pt", weights_only=True)["model"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("few") / "run"
    return folder, run(load_recipe(RECIPE, SMALL), folder)


def test_the_recipe_has_a_few_labelled_images_of_the_target():
    recipe = load_recipe(RECIPE)
    assert recipe.data.streams["labelled"] == {**recipe.data.target, "length": 20}
    assert recipe.strategies[0]["streams"] == ["source", "labelled"]


def test_both_labelled_streams_train_and_are_reported(trained):
    folder, result = trained
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert all(line["supervised/source"] > 0 and line["supervised/labelled"] > 0 for line in lines)
    assert 0 <= result.miou <= 1 and "supervised/labelled" in (folder / "report.html").read_text()


def test_what_the_few_labels_say_is_learnt(trained, tmp_path):
    without = run(load_recipe(RECIPE, [*SMALL, "strategies.0.streams=[source]"]), tmp_path / "without")
    assert without.counted == trained[1].counted
    assert not all(torch.equal(v, weights(tmp_path / "without")[k]) for k, v in weights(trained[0]).items())


def test_a_run_that_was_broken_off_resumes_bit_for_bit(trained, tmp_path, monkeypatch):
    recipe, step = load_recipe(RECIPE, SMALL), Engine.step

    def breaks(self, *batches):
        if self.index == 3:
            raise ZeroDivisionError
        return step(self, *batches)

    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(Engine, "step", breaks)
        run(recipe, tmp_path / "run")
    run(recipe, tmp_path / "run", resume=True)
    assert_equal(weights(trained[0]), weights(tmp_path / "run"))


def test_it_trains_with_rare_classes_drawn_weighed_and_adjusted_from_both_streams_counts(tmp_path):
    strategies = (
        "strategies=[{use: rare_class_sampling, min_pixels: 20, crop: [32, 32]}, "
        "{use: augment, streams: [target, labelled], crop: [32, 32]}, "
        "{use: supervised, streams: [source, labelled], class_weights: enet, logit_adjustment: 1}, {use: dacs}]"
    )
    run(load_recipe(RECIPE, [*SMALL, strategies]), tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 4 and all(line["supervised/labelled"] > 0 for line in lines)
    assert run_dalib("evaluate", tmp_path / "run") == 0
