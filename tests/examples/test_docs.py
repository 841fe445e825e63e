"""What the pages show is what there is: code runs, recipes load, commands parse, and quoted source is the source."""

import dataclasses
import inspect
import re
import shlex
import textwrap
from pathlib import Path

import pytest
import torch

from dalib import Engine, Evidence, create_dataset, make_recipe, wrap_model
from dalib.cli import main, make_parser
from dalib.core.hookspecs import HOOKS
from dalib.data.label_map import read_label_map
from dalib.discovery import default_registry, load_module
from dalib.evaluation.panels import write_png
from dalib.models import PIDNetLoss
from dalib.yaml import parse_yaml
from tests.benchmarks import scaling
from tests.equal import assert_equal

ROOT = Path(__file__).parents[2]
THIRD_PARTY = ROOT / "examples" / "third_party"
PAGES = ("quickstart", "data", "plugins", "methods", "models", "scaling", "choosing", "fidelity")


def blocks(page: str, language: str) -> list[str]:
    text = (ROOT / "docs" / f"{page}.md").read_text()
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def commands(page: str) -> list[list[str]]:
    lines = "".join(blocks(page, "console")).splitlines()
    called = (re.match(r"\$ (?:torchrun .*-m )?dalib (.*)", line) for line in lines)
    return [shlex.split(match[1]) for match in called if match]


def shorten(code: str) -> str:
    """Return an example of the docs with fewer steps and images of less size."""
    for long, short in (
        (r"steps=\d+", "steps=1"),
        (r"length=\d+", "length=1"),
        (r"size=\(\d+, \d+\)", "size=(64, 64)"),
    ):
        code = re.sub(long, short, code)
    return code


@pytest.fixture
def with_example_plugin(monkeypatch):
    monkeypatch.syspath_prepend(str(THIRD_PARTY))
    registry = default_registry.__wrapped__()
    load_module(registry, "dalib_example")
    for module in ("dalib.core.create", "dalib.runs.recipe"):
        monkeypatch.setattr(f"{module}.default_registry", lambda: registry)


def test_the_loop_in_the_docs_is_the_loop():
    code = "\n\n".join(textwrap.dedent(inspect.getsource(method)) for method in (Engine.step, Engine._update))
    assert code in blocks("plugins", "python")


@pytest.mark.parametrize("file", ["__init__.py", "strategy.py", "model.py", "data.py"])
def test_the_example_package_in_the_docs_is_the_package(file):
    assert (THIRD_PARTY / "dalib_example" / file).read_text() in blocks("plugins", "python")


def test_its_project_file_and_recipe_are_shown_as_they_are():
    assert blocks("plugins", "toml") == [(THIRD_PARTY / "pyproject.toml").read_text()]
    assert (THIRD_PARTY / "recipe.yaml").read_text() in blocks("plugins", "yaml")


def test_every_hook_has_a_row_in_the_table_of_rules():
    rows = re.findall(r"^\| `(\w+)\(", (ROOT / "docs" / "plugins.md").read_text(), flags=re.MULTILINE)
    assert set(HOOKS) <= set(rows)


def test_code_of_the_plugin_page_runs(with_example_plugin):
    for code in blocks("plugins", "python"):
        if not code.startswith("def step"):  # the loop is of methods; the test above compares it
            exec(compile(code, "docs/plugins.md", "exec"), {"__name__": "docs"})


def test_the_page_of_choosing_names_every_validator_and_its_own_one_scores():
    registry = type(default_registry())()
    load_module(registry, "dalib.evaluation")
    page = (ROOT / "docs" / "choosing.md").read_text()
    assert re.findall(r"^\| `(\w+)` \| (\w+) \|", page, flags=re.MULTILINE) and all(
        f"| `{name}` | {'higher' if registry.get('validator', name).higher else 'lower'} |" in page
        for name in registry.names("validator")
    )
    namespace: dict[str, object] = {"__name__": "docs"}
    (code,) = blocks("choosing", "python")
    exec(compile(code, "docs/choosing.md", "exec"), namespace)
    sample = (torch.tensor([[0.95, 0.05], [0.6, 0.4]]),)
    assert namespace["Confidence"](threshold=0.8).score(Evidence(sample=sample)) == 0.5


