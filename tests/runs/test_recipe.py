"""A recipe is checked as a whole: every mistake is one message with the path to it, and status 2 of the command."""

import pytest

from dalib import DalibError, load_recipe, make_recipe
from dalib.errors import RecipeError
from dalib.yaml import parse_yaml
from tests.command import RECIPE, refusal

# What is wrong, as overrides of a good recipe, and the message.
MISTAKES = [
    (["train.step=3"], "train.step: unknown option. Did you mean 'steps'?"),
    (["tarin={steps: 3}"], "tarin: unknown option. Did you mean 'train'?"),
    (["data.sorce={use: diorama}"], "data.sorce: unknown option. Did you mean 'source'?"),
    (["train.steps=abc"], 'train.steps: expected a whole number, got "abc".'),
    (["train.steps=1.5"], "train.steps: expected a whole number, got 1.5."),
    (["train.steps=true"], "train.steps: expected a whole number, got true."),
    (["train.steps=null"], "train.steps: expected a whole number, got null."),
    (["train.steps=.inf"], "train.steps: expected a finite number, got inf."),
    (["train.steps=-1"], "train.steps: expected at least 1, got -1."),
    (["train.steps=0"], "train.steps: expected at least 1, got 0."),
    (["train.seed=-1"], "train.seed: expected at least 0, got -1."),
    (["train.log_every=0"], "train.log_every: expected at least 1, got 0."),
    (["train.clip=0"], "train.clip: expected a norm above 0, got 0.0."),
    (["train.precision=fp8"], "train.precision: input should be 'fp32', 'bf16' or 'fp16', got \"fp8\"."),
    (["train.device=gpu"], "train.device: expected a device such as cpu or cuda:0, got 'gpu'."),
    (["train.accumulate=3"], "data.batch_size: 2 images do not divide into 3 micro-batches (train.accumulate)."),
    (["data.batch_size=0"], "data.batch_size: expected at least 1, got 0."),
    (["data.workers=-1"], "data.workers: expected at least 0, got -1."),
    (["data=3"], "data: expected a mapping, got 3."),
    (["data.source.splt=train"], "data.source.splt: unknown option. Did you mean 'split'?"),
    (["data.source.use=dioramma"], "data.source.use: there is no dataset 'dioramma'. Did you mean 'diorama'?"),
    (["data.source.size=[1]"], "data.source.size[1]: expected a value, got [1]."),
    (["data.source.size=[1, 2, 3]"], "data.source.size: expected fewer values, got [1, 2, 3]."),
    (["data.source.size=big"], 'data.source.size: expected a list, got "big".'),
    (["model=bisenet"], 'model: expected a mapping, got "bisenet".'),
    (["model={backbone: resnet18}"], "model.use: expected the name of a model, got None."),
    (["model.use=bisnet"], "model.use: there is no model 'bisnet'. Did you mean 'bisenet'?"),
    (["model.backbon=x"], "model.backbon: unknown option. Did you mean 'backbone'?"),
    (["model.weights=3"], "model.weights: expected a path or null, got 3."),
    (["model.num_classes=5"], "model.num_classes: the data sets give the number of classes; drop it."),
    (["strategies=supervised"], 'strategies: expected a list, got "supervised".'),
    (["strategies=[5]"], "strategies[0]: expected a mapping, got 5."),
    (["strategies.0.use=supervisd"], "strategies[0].use: there is no strategy 'supervisd'. Did you mean 'supervised'?"),
    (["strategies=[{use: supervised}, {use: fda, betta: 1}]"], "strategies[1].betta: unknown option."),
    (["strategies=[{use: fda, beta: [x]}]"], 'strategies[0].beta[0]: expected a number, got "x".'),
    (["strategies=[{use: fda, beta: {x: 1}}]"], "strategies[0].beta: expected a number or a list, got"),
    (["strategies=[{use: fda, beta: .nan}]"], "strategies[0].beta: expected a finite number, got nan."),
    (["strategies=[{use: fda, beta: [.inf]}]"], "strategies[0].beta[0]: expected a finite number, got inf."),
    (["strategies=[{use: fda, beta: '0.01'}]"], 'strategies[0].beta: expected a number or a list, got "0.01".'),
    (["strategies=[{use: fda, window: round}]"], "strategies[0].window: input should be 'symmetric' or 'corner'"),
    (["strategies.0.weight=true"], "strategies[0].weight: expected a number, got true."),
    (["strategies.0.weight=-1"], "strategies[0].weight: expected at least 0, got -1."),
    (["strategies.0.name=5"], "strategies[0].name: expected text, got 5."),
    (["optimizer=sgd"], 'optimizer: expected a mapping, got "sgd".'),
    (["optimizer={use: sgd}"], "optimizer.lr: this option is required."),
    (["optimizer.use=sdg"], "optimizer.use: expected one of sgd, adam, adamw, got 'sdg'."),
    (["optimizer.lr=0"], "optimizer.lr: expected a rate above 0, got 0."),
    (["optimizer.lr=.nan"], "optimizer.lr: expected a finite number, got nan."),
    (["optimizer.momentum=-1"], "optimizer: Invalid momentum value: -1.0."),
    (["schedule={use: polly}"], "schedule.use: expected one of poly, constant, got 'polly'."),
    (["schedule={use: poly, steps: 0}"], "schedule.steps: expected at least 1, got 0."),
    (["schedule={use: poly, power: -0.9}"], "schedule.power: expected at least 0, got -0.9."),
    (["loss={ohm: 0.7}"], "loss.ohm: unknown option. Did you mean 'ohem'?"),
    (["loss.class_weights=[1, 2]"], "loss.class_weights: expected 19 values, one a class, got 2."),
    (["evaluate.model=teachr"], "evaluate.model: input should be 'student' or 'teacher', got \"teachr\"."),
    (["evaluate.model=teacher"], "there is no teacher to evaluate: no strategy of this stack asked for one."),
    (["evaluate.protocol=ful"], "evaluate.protocol: no evaluation protocol is called 'ful'. Did you mean 'full'?"),
    (["plugins=[no_such_module]"], "plugin module 'no_such_module' failed to load: ModuleNotFoundError: No module"),
    (["plugins=[json]"], "module 'json' has no function `dalib_register` marked with @dalib.hookimpl."),
    (["plugins=[3]"], "plugins[0]: expected text, got 3."),
    (["steps"], "override 'steps': expected dotted.key=value, such as train.steps=100."),
    (["=3"], "override '=3': expected dotted.key=value, such as train.steps=100."),
    (
        ["strategies.7.weight=1"],
        "override 'strategies.7.weight=1': strategies is a list of 1; expected an index, got '7'.",
    ),
    (["strategies.-1.weight=1"], "strategies is a list of 1; expected an index, got '-1'."),
    (["train.steps.x=3"], "override 'train.steps.x=3': train.steps is 2, which has no entry 'x'."),
    (["train.steps=[1"], "override 'train.steps=[1': not YAML on line 1: expected ',' or ']', but got '<stream end>'."),
]

