"""A recipe is checked as a whole: every mistake is one message with the path to it, and status 2 of the command."""

import tracemalloc
from contextlib import suppress

import pytest

from dalib import Registry, Strategy, load_recipe, make_recipe
from dalib.core.create import check_use
from dalib.errors import DalibError, RecipeError
from dalib.yaml import parse_yaml
from tests.command import RECIPE, TINY, refusal, run_dalib

# What is wrong, as an override of a good recipe, and the message after the recipe's path.
MISTAKES: dict[str, str] = {
    "train.step=3": "train.step: unknown option. Did you mean 'steps'?",
    "tarin={steps: 3}": "tarin: unknown option. Did you mean 'train'?",
    "7=x": "7: unknown option. Known: data, evaluate, loss, model, optimizer, plugins, schedule, strategies, train.",
    "train.steps=abc": 'train.steps: expected a whole number, got "abc".',
    "train.steps=1.5": "train.steps: expected a whole number, got 1.5.",
    "train.steps=true": "train.steps: expected a whole number, got true.",
    "train.steps=null": "train.steps: expected a whole number, got null.",
    "train.steps=0": "train.steps: expected at least 1, got 0.",
    "train.steps=2024-01-02": 'train.steps: expected a whole number, got "2024-01-02".',
    "train.seed=-1": "train.seed: expected at least 0, got -1.",
    "train.accumulate=0": "train.accumulate: expected at least 1, got 0.",
    "train.log_every=0": "train.log_every: expected at least 1, got 0.",
    "train.checkpoint_every=0": "train.checkpoint_every: expected at least 1, got 0.",
    "train.keep_every=0": "train.keep_every: expected at least 1, got 0.",
    "train.eval_every=0": "train.eval_every: expected at least 1, got 0.",
    "train.clip=0": "train.clip: expected more than 0, got 0.",
    "train.precision=fp8": "train.precision: expected 'fp32', 'bf16' or 'fp16', got \"fp8\".",
    "train.device=gpu": 'train.device: expected a device such as cpu or cuda:0, got "gpu".',
    "train.accumulate=3": "data.batch_size: 2 images do not divide into 3 micro-batches (train.accumulate).",
    "train={steps: 1, compile: true, checkpoint_activations: true}": (
        "train.checkpoint_activations does not go with train.compile; leave one of the two out."
    ),
    "train={log_every: 1}": "train.steps: this option is required.",
    "data=3": "data: expected a mapping, got 3.",
    "data.sorce={use: diorama}": "data.sorce: unknown option. Did you mean 'source'?",
    "data.source=7": "data.source: expected a mapping or a list, got 7.",
    "data.source=[]": "data.source: expected at least one data set, got [].",
    "data.source=[7]": "data.source[0]: expected a mapping, got 7.",
    "data.target=[{use: diorama, lenght: 3}]": "data.target[0].lenght: unknown option. Did you mean 'length'?",
    "data.source=[{use: diorama, share: 1}, {use: diorama}]": "data.source: expected `share` in each entry or in none, "
    "found it in some.",
    "data.source=[{use: diorama, share: 0}]": "data.source[0].share: expected more than 0, got 0.",
    "data.source.share=1": "data.source.share: unknown option.",
    "data.eval=[{use: diorama, share: 1}]": "data.eval[0].share: unknown option.",
    "data.streams.few={use: dioramma}": "data.streams.few.use: there is no dataset 'dioramma'.",
    "data.streams.few=[{use: diorama}, {use: diorama, size: 3}]": "data.streams.few[1].size: expected a list, got 3.",
    "data.streams.target={use: diorama}": "data.streams: expected names of further streams, such as few, other than "
    "source, target and eval, got",
    "data.streams={a.b: {use: diorama}}": "data.streams: expected names of further streams, such as few, other than",
    "data={streams: {few: {use: diorama}}}": "data.eval: this option is required where there is neither source nor "
    "target.",
    "data={eval: {use: diorama}}": "data: expected at least one of source, target and streams, found none.",
    "data.batch_size=0": "data.batch_size: expected at least 1, got 0.",
    "data.workers=-1": "data.workers: expected at least 0, got -1.",
    "data.on_bad_item=ignore": "data.on_bad_item: expected 'stop' or 'skip', got \"ignore\".",
    "data.max_bad_items=0": "data.max_bad_items: expected at least 1, got 0.",
    "data.source.splt=train": "data.source.splt: unknown option. Did you mean 'split'?",
    "data.source.use=dioramma": "data.source.use: there is no dataset 'dioramma'. Did you mean 'diorama'?",
    "data.source.length=0": "data.source.length: expected at least 1, got 0.",
    "data.source.size=[0, 5]": "data.source.size[0]: expected at least 1, got 0.",
    "data.source.size=[1]": "data.source.size[1]: expected a value, got [1].",
    "data.source.size=[1, 2, 3]": "data.source.size: expected fewer values, got [1, 2, 3].",
    "data.source.size=big": 'data.source.size: expected a list, got "big".',
    'data.source.domain="\\ud800"': "the recipe: not a value in JSON: unexpected end of hex escape",
    "model=bisenet": 'model: expected a mapping, got "bisenet".',
    "model={backbone: resnet18}": "model.use: expected the name of a model, got None.",
    "model.use=bisnet": "model.use: there is no model 'bisnet'. Did you mean 'bisenet'?",
    "model.backbon=x": "model.backbon: unknown option. Did you mean 'backbone'?",
    "model.weights=3": "model.weights: expected a path or null, got 3.",
    "model.num_classes=5": "model.num_classes: the data sets give the number of classes; drop it.",
    "strategies=supervised": 'strategies: expected a list, got "supervised".',
    "strategies=[5]": "strategies[0]: expected a mapping, got 5.",
    "strategies=[{use: supervised}, {use: fda, betta: 1}]": "strategies[1].betta: unknown option. Did you mean 'beta'?",
    "strategies=[{use: dacs2}]": "strategies[0].use: there is no strategy 'dacs2'. Did you mean 'dacs'? What another "
    "package registers is there once that package is installed with pip, or its module named under `plugins:`",
    "strategies=[{use: fda, beta: [x]}]": 'strategies[0].beta[0]: expected a number, got "x".',
    "strategies=[{use: fda, beta: {x: 1}}]": 'strategies[0].beta: expected a number or a list, got {"x": 1}.',
    "strategies=[{use: fda, beta: '0.01'}]": 'strategies[0].beta: expected a number or a list, got "0.01".',
    "strategies=[{use: fda, beta: 0.9}]": "strategies[0].beta: expected a number of at most 0.5, or a list, got 0.9.",
    "strategies=[{use: fda, window: round}]": "strategies[0].window: expected 'symmetric' or 'corner', got \"round\".",
    "strategies=[{use: augment, flip: 3}]": "strategies[0].flip: expected at most 1, got 3.",
    "strategies=[{use: augment, jitter_p: -0.1}]": "strategies[0].jitter_p: expected at least 0, got -0.1.",
    "strategies=[{use: augment, scale: [2, 1]}]": "strategies[0].scale: expected the least value first, then the "
    "greatest, got [2, 1].",
    "strategies=[{use: augment, scale: [0, 1]}]": "strategies[0].scale[0]: expected more than 0, got 0.",
    "strategies=[{use: augment, crop: [0, 8]}]": "strategies[0].crop[0]: expected at least 1, got 0.",
    "strategies=[{use: augment, streams: []}]": "strategies[0].streams: expected more values, got [].",
    "strategies=[{use: augment, color_jitter: [1, 1, 1, 1]}]": "strategies[0].color_jitter[3]: expected at most 0.5,",
    "strategies=[{use: augment, blur: {kernel: 4}}]": "strategies[0].blur.kernel: expected an odd number, got 4.",
    "strategies=[{use: augment, blur: {p: 2}}]": "strategies[0].blur.p: expected at most 1, got 2.",
    "strategies=[{use: augment, blur: {kernl: 3}}]": "strategies[0].blur.kernl: unknown option. Did you mean 'kernel'?",
    "strategies=[{use: dacs, threshold: 1.5}]": "strategies[0].threshold: expected at most 1, got 1.5.",
    "strategies=[{use: dacs, ema: 2}]": "strategies[0].ema: expected a number of at most 1, or a mapping, got 2.",
    "strategies=[{use: dacs, blur: [1, 0.5]}]": "strategies[0].blur: expected the least value first, then the",
    "strategies=[{use: adversarial, lr: 0}]": "strategies[0].lr: expected more than 0, got 0.",
    "strategies=[{use: adversarial, betas: [0.9, 1]}]": "strategies[0].betas[1]: expected less than 1, got 1.",
    "strategies=[{use: adversarial, levels: {}}]": "strategies[0].levels: expected more values, got {}.",
    "strategies=[{use: supervised, ohem: 0}]": "strategies[0].ohem: expected more than 0, got 0.",
    "strategies=[{use: crf, cell: 0}]": "strategies[0].cell: expected at least 1, got 0.",
    "strategies.0.weight=true": "strategies[0].weight: expected a number or a mapping, got true.",
    "strategies.0.weight=-1": "strategies[0].weight: expected a number of at least 0, or a mapping, got -1.",
    "strategies.0.name=5": "strategies[0].name: expected text, got 5.",
    "optimizer=sgd": 'optimizer: expected a mapping, got "sgd".',
    "optimizer={use: sgd}": "optimizer.lr: this option is required.",
    "optimizer={lr: 0.1}": "optimizer.use: expected the name of one, got none. Without this section a run uses "
    "{use: sgd, lr: 0.00025}; write it whole, such as optimizer={use: sgd, lr: 0.1}.",
    "optimizer.use=sdg": "optimizer.use: there is no optimizer 'sdg'. Did you mean 'sgd'?",
    "optimizer.use=3": "optimizer.use: expected the name of an optimizer, got 3.",
    "optimizer.groups={backbone: 0}": "optimizer.groups.backbone: expected more than 0, got 0.",
    "optimizer.no_decay=[norms]": "optimizer.no_decay[0]: expected 'norm' or 'bias', got \"norms\".",
    "optimizer.lr=0": "optimizer.lr: expected more than 0, got 0.",
    "optimizer.lr=true": "optimizer.lr: expected a number, got true.",
    "optimizer.momentum=-1": "optimizer.momentum: expected at least 0, got -1.",
    "optimizer={use: sgd, lr: 1, momentum: 0, nesterov: true}": "sgd: nesterov: expected a momentum above 0 with it,",
    "optimizer={use: adam, lr: 1, betas: [0.9, 1]}": "optimizer.betas[1]: expected less than 1, got 1.",
    "optimizer={use: adamw, lr: 1, weight_decay: -1}": "optimizer.weight_decay: expected at least 0, got -1.",
    "schedule={use: polly}": "schedule.use: there is no schedule 'polly'. Did you mean 'poly'?",
    "schedule={use: step}": "schedule.milestones: this option is required.",
    "schedule={use: cosine, power: 2}": "schedule.power: unknown option. Known: steps, warmup.",
    "schedule={use: poly, steps: 0}": "schedule.steps: expected at least 1, got 0.",
    "schedule={use: poly, power: -0.9}": "schedule.power: expected at least 0, got -0.9.",
    "schedule={use: poly, warmup: -1}": "schedule.warmup: expected at least 0, got -1.",
    "loss={ohm: 0.7}": "loss.ohm: unknown option. Did you mean 'ohem'?",
    "loss={use: dise}": "loss.use: there is no loss 'dise'. Did you mean 'dice'?",
    "loss={use: dice, ohem: 0.7}": "loss.ohem: unknown option. Known: auxiliary.",
    "loss={ohem: 2}": "loss.ohem: expected at most 1, got 2.",
    "evaluate.model=teachr": "evaluate.model: expected 'student' or 'teacher', got \"teachr\".",
    "evaluate.protocol=ful": "evaluate.protocol: expected one of full, adaptsegnet, ",
    "evaluate.limit=0": "evaluate.limit: expected at least 1, got 0.",
    "plugins=[no_such_module]": "plugin module 'no_such_module' failed to load: ModuleNotFoundError: No module",
    "plugins=[json]": "module 'json' has no function `dalib_register` marked with @dalib.hookimpl.",
    "plugins=[3]": "plugins[0]: expected text, got 3.",
}

