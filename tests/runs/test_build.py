"""Every key of a recipe reaches what it names."""

import json

import pytest
import torch

from dalib import Engine, make_recipe, run
from dalib.errors import DalibError
from dalib.losses import LOCAL
from dalib.models.wrapper import network_of
from dalib.runs.build import build_dataset, build_engine, build_model
from dalib.runs.loading import load_run
from dalib.runs.recipe import apply_override
from dalib.yaml import parse_yaml
from tests.command import TINY
from tests.tiny import tiny_batch

CPU = torch.device("cpu")
CLASSES = ("a", "b", "c", "d", "e")


def changed(*overrides):
    value = parse_yaml(TINY)
    for override in overrides:
        apply_override(value, override)
    return make_recipe(value)


def built(*overrides):
    recipe = changed(*overrides)
    return build_engine(recipe, build_model(recipe, CLASSES, CPU), CLASSES, CPU)


def kind(thing):
    return type(thing).__name__


def goes_on_without_a_number(engine):
    """Return whether a step whose loss is NaN is passed over."""
    with torch.no_grad():
        next(engine.model.parameters()).fill_(torch.nan)
    try:
        engine.step(tiny_batch())
    except DalibError:
        return False
    return True


def rate(step):
    return lambda engine: engine.schedule and round(engine.schedule(step), 6)


def option(name):
    return lambda engine: engine.optimizer.param_groups[0][name]


def strategy(name):
    return lambda engine: getattr(engine.stack.strategies[0], name)


def loss(name):
    return lambda engine: getattr(engine.segmentation_loss, name)


# An override, where the engine shows it, and what stands there then; without it something else does.
ENGINE = [
    ("model={use: bisenet_v1}", lambda e: kind(network_of(e.model)), "BiSeNetV1"),
    ("model.dropout=0.25", lambda e: network_of(e.model).dropout.p, 0.25),
    ("train.seed=3", lambda e: e.seed, 3),
    ("strategies=[{use: minent}, {use: dacs}]", lambda e: list(map(kind, e.stack.strategies)), ["MinEnt", "Dacs"]),
    ("strategies.0.name=mine", strategy("name"), "mine"),
    ("strategies.0.weight=0.5", strategy("weight"), 0.5),
    ("strategies=[{use: dacs, threshold: 0.5}]", lambda e: getattr(e.stack.strategies[0], "threshold", None), 0.5),
    ("optimizer={use: adamw, lr: 0.1}", lambda e: kind(e.optimizer), "AdamW"),
    ("optimizer.lr=0.25", option("lr"), 0.25),
    ("optimizer.momentum=0.5", option("momentum"), 0.5),
    ("schedule={use: constant}", rate(1), 1.0),
    ("schedule=null", rate(1), None),
    ("schedule={use: poly, power: 2}", rate(1), 0.25),
    ("schedule={use: poly, steps: 4}", rate(1), round(0.75**0.9, 6)),
    ("train.steps=10", rate(1), round(0.9**0.9, 6)),
    ("schedule={use: cosine}", rate(1), 0.5),
    ("schedule={use: step, milestones: [1]}", rate(1), 0.1),
    ("optimizer.groups={body: 0.1}", lambda e: [g.get("lr_scale") for g in e.optimizer.param_groups], [0.1, 1.0]),
    ("optimizer.no_decay=[norm]", lambda e: e.optimizer.param_groups[-1]["weight_decay"], 0.0),
    ("loss={use: dice}", lambda e: kind(e.segmentation_loss), "DiceLoss"),
    ("loss={use: lovasz}", lambda e: kind(e.segmentation_loss), "LovaszLoss"),
    ("loss={use: cross_entropy, ohem: 0.7}", loss("ohem"), 0.7),
    ("loss={use: dice, auxiliary: 0.5}", loss("auxiliary"), 0.5),
    ("loss.auxiliary=0.5", loss("auxiliary"), 0.5),
    ("loss.ohem=0.7", loss("ohem"), 0.7),
    ("loss.class_weights=[1, 2, 3, 4, 5]", lambda e: list(loss("class_weights")(e) or ()), [1, 2, 3, 4, 5]),
    ("train.clip=0.5", lambda e: e.clip, 0.5),
    ("train.precision=bf16", lambda e: e.precision.name, "bf16"),
    ("train.accumulate=2", lambda e: e.accumulate, 2),
    ("train.on_non_finite=skip", goes_on_without_a_number, True),
]


@pytest.mark.parametrize(("override", "seen", "expected"), ENGINE, ids=[override for override, *_ in ENGINE])
def test_a_key_reaches_the_engine(override, seen, expected):
    assert seen(built(override)) == expected != seen(built())


