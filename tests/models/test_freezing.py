"""What is frozen in a network rests: its statistics, its weights, and its place in the optimiser."""

import copy

import pytest
import torch

from dalib import Engine, StackError, create_model, create_strategy
from dalib.core.optim import parameters_of
from dalib.errors import RecipeError
from dalib.models import freeze
from dalib.models.freezing import at_rest
from tests.tiny import Supervised, tiny_batch, tiny_model


def frozen_model():
    model = tiny_model()
    freeze(model, ["body"])
    return model


def test_a_frozen_part_in_eval_mode_stays_as_it_is_and_the_rest_trains():
    model = frozen_model()
    before = copy.deepcopy(model.state_dict())
    engine = Engine(model, [Supervised()], device="cpu")
    for seed in range(2):
        engine.step(tiny_batch(seed))
    moved = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert moved == {"head.weight", "head.bias", "auxiliary.weight", "auxiliary.bias"}
    assert not model.body.training and not model.body[1].training and model.head.training


def test_a_frozen_part_in_train_mode_goes_on_moving_its_statistics():
    model = tiny_model()
    model.body.requires_grad_(False)
    before = model.body[1].running_mean.clone()
    Engine(model, [Supervised()], device="cpu").step(tiny_batch())
    assert not torch.equal(model.body[1].running_mean, before)


def test_eval_mode_alone_freezes_nothing():
    model = tiny_model().eval()
    Engine(model, [Supervised()], device="cpu").step(tiny_batch())
    assert all(module.training for module in model.modules())


def test_dropout_without_parameters_is_not_taken_for_frozen():
    model = tiny_model(dropout=0.5)
    model.dropout.eval()
    assert list(at_rest(model)) == []
    freeze(model, ["body"])
    assert model.body in list(at_rest(model)) and model.dropout not in list(at_rest(model))


def test_the_teachers_copy_of_a_frozen_part_rests_too():
    model = frozen_model()
    engine = Engine(model, [Supervised(), create_strategy("dacs")], device="cpu")
    before = copy.deepcopy(engine.teacher.module.body.state_dict())
    engine.step(tiny_batch())
    assert not engine.teacher.module.body[1].training
    assert all(torch.equal(value, before[key]) for key, value in engine.teacher.module.body.state_dict().items())


def test_evaluating_on_the_way_leaves_the_frozen_part_frozen():
    engine = Engine(frozen_model(), [Supervised()], device="cpu")
    engine.step(tiny_batch())
    engine.predict((tiny_batch()["source"].image * 255).byte())
    engine.step(tiny_batch())
    assert not engine.model.body.training and engine.model.head.training


def test_frozen_parameters_leave_the_optimiser():
    model = frozen_model()
    engine = Engine(model, [Supervised()], device="cpu")
    taken = {parameter for group in engine.optimizer.param_groups for parameter in group["params"]}
    assert taken == {*model.head.parameters(), *model.auxiliary.parameters()}


def test_frozen_parameters_leave_a_networks_own_groups_and_empty_groups_go():
    network = create_model("deeplabv2", 3, backbone="resnet18").network
    groups = len(parameters_of(network))
    freeze(network, ["backbone"])
    kept = parameters_of(network)
    assert len(kept) < groups and all(p.requires_grad for group in kept for p in group["params"])


def test_what_is_unfrozen_after_the_engine_was_made_is_refused():
    model = frozen_model()
    engine = Engine(model, [Supervised()], device="cpu")
    model.body.requires_grad_(True)
    with pytest.raises(StackError, match="frozen when the engine was made requires a gradient now"):
        engine.step(tiny_batch())


def test_a_frozen_run_resumes_bit_for_bit():
    straight, stopped = (Engine(frozen_model(), [Supervised()], device="cpu") for _ in range(2))
    for seed in range(4):
        straight.step(tiny_batch(seed))
    for seed in range(2):
        stopped.step(tiny_batch(seed))
    resumed = Engine(frozen_model(), [Supervised()], device="cpu")
    resumed.load_state_dict(copy.deepcopy(stopped.state_dict()))
    for seed in (2, 3):
        resumed.step(tiny_batch(seed))
    ours, theirs = resumed.model.state_dict(), straight.model.state_dict()
    assert all(torch.equal(value, theirs[key]) for key, value in ours.items())


def test_create_model_freezes_by_path():
    network = create_model("bisenet", 3, freeze=["backbone"]).network
    frozen = [name for name, parameter in network.named_parameters() if not parameter.requires_grad]
    assert frozen and all(name.startswith("backbone.") for name in frozen)
    assert not any(module.training for module in network.backbone.modules())


@pytest.mark.parametrize(
    ("paths", "said"),
    [
        (["bakbone"], "freeze: BiSeNet has no module 'bakbone'. Did you mean 'backbone'?"),
        (["backbone.bodi"], "Did you mean 'backbone.body'?"),
        ([""], "freeze: BiSeNet has no module ''"),
    ],
)
def test_a_path_that_is_none_is_told_with_the_nearest(paths, said):
    with pytest.raises(StackError) as caught:
        create_model("bisenet", 3, freeze=paths)
    assert said in str(caught.value)


@pytest.mark.parametrize("value", ["backbone", [1], {"backbone": True}])
def test_freeze_is_a_list_of_paths(value):
    with pytest.raises(
        RecipeError, match=r"bisenet.freeze: expected a list of modules' paths, such as \[backbone\], got"
    ):
        create_model("bisenet", 3, freeze=value)


def test_freezing_all_of_a_network_is_refused():
    model = tiny_model()
    with pytest.raises(StackError, match="freeze: body, head, auxiliary is all of the network; leave something"):
        freeze(model, ["body", "head", "auxiliary"])