# Overrides that name no entry, or are no YAML.
OVERRIDES: dict[str, str] = {
    "base=other.yaml": "override 'base=other.yaml': a base is named in a recipe's file; write `base: FILE` there.",
    "steps": "override 'steps': expected dotted.key=value, such as train.steps=100.",
    "=3": "override '=3': expected dotted.key=value, such as train.steps=100.",
    "strategies.7.weight=1": "override 'strategies.7.weight=1': strategies is a list of 1; expected an index up to 0, "
    "or 1 to append, got '7'.",
    "strategies.-1.weight=1": "override 'strategies.-1.weight=1': strategies is a list of 1; expected an index up to",
    "train.steps.x=3": "override 'train.steps.x=3': train.steps is 2, which has no entry 'x'.",
    "train.steps=[1": "override 'train.steps=[1': not YAML on line 1: expected ',' or ']', but got '<stream end>'.",
    "optimizer.lr=.nan": "override 'optimizer.lr=.nan': line 1: expected a finite number of at most 64 bits, got .nan.",
}

# Whole texts in place of the recipe.
TEXTS: list[tuple[str, str]] = [
    ("- 1\n- 2\n", "a recipe is a mapping with the keys model, data, strategies, train; got [1, 2]."),
    ("", "a recipe is a mapping with the keys model, data, strategies, train; got None."),
    (RECIPE + "train: {steps: 3}\n", "line 11: the key 'train' stands twice; it stands first on line 10."),
    (RECIPE.replace("model: {use: bisenet}\n", ""), "model: this option is required."),
    (
        RECIPE.replace("bisenet}", "bisenet, x: " + "[" * 500 + "]" * 500 + "}"),
        "lists or mappings are nested too deep.",
    ),
    (RECIPE.replace("use: bisenet", "use: !!python/name:os.system ''"), "not YAML on line 1: could not determine a"),
]