def test_a_plugins_loss_optimiser_and_schedule_train_a_run(tmp_path):
    theirs = (
        "plugins=[tests.tiny_plugin, tests.training_plugin]",
        "loss={use: brier, scale: 0.5}",
        "optimizer={use: adagrad, lr: 0.1, eps: 1e-8, groups: {body: 0.5}, no_decay: [norm]}",
        "schedule={use: linear, end: 0.5}",
    )
    engine = built(*theirs)
    assert kind(engine.optimizer) == "Adagrad" and engine.schedule(1) == 0.75
    assert {(g["eps"], g["lr_scale"]) for g in engine.optimizer.param_groups} == {(1e-8, 0.5), (1e-8, 1.0)}
    logits, label = torch.zeros(1, 2, 1, 1), torch.zeros(1, 1, 1, dtype=torch.int64)
    assert engine.segmentation_loss({"logits": logits}, label, across=LOCAL) == 0.25
    run(changed(*theirs), tmp_path / "run")
    assert load_run(tmp_path / "run").engine.index == 2
    with pytest.raises(DalibError, match=r"loss\.scal: unknown option. Did you mean 'scale'"):
        changed(*theirs, "loss={use: brier, scal: 1}")


def test_the_seed_draws_the_models_weights():
    first, same, other = (
        next(build_model(changed(f"train.seed={seed}"), CLASSES, CPU).parameters()) for seed in (0, 0, 1)
    )
    assert torch.equal(first, same) and not torch.equal(first, other)


@pytest.mark.parametrize("name", ["source", "target", "eval"])
def test_each_data_set_is_the_one_that_the_recipe_names(name):
    recipe = changed(f"data.{name}={{use: tiny, length: 3}}")
    sets = {each: build_dataset(recipe, each) for each in ("source", "target", "eval")}
    assert {n: kind(dataset) for n, dataset in sets.items()} == dict.fromkeys(sets, "Diorama") | {name: "TinyData"}
    assert len(sets[name]) == 3


TWO = "[{use: tiny, length: 3, share: 3}, {use: tiny, length: 5, share: 1}]"


@pytest.mark.parametrize("name", ["source", "target", "streams.few"])
def test_data_sets_of_a_list_are_joined_with_their_shares(name):
    recipe = changed(f"data.{name}={TWO}")
    joined = build_dataset(recipe, name.removeprefix("streams."))
    assert (len(joined), joined.lengths, joined.shares) == (8, [3, 5], [3, 1])
    assert joined.names == (f"data.{name}[0]", f"data.{name}[1]")
    assert (
        build_dataset(changed(f"data.{name}=[{{use: tiny, length: 3}}]"), name.removeprefix("streams.")).shares is None
    )


def test_a_recipe_without_data_of_a_name_has_none():
    recipe = changed("data.source=null", "data.streams.few={use: tiny}")
    assert build_dataset(recipe, "source") is None and recipe.data.names() == ["target", "few"]


def test_evaluation_is_by_default_on_the_held_out_images_of_every_target():
    recipe = changed("data.target=[{use: diorama, share: 1}, {use: diorama, split: test, share: 2}]", "data.eval=null")
    assert [part.split for part in build_dataset(recipe, "eval").datasets] == ["val", "val"]
    alone = changed("data.target=null", "data.source.split=train", "data.eval=null")
    assert build_dataset(alone, "eval").split == "val"


def test_data_train_and_evaluate_reach_the_run(tmp_path, monkeypatch):
    seen = {}

    def watched(name):
        original = getattr(Engine, name)

        def watching(self, *arguments, **options):
            seen[name] = options
            return original(self, *arguments, **options)

        monkeypatch.setattr(Engine, name, watching)

    watched("iterate")
    watched("evaluate")
    section = {"classes": ["road", "car"], "protocol": "daformer", "batch_size": 2, "limit": 1}
    evaluate = f"evaluate={json.dumps({'model': 'teacher', **section})}"
    numbers = ("train.steps=1", "data.batch_size=3", "data.workers=1")
    run(changed("strategies=[{use: dacs}]", evaluate, *numbers), tmp_path / "run")
    trained = {name: seen["iterate"][name] for name in ("steps", "batch_size", "workers")}
    assert trained == {"steps": 1, "batch_size": 3, "workers": 1}
    del seen["evaluate"]["progress"], seen["evaluate"]["needs"]  # what the validators look at
    assert seen["evaluate"] == {"teacher": True, "workers": 1, **section}