def test_strategies_of_the_plugin_page_train_and_resume(with_example_plugin):
    from dalib_example.model import PixelNet

    from tests.tiny import tiny_batch

    names = ("SureEntropy", "CutMix", "FeatureAlignment", "Smooth")
    namespace: dict[str, object] = {"__name__": "docs"}
    for code in blocks("plugins", "python"):
        if any(f"class {name}(" in code for name in names):
            exec(compile(code, "docs/plugins.md", "exec"), namespace)

    def make() -> Engine:
        torch.manual_seed(0)
        later = {"from": 0.0, "to": 1.0, "steps": 1, "start": 1}
        stack = [namespace[name](weight=later) for name in names]
        return Engine(wrap_model(PixelNet(num_classes=5, width=4), 5), stack, device="cpu", precision="bf16")

    whole, first, second = make(), make(), make()
    for index in range(3):
        terms = whole.step(tiny_batch(index))
    expected = {"sureentropy/entropy", "sureentropy/sure", "cutmix/mixed", "smooth/distance"}
    expected |= {f"featurealignment/{term}" for term in ("fool", "teacher", "start", "source", "target")}
    assert terms.keys() == expected and all(term.isfinite() for term in terms.values())
    assert terms["featurealignment/start"] > 0 and terms["smooth/distance"] > 0
    for index in range(2):
        first.step(tiny_batch(index))
    second.load_state_dict(first.state_dict())
    second.step(tiny_batch(2))
    assert_equal(whole.state_dict(), second.state_dict())