@pytest.fixture
def recipe(tmp_path):
    """A good recipe in a file."""
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    return path


@pytest.mark.parametrize(("override", "message"), [*MISTAKES.items(), *OVERRIDES.items()], ids=[*MISTAKES, *OVERRIDES])
def test_a_mistake_is_one_message_with_its_path(override, message, recipe):
    with pytest.raises(DalibError) as caught:
        load_recipe(recipe, [override])
    assert str(caught.value).startswith(message if override in OVERRIDES else f"{recipe}: {message}")


@pytest.mark.parametrize(("text", "message"), TEXTS)
def test_a_text_that_is_no_recipe_is_named_with_its_file(text, message, recipe):
    recipe.write_text(text)
    with pytest.raises(RecipeError) as caught:
        load_recipe(recipe)
    assert str(caught.value).startswith(f"{recipe}: {message}")


STACK = "strategies:\n  - {use: supervised}\n"
BETAS = "strategies: [{use: fda, beta: [&a {}" + ", *a" * 9_000 + "]}]\n"
UNFOLDED = {
    "many strategies": RECIPE.replace(STACK, "strategies: [&a {use: supervised}" + ", *a" * 3_000 + "]\n"),
    "a long list": RECIPE.replace(STACK, BETAS.replace("{}", "0.01")),
    "a mistake in each": RECIPE.replace(STACK, BETAS.replace("{}", "x")),
    "keys that are none": RECIPE + "\n".join(f"k{i}: 1" for i in range(5_000)),
    "mappings of mappings": RECIPE + "x: &a [1, 2]\ny: &b [" + "*a, " * 9_000 + "]\nz: [" + "*b, " * 9_000 + "]",
}


