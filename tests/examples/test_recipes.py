"""Every recipe of the examples is sound, touches no data before training, and runs on other data by overrides."""

from pathlib import Path

import pytest

from dalib import DalibError, load_recipe, run
from dalib.cli import main

RECIPES = sorted((Path(__file__).parents[2] / "examples" / "recipes").rglob("*.yaml"))
ADAPTATION = {"source_only", "jitter", "blur", "jitter_blur", "adversarial", "fda", "dacs", "stack"}
OFFLINE = "model.pretrained=false"  # tests fetch nothing


def recipe_path(name: str) -> Path:
    return next(r for r in RECIPES if r.as_posix().endswith(name))


def test_the_two_shifts_have_a_recipe_for_each_method():
    by_folder = {
        folder: {r.stem for r in RECIPES if r.parent.name == folder}
        for folder in ("gta5_to_cityscapes", "carla_to_camvid")
    }
    assert by_folder == {"gta5_to_cityscapes": ADAPTATION, "carla_to_camvid": ADAPTATION | {"target_supervised"}}


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda r: f"{r.parent.name}/{r.stem}")
def test_every_recipe_plans_without_its_data(recipe, capsys):
    assert main(["plan", str(recipe), OFFLINE]) == 0
    assert "warning" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "recipe", [r for r in RECIPES if r.parent.name != "diorama"], ids=lambda r: f"{r.parent.name}/{r.stem}"
)
def test_adaptation_recipes_differ_from_their_source_only_in_strategies_alone(recipe):
    baseline = recipe.with_name("source_only.yaml")
    if not baseline.exists() or recipe.stem == "target_supervised":
        return
    first, other = load_recipe(baseline), load_recipe(recipe)
    assert (first.model, first.data, first.train, first.optimizer, first.schedule, first.evaluate) == (
        (other.model, other.data, other.train, other.optimizer, other.schedule, other.evaluate)
    )


def test_missing_data_is_named_before_the_first_step(tmp_path):
    recipe = load_recipe(recipe_path("gta5_to_cityscapes/source_only.yaml"), [OFFLINE, "data.source.root=nowhere"])
    with pytest.raises(DalibError, match="nowhere"):
        run(recipe, tmp_path / "run")


def test_a_recipe_for_real_data_trains_on_other_data_by_overrides(tmp_path):
    overrides = [
        OFFLINE,
        "data.source={use: diorama, domain: source, size: [72, 128]}",
        "data.target={use: diorama, domain: target, size: [64, 96]}",
        "data.batch_size=2",
        "data.workers=0",
        "strategies.0.crop=[64, 64]",
        "train={steps: 2, log_every: 1, device: cpu}",
        "evaluate.limit=2",
    ]
    result = run(load_recipe(recipe_path("gta5_to_cityscapes/stack.yaml"), overrides), tmp_path / "run")
    assert 0 <= result.miou <= 1 and (tmp_path / "run" / "report.html").exists()


def test_carla_to_camvid_reads_the_files_as_their_makers_ship_them(shared, tmp_path):
    native = shared / "data" / "native"
    overrides = [
        OFFLINE,
        f"data.source.root={native / 'carla'}",
        f"data.target.root={native / 'camvid'}",
        f"data.eval={{use: camvid, root: {native / 'camvid'}, split: train, size: [72, 96]}}",
        "data.source.size=[72, 96]",
        "data.target.size=[72, 96]",
        "data.batch_size=2",
        "data.workers=0",
        "train={steps: 1, device: cpu}",
        "evaluate.limit=2",
    ]
    result = run(load_recipe(recipe_path("carla_to_camvid/fda.yaml"), overrides), tmp_path / "run")
    assert len(result.counted) == 10