# Whole texts in place of the recipe.
TEXTS = [
    ("- 1\n- 2\n", "a recipe is a mapping with the keys model, data, strategies, train; got [1, 2]."),
    ("", "a recipe is a mapping with the keys model, data, strategies, train; got None."),
    (RECIPE + "train: {steps: 3}\n", "line 11: the key 'train' stands twice; it stands first on line 10."),
    (RECIPE.replace("steps: 2,", "steps: 2, steps: 3,"), "the key 'steps' stands twice"),
    (RECIPE.replace("model: {use: bisenet}\n", ""), "model: this option is required."),
    (RECIPE.replace("train: {steps: 2, log_every: 1}\n", ""), "train: this option is required."),
    (RECIPE.replace("{use: bisenet}", "{use: bisenet"), "not YAML on line"),
    (
        RECIPE.replace("use: bisenet", "use: !!python/name:os.system ''"),
        "not YAML on line 1: could not determine a constructor",
    ),
]


@pytest.mark.parametrize(("overrides", "message"), MISTAKES, ids=[" ".join(o) for o, _ in MISTAKES])
def test_a_mistake_is_one_message_with_its_path(overrides, message, tmp_path, capsys):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE)
    assert message in refusal(capsys, "plan", recipe, *overrides)


@pytest.mark.parametrize(("text", "message"), TEXTS)
def test_a_text_that_is_no_recipe_is_named_with_its_file(text, message, tmp_path, capsys):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(text)
    said = refusal(capsys, "plan", recipe)
    assert message in said and said.startswith(str(recipe))


def test_a_missing_recipe_a_folder_and_another_encoding_are_named(tmp_path, capsys):
    assert refusal(capsys, "plan", tmp_path / "none.yaml") == f"{tmp_path / 'none.yaml'} does not exist."
    assert refusal(capsys, "plan", tmp_path) == f"{tmp_path} cannot be read: Is a directory."
    (tmp_path / "latin.yaml").write_bytes("modèle: 1".encode("latin-1"))
    assert "is not a text in UTF-8; expected a YAML file." in refusal(capsys, "plan", tmp_path / "latin.yaml")


def test_numbers_are_read_as_their_options_say():
    recipe = make_recipe(parse_yaml(RECIPE))
    assert recipe.optimizer["lr"] == 1e-2 and isinstance(recipe.optimizer["lr"], float)
    assert recipe.strategies == [{"use": "supervised"}]
    assert recipe.data.workers == 0 and recipe.schedule == {"use": "poly"}


def test_overrides_change_what_they_name(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    overrides = [
        "train.steps=7",
        "strategies.0.weight=0.5",
        "loss.ohem=0.7",
        "schedule=null",
        "data.source.size=[8, 9]",
    ]
    recipe = load_recipe(path, overrides)
    assert (recipe.train.steps, recipe.strategies[0]["weight"], recipe.loss, recipe.schedule) == (
        7,
        0.5,
        {"ohem": 0.7},
        None,
    )
    assert recipe.data.source["size"] == [8, 9]


def test_a_resolved_recipe_reads_back_as_itself():
    recipe = make_recipe(parse_yaml(RECIPE))
    assert make_recipe(parse_yaml(recipe.to_yaml())) == recipe


def test_a_strategy_may_have_an_option_named_like_a_models(monkeypatch):
    from dalib import Registry, Strategy

    class Weigher(Strategy):
        weights: list[float]

    registry = Registry()
    registry.strategy("weigher", Weigher)
    monkeypatch.setattr("dalib.core.create.default_registry", lambda: registry)
    from dalib.core.create import check_use

    check_use("strategy", {"use": "weigher", "weights": [0.5, 1]}, "strategies[0]")
    with pytest.raises(RecipeError, match=r"strategies\[0\].weights: this option is required"):
        check_use("strategy", {"use": "weigher"}, "strategies[0]")


def test_every_refusal_is_a_dalib_error():
    assert issubclass(RecipeError, DalibError)