@pytest.mark.parametrize("text", UNFOLDED.values(), ids=UNFOLDED)
def test_what_a_short_text_unfolds_to_is_checked_in_little_memory(text, recipe):
    """In little time as well, or the test would be ended."""
    recipe.write_text(text)
    tracemalloc.start()
    with suppress(RecipeError):
        load_recipe(recipe)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100 * 2**20


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.step=3", "{recipe}: train.step: unknown option. Did you mean 'steps'?"),
        (
            "train.steps=1e400",
            "override 'train.steps=1e400': line 1: expected a finite number of at most 64 bits, got 1e400.",
        ),
        ("strategies=[{use: fda, beta: [x]}]", '{recipe}: strategies[0].beta[0]: expected a number, got "x".'),
        (
            "model.backbone=zzz",
            "model: timm has no backbone 'zzz'. timm.list_models() names them all.",
        ),
        ("loss.class_weights=[1, 2]", "loss.class_weights: expected 19 values, one per class, got 2."),
        ("evaluate.model=teacher", "there is no teacher to evaluate: no strategy of this stack asked for one."),
    ],
)
@pytest.mark.parametrize("command", ["plan", "train"])
def test_a_command_refuses_a_mistake_and_leaves_no_run(
    command, override, message, recipe, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert refusal(capsys, command, recipe, override) == message.format(recipe=recipe)
    assert list(recipe.parent.iterdir()) == [recipe]


def test_a_command_names_a_recipe_that_is_not_there(tmp_path, capsys):
    assert refusal(capsys, "plan", tmp_path / "none.yaml") == f"{tmp_path / 'none.yaml'} does not exist."
    assert refusal(capsys, "train", tmp_path) == f"{tmp_path} cannot be read: Is a directory."


def test_numbers_are_read_as_their_options_say():
    recipe = make_recipe(parse_yaml(RECIPE))
    assert recipe.optimizer["lr"] == 1e-2 and isinstance(recipe.optimizer["lr"], float)
    assert recipe.strategies == [{"use": "supervised"}]
    assert recipe.data.workers == 0 and recipe.schedule == {"use": "poly"}


def test_overrides_change_what_they_name(recipe):
    changed = load_recipe(
        recipe,
        ["train.steps=7", "strategies.0.weight=0.5", "loss.ohem=0.7", "schedule=null", "data.source.size=[8, 9]"],
    )
    assert changed.train.steps == 7 and changed.strategies[0]["weight"] == 0.5
    assert changed.loss == {"ohem": 0.7} and changed.schedule is None
    assert changed.data.source["size"] == [8, 9]


def test_an_override_of_an_alias_changes_nothing_else(recipe):
    recipe.write_text(RECIPE.replace("source: {", "source: &s {").replace("target: {", "target: *s\n  #"))
    changed = load_recipe(recipe, ["data.source.length=3"])
    assert (changed.data.source["length"], changed.data.target["length"]) == (3, 6)


def test_a_resolved_recipe_reads_back_as_itself():
    recipe = make_recipe(parse_yaml(RECIPE))
    assert make_recipe(parse_yaml(recipe.to_yaml())) == recipe


def write(folder, **texts):
    """Write recipes by name and return the path of the first."""
    for name, text in texts.items():
        file = folder / f"{name.replace('__', '/')}.yaml"
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    return folder / f"{next(iter(texts))}.yaml"


def test_a_recipe_differs_from_its_base_in_what_it_says(tmp_path):
    path = write(
        tmp_path,
        mine="base: common.yaml\ntrain: {steps: 9}\ndata: {target: null, source: {size: [8, 16]}}\n"
        "strategies: [{use: supervised, weight: 2}]\n",
        common=RECIPE,
    )
    expected = parse_yaml(RECIPE)
    expected["train"]["steps"], expected["data"]["target"] = 9, None
    expected["data"]["source"]["size"] = [8, 16]
    expected["strategies"] = [{"use": "supervised", "weight": 2}]
    assert load_recipe(path) == make_recipe(expected)
    assert load_recipe(path, ["train.steps=4"]).train.steps == 4


def test_options_of_one_thing_do_not_pass_to_another(tmp_path):
    path = write(tmp_path, mine="base: common.yaml\noptimizer: {use: adamw, lr: 1}\n", common=RECIPE + "loss: {}\n")
    (tmp_path / "common.yaml").write_text(RECIPE.replace("lr: 1e-2", "lr: 1e-2, nesterov: true"))
    assert load_recipe(path).optimizer == {"use": "adamw", "lr": 1}
    path.write_text("base: common.yaml\noptimizer: {use: sgd, lr: 1}\n")
    assert load_recipe(path).optimizer == {"use": "sgd", "lr": 1, "nesterov": True}


def test_a_base_has_a_base_each_beside_the_file_that_names_it(tmp_path):
    path = write(
        tmp_path,
        mine="base: deep/middle.yaml\ntrain: {seed: 5}\n",
        deep__middle="base: ../common.yaml\ntrain: {steps: 3, seed: 4}\n",
        common=RECIPE,
    )
    train = load_recipe(path).train
    assert (train.steps, train.seed, train.log_every) == (3, 5, 1)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({"mine": "base: mine.yaml"}, "{0}/mine.yaml: base goes round in a circle: {0}/mine.yaml -> {0}/mine.yaml."),
        (
            {"mine": "base: other.yaml", "other": "base: ./mine.yaml"},
            "{0}/mine.yaml: base goes round in a circle: {0}/mine.yaml -> {0}/other.yaml -> {0}/mine.yaml.",
        ),
        ({"mine": "base: 3"}, "{0}/mine.yaml: base: expected the path of a recipe, got 3."),
        (
            {"mine": "base: none.yaml"},
            "{0}/none.yaml does not exist. It is the `base` of {0}/mine.yaml, from whose folder its path counts.",
        ),
        ({"mine": "base: other.yaml", "other": "[1]"}, "{0}/other.yaml: a recipe is a mapping with the keys model, "),
        ({"mine": "base: other.yaml", "other": "a: 1\na: 2"}, "{0}/other.yaml: line 2: the key 'a' stands twice; "),
        (
            {"mine": "base: other.yaml", "other": RECIPE + "los: {}\n"},
            "{0}/mine.yaml over {0}/other.yaml: los: unknown option. Did you mean 'loss'?",
        ),
    ],
)
def test_a_base_that_does_not_serve_is_named(texts, message, tmp_path):
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(tmp_path, **texts))
    assert str(caught.value).startswith(message.format(tmp_path))