def test_the_quick_starts_python_trains(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (code,) = blocks("quickstart", "python")
    exec(compile(shorten(code), "docs/quickstart.md", "exec"), {"__name__": "docs"})
    assert "mIoU" in capsys.readouterr().out and (tmp_path / "adapted.pt").exists()


@pytest.mark.parametrize("page", PAGES)
def test_commands_of_the_docs_are_understood(page):
    for arguments in commands(page):
        known, rest = make_parser().parse_known_args(arguments) if arguments != ["--help"] else (None, [])
        assert all("=" in word for word in rest), arguments
        recipe = Path(getattr(known, "recipe", None) or "mine.yaml")
        assert recipe.parts[0] in ("mine.yaml", "recipe.yaml", "runs") or (ROOT / recipe).exists(), arguments


def test_recipes_of_the_docs_are_sound(with_example_plugin):
    data = {"source": {"use": "diorama"}, "target": {"use": "diorama", "domain": "target"}}
    for page in PAGES:
        for text in blocks(page, "yaml"):
            value = parse_yaml(text)
            if not {"ids", "colors"} & value.keys():  # a label map, which other tests read
                make_recipe({"model": {"use": "bisenet"}, "data": data, "train": {"steps": 1}, **value})


def test_a_sharded_network_cannot_be_copied_and_two_can_be_averaged_as_the_page_of_scaling_shows(capsys):
    (code,) = (code for code in blocks("scaling", "python") if "fully_shard" in code)
    exec(compile(code, "docs/scaling.md", "exec"), {"__name__": "docs"})
    assert capsys.readouterr().out.strip() in code


@pytest.mark.slow
def test_tables_of_the_page_of_scaling_are_what_its_script_prints(capsys):
    scaling.table()
    page = (ROOT / "docs" / "scaling.md").read_text()
    assert [line for line in capsys.readouterr().out.splitlines() if line not in page] == []


def test_label_maps_of_the_docs_say_what_the_page_says(tmp_path):
    _, ids, colors = blocks("data", "yaml")
    (tmp_path / "map.yaml").write_text(ids)
    crack = read_label_map(tmp_path / "map.yaml")
    assert crack.label_map(torch.tensor([[[0, 255]]], dtype=torch.uint8), tmp_path).tolist() == [[0, 1]]
    (tmp_path / "map.yaml").write_text(colors)
    painted = read_label_map(tmp_path / "map.yaml")
    assert painted.palette == ((200, 60, 60), (0, 0, 142), (70, 130, 180))
    pixels = torch.tensor([[200, 0, 9], [60, 0, 9], [60, 142, 9]], dtype=torch.uint8)[:, None]
    assert painted.label_map(pixels, tmp_path).tolist() == [[0, 1, 255]]


def test_the_page_of_data_names_every_option_of_every_format():
    page = (ROOT / "docs" / "data.md").read_text()
    registry = default_registry()
    ours = {
        name: factory
        for name in registry.names("dataset")
        if (factory := registry.get("dataset", name)).__module__.startswith("dalib.")
    }
    assert len(ours) == 10
    for name, factory in ours.items():
        assert f"| `{name}` |" in page
        assert [
            option for option in inspect.signature(factory).parameters if not re.search(rf"`{option}\b", page)
        ] == []


def test_data_of_ones_own_goes_from_plan_to_predictions_as_the_quick_start_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    label_map, recipe, _ = blocks("quickstart", "yaml")
    Path("game").mkdir()
    Path("game/labels.yaml").write_text(label_map)
    Path("mine.yaml").write_text(recipe)
    stored = {train_id: own for own, train_id in {1: 0, 2: 1, 3: 2, 4: 13}.items()}
    source, target = create_dataset("diorama", size=(64, 64)), create_dataset("diorama", domain="target", size=(64, 64))
    for index in range(2):
        image, label = source[index]
        write_png(Path(f"game/images/{index}.png"), image)
        write_png(Path(f"game/labels/{index}.png"), label.apply_(lambda v: stored.get(v, 0))[None])
        for split in ("train", "val"):
            write_png(Path(f"city/images/{split}/{index}.png"), target[index][0])
        write_png(Path(f"city/labels/val/{index}.png"), target[index][1][None])
    small = [
        "data.source.size=[64, 64]",
        "data.target.size=[64, 64]",
        "strategies.0.crop=[48, 48]",
        "strategies.1.beta=0.05",
        "data.batch_size=2",
    ]
    assert main(["plan", "mine.yaml", *small]) == 0
    assert main(["doctor", "mine.yaml", *small]) == 0
    assert main(["train", "mine.yaml", *small, "train={steps: 1, device: cpu}", "--out", "run"]) == 0
    assert main(["predict", "run", "city/images/val", "--out", "predictions", "--size", "64", "64"]) == 0
    assert len(list(Path("predictions").glob("*_blend.jpg"))) == 2
    assert read_label_map(Path("game/labels.yaml")).classes[0] == "road"


def test_tables_of_methods_name_every_option_of_every_strategy():
    import dalib_plugins

    page = (ROOT / "docs" / "methods.md").read_text()
    sections = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", page, flags=re.MULTILINE | re.DOTALL))
    registry = type(default_registry())()
    registry.load("bundled", dalib_plugins)
    assert registry.names("strategy") == sorted(sections)
    for name, text in sections.items():
        options = inspect.signature(registry.get("strategy", name)).parameters.keys() - {"name", "weight"}
        assert [option for option in options if f"`{option}`" not in text] == []


def test_the_page_of_models_names_every_option_of_every_model():
    page = (ROOT / "docs" / "models.md").read_text()
    registry = default_registry()
    factories = {name: registry.get("model", name) for name in registry.names("model")}
    ours = {name for name, factory in factories.items() if factory.__module__.startswith("dalib.")}  # others: of tests
    assert len(ours) == 7
    for name in ours:
        assert re.search(rf"^## .*\b{name}\b", page, flags=re.MULTILINE), name
        options = inspect.signature(factories[name]).parameters.keys() - {"num_classes"}
        assert [option for option in options if not re.search(rf"`{option}\b", page)] == []
    assert [f.name for f in dataclasses.fields(PIDNetLoss) if f"`loss.{f.name}`" not in page] == []
