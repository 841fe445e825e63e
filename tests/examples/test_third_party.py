"""The example of a plugin package: imported, installed, beside a broken package, and against a rival."""

import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dalib import Engine, Registry, wrap_model
from dalib.cli import main
from dalib.discovery import default_registry, load_entry_points, load_module
from dalib.errors import RegistryError
from dalib.hooks import hookimpl
from tests.plugins.probe import prepared
from tests.tiny import Supervised, tiny_batch, tiny_model

PACKAGE = Path(__file__).parents[2] / "examples" / "third_party"


@pytest.fixture
def registry(monkeypatch):
    monkeypatch.syspath_prepend(str(PACKAGE))
    registry = Registry()
    load_module(registry, "dalib_example")
    return registry


def make_distribution(folder: Path, name: str, code: str) -> None:
    """Put a plugin package into ``folder`` as an installer would leave it there."""
    (folder / f"{name}.py").write_text(code)
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[dalib]\n{name} = {name}\n")


def test_its_three_names_train_together(registry):
    data = {d: registry.get("dataset", "shapes")(domain=d, size=(24, 32)) for d in ("source", "target")}
    torch.manual_seed(0)
    model = wrap_model(registry.get("model", "pixel_net")(num_classes=3, width=8), 3)
    strategy = registry.get("strategy", "flip_consistency")(threshold=0.0)
    assert strategy.name == "flip_consistency"
    engine = Engine(model, [Supervised(), strategy], device="cpu")
    terms = list(engine.iterate(data["source"], data["target"], steps=2, batch_size=2))
    assert terms[1]["flip_consistency/mirrored"] > 0 and terms[1]["flip_consistency/sure"] == 1


def test_its_strategy_labels_mirrored_images_by_what_the_teacher_is_sure_of(registry):
    strategy = registry.get("strategy", "flip_consistency")(threshold=0.4)
    batch = prepared([strategy], tiny_batch(size=(8, 8), num_classes=3))
    logits = tiny_model()(batch["target"].image)  # the teacher's first weights are the model's
    probability, label = logits.softmax(1).max(1)
    assert 0 < (probability >= 0.4).float().mean() < 1
    assert torch.equal(batch["mirrored"].image.flip(-1), batch["target"].image)
    assert torch.equal(batch["mirrored"].label.flip(-1), label.masked_fill(probability < 0.4, 255))


@pytest.mark.parametrize("both_ways", [True, False])
def test_its_strategy_predicts_both_ways_round(registry, both_ways):
    strategy = registry.get("strategy", "flip_consistency")(both_ways=both_ways)
    model = tiny_model().eval()
    predict = Engine(model, [strategy], device="cpu").predictor(model)
    image = torch.rand(1, 3, 8, 8)
    assert torch.allclose(predict(image).flip(-1), predict(image.flip(-1)), atol=1e-5) is both_ways


def test_its_data_set_draws_other_scenes_for_other_items_and_the_same_for_one(registry):
    data = registry.get("dataset", "shapes")(domain="target", length=3)
    assert all(torch.equal(a, b) for a, b in zip(data[1], data[1], strict=True))
    assert not torch.equal(data[1][1], data[2][1])
    assert {int(v) for v in data[0][1].unique()} <= {0, 1, 2}


def test_two_packages_with_one_name_are_an_error_that_names_both(registry):
    class Rival:
        @staticmethod
        @hookimpl
        def dalib_register(registry):
            registry.model("pixel_net", torch.nn.Identity)

    with pytest.raises(RegistryError, match="model 'pixel_net' is registered twice: by 'dalib_example' and by 'rival'"):
        registry.load("rival", Rival)


def test_installed_rivals_are_found_out_by_name(tmp_path, monkeypatch):
    code = "import dalib\n@dalib.hookimpl\ndef dalib_register(registry):\n    registry.dataset('shapes', dict)\n"
    for name in ("first_rival", "second_rival"):
        make_distribution(tmp_path, name, code)
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    with pytest.raises(RegistryError, match="'first_rival' and by 'second_rival'"):
        load_entry_points(Registry())


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder that holds the package as pip installs it, and a package that fails to import."""
    folder = tmp_path_factory.mktemp("installed")
    copy = shutil.copytree(PACKAGE, tmp_path_factory.mktemp("third_party") / "package")
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--disable-pip-version-check"]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, "--target", str(folder), str(copy)], check=True)
    make_distribution(folder, "broken_plugin", "import a_module_that_nobody_has\n")
    return folder


def test_installed_it_is_listed_and_the_broken_package_beside_it_too(installed, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(installed))
    monkeypatch.setattr("dalib.cli.commands.default_registry", default_registry.__wrapped__)
    monkeypatch.setenv("COLUMNS", "160")
    assert main(["plugins"]) == 0
    listed = capsys.readouterr().out
    assert "example" in listed and "flip_consistency" in listed
    assert "broken_plugin" in listed and "a_module_that_nobody_has" in listed


def test_a_recipe_that_names_its_strategy_model_and_data_trains_once_it_is_installed(installed):
    quick = ["train.steps=3", "train.log_every=1", "train.device=cpu", "data.target.length=4", "model.width=4"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(installed), *sys.path])}
    command = [sys.executable, "-m", "dalib", "train", str(PACKAGE / "recipe.yaml"), *quick, "--out", "run"]
    done = subprocess.run(command, env=environment, cwd=installed, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    logged = [json.loads(line) for line in (installed / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in logged] == [1, 2, 3]
    assert all("flip_consistency/mirrored" in line for line in logged)
    assert json.loads((installed / "run" / "results.json").read_text())["iou"].keys() == {"ground", "disk", "square"}