def test_plan_prints_the_whole_of_a_recipe_with_a_base(tmp_path, capsys):
    path = write(tmp_path, mine="base: common.yaml\ntrain: {seed: 5}\n", common=RECIPE)
    assert run_dalib("plan", path, "train.steps=3", "--resolved") == 0
    printed = capsys.readouterr().out
    assert printed == load_recipe(path, ["train.steps=3"]).to_yaml()
    assert parse_yaml(printed)["train"]["seed"] == 5 and "base" not in parse_yaml(printed)


def test_a_run_stores_its_recipe_whole(tmp_path):
    path = write(tmp_path, mine="base: common.yaml\ntrain: {steps: 1}\n", common=TINY)
    assert run_dalib("train", path, "--out", tmp_path / "run") == 0
    assert load_recipe(tmp_path / "run") == load_recipe(tmp_path / "run" / "recipe.yaml") == load_recipe(path)


def test_a_strategy_may_have_an_option_named_like_a_models(monkeypatch):
    class Weigher(Strategy):
        weights: list[float]

    registry = Registry()
    registry.strategy("weigher", Weigher)
    monkeypatch.setattr("dalib.core.create.default_registry", lambda: registry)
    check_use("strategy", {"use": "weigher", "weights": [0.5, 1]}, "strategies[0]")
    with pytest.raises(RecipeError, match=r"strategies\[0\].weights: this option is required"):
        check_use("strategy", {"use": "weigher"}, "strategies[0]")
