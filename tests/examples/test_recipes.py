"""Every recipe of the examples is sound, touches no data before training, and runs on other data by overrides."""

from dataclasses import asdict
from pathlib import Path

import pytest

from dalib import DalibError, list_models, load_recipe, run
from dalib.cli import main
from dalib.core.create import schedule_from

RECIPES = sorted((Path(__file__).parents[2] / "examples" / "recipes").rglob("*.yaml"))
ADAPTATION = {"source_only", "jitter", "blur", "jitter_blur", "adversarial", "fda", "dacs", "stack"}
SHIFTS = ("gta5_to_cityscapes", "carla_to_camvid")
OFFLINE = "model.pretrained=false"  # tests fetch nothing
METHODS = {"adaptsegnet", "advent", "fda", "dacs", "daformer", "mic", "real_time"}
PUBLISHED = [r for r in RECIPES if r.parent.parent.name == "published"]


def recipe_path(name: str) -> Path:
    return next(r for r in RECIPES if r.as_posix().endswith(name))


def small_backbone(model: dict) -> list[str]:
    """Return the override that takes the smallest backbone of a large one's kind."""
    small = {"deeplabv2": "resnet26", "pvt_v2_b5": "pvt_v2_b0"}
    return [f"model.backbone={small[name]}" for name in (model["use"], model.get("backbone")) if name in small]


def test_the_two_shifts_have_a_recipe_for_each_method():
    by_folder = {folder: {r.stem for r in RECIPES if r.parent.name == folder} for folder in SHIFTS}
    assert by_folder == {"gta5_to_cityscapes": ADAPTATION, "carla_to_camvid": ADAPTATION | {"target_supervised"}}


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda r: f"{r.parent.name}/{r.stem}")
def test_every_recipe_plans_without_its_data(recipe, capsys):
    model = load_recipe(recipe).model
    overrides = [OFFLINE] if model.get("pretrained") else []
    overrides += small_backbone(model) if recipe.parent.name != "gta5" else []
    assert main(["plan", str(recipe), *overrides]) == 0
    assert "warning" not in capsys.readouterr().out


@pytest.mark.parametrize("network", list_models())
def test_one_word_changes_the_network(network, capsys):
    assert main(["plan", str(recipe_path("diorama/stack.yaml")), f"model.use={network}"]) == 0


@pytest.mark.parametrize("shift", SHIFTS)
def test_the_recipes_of_a_shift_differ_in_their_strategies_alone(shift):
    recipes = [load_recipe(r) for r in RECIPES if r.parent.name == shift and r.stem in ADAPTATION]
    rest = [{**asdict(recipe), "strategies": None} for recipe in recipes]
    assert all(other == rest[0] for other in rest)


def test_the_published_methods_have_a_recipe_for_each_shift():
    folders = {"gta5", "synthia", "gta5_synthia", "acdc", "dark_zurich"}
    by_folder = {folder: {r.stem for r in PUBLISHED if r.parent.name == folder} for folder in folders}
    assert by_folder == dict.fromkeys(folders, METHODS) and len(PUBLISHED) == len(METHODS) * len(folders)


def test_the_published_recipes_of_a_shift_have_the_same_data_and_classes():
    for folder in {r.parent for r in PUBLISHED}:
        recipes = [load_recipe(r) for r in PUBLISHED if r.parent == folder]
        assert all(each.data.source == recipes[0].data.source for each in recipes)
        assert all(each.data.target == recipes[0].data.target for each in recipes)
        assert {each.evaluate.classes for each in recipes} == {"synthia16" if folder.name == "synthia" else None}


@pytest.mark.parametrize(
    ("method", "steps", "batch_size", "rate"),
    [
        ("adaptsegnet", 150_000, 1, 2.5e-4 * 0.4**0.9),
        ("advent", 120_000, 1, 2.5e-4 * 0.52**0.9),
        ("fda", 100_000, 1, 2.5e-4 * (1 / 3) ** 0.9),
        ("dacs", 250_000, 2, 0.0),
        ("daformer", 40_000, 2, 0.0),
        ("mic", 40_000, 2, 0.0),
    ],
)
def test_a_published_method_stops_at_the_published_step_and_rate(method, steps, batch_size, rate):
    for recipe in (load_recipe(r) for r in PUBLISHED if r.stem == method):
        assert (recipe.train.steps, recipe.data.batch_size) == (steps, batch_size)
        schedule = schedule_from(recipe.schedule, recipe.train.steps, "schedule")
        assert recipe.optimizer["lr"] * schedule(steps) == pytest.approx(rate)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", PUBLISHED, ids=lambda r: f"{r.parent.name}/{r.stem}")
def test_every_published_method_trains_on_diorama_by_one_override(recipe, tmp_path):
    written = load_recipe(recipe)
    source = "{use: diorama, domain: source, size: [80, 144], length: 8}"
    source = f"[{source}, {source}]" if isinstance(written.data.source, list) else source
    target = "{use: diorama, domain: target, size: [72, 128], length: 8}"
    diorama = f"data={{source: {source}, target: {target}, batch_size: 2}}"
    small = [OFFLINE, *small_backbone(written.model), "train={steps: 1, device: cpu}", "evaluate={limit: 1}"]
    for index, options in enumerate(written.strategies):
        small += [f"strategies.{index}.crop=[64, 64]"] if "crop" in options else []
        small += [f"strategies.{index}.beta=0.05"] if "beta" in options else []
        small += [f"strategies.{index}.min_pixels=10"] if options["use"] == "rare_class_sampling" else []
    result = run(load_recipe(recipe, [diorama, *small]), tmp_path / "run")
    assert 0 <= result.miou <= 1 and (tmp_path / "run" / "checkpoints" / "last.pt").exists()


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
