"""Every recipe of the examples is sound, touches no data before training, and runs on other data by overrides."""

from dataclasses import asdict
from pathlib import Path

import pytest

from dalib import DalibError, list_models, load_recipe, run
from dalib.cli import main

RECIPES = sorted((Path(__file__).parents[2] / "examples" / "recipes").rglob("*.yaml"))
ADAPTATION = {"source_only", "jitter", "blur", "jitter_blur", "adversarial", "fda", "dacs", "stack"}
SHIFTS = ("gta5_to_cityscapes", "carla_to_camvid")
OFFLINE = "model.pretrained=false"  # tests fetch nothing


def recipe_path(name: str) -> Path:
    return next(r for r in RECIPES if r.as_posix().endswith(name))


def test_the_two_shifts_have_a_recipe_for_each_method():
    by_folder = {folder: {r.stem for r in RECIPES if r.parent.name == folder} for folder in SHIFTS}
    assert by_folder == {"gta5_to_cityscapes": ADAPTATION, "carla_to_camvid": ADAPTATION | {"target_supervised"}}


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda r: f"{r.parent.name}/{r.stem}")
def test_every_recipe_plans_without_its_data(recipe, capsys):
    offline = [OFFLINE] if load_recipe(recipe).model.get("pretrained") else []
    assert main(["plan", str(recipe), *offline]) == 0
    assert "warning" not in capsys.readouterr().out


@pytest.mark.parametrize("network", list_models())
def test_one_word_changes_the_network(network, capsys):
    assert main(["plan", str(recipe_path("diorama/stack.yaml")), f"model.use={network}"]) == 0


@pytest.mark.parametrize("shift", SHIFTS)
def test_the_recipes_of_a_shift_differ_in_their_strategies_alone(shift):
    recipes = [load_recipe(r) for r in RECIPES if r.parent.name == shift and r.stem in ADAPTATION]
    rest = [{**asdict(recipe), "strategies": None} for recipe in recipes]
    assert all(other == rest[0] for other in rest)


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
        "strategies.2.beta=0.05",
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
        "strategies.0.beta=0.05",
        "data.batch_size=2",
        "data.workers=0",
        "train={steps: 1, device: cpu}",
        "evaluate.limit=2",
    ]
    result = run(load_recipe(recipe_path("carla_to_camvid/fda.yaml"), overrides), tmp_path / "run")
    assert len(result.counted) == 10
