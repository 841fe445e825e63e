"""Optimisers and schedules are torch's and the papers'."""

import copy
import math
from functools import partial

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW

from dalib import Engine, StackError, hookimpl
from dalib.core import optim
from dalib.core.optim import (
    ParameterGroups,
    adamw,
    constant,
    cosine,
    fuse,
    load_state,
    parameters_of,
    poly,
    sgd,
    step_unless,
)
from dalib.errors import CheckpointError, RecipeError
from dalib.options import check_options
from tests.tiny import Supervised, TinyModel, tiny_batch, tiny_model


@pytest.mark.parametrize(
    ("name", "kind", "options"),
    [
        ("sgd", torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4, "nesterov": False}),
        ("adam", torch.optim.Adam, {"lr": 0.1, "betas": (0.9, 0.999), "weight_decay": 0.0}),
        ("adamw", torch.optim.AdamW, {"lr": 0.1, "betas": (0.9, 0.999), "weight_decay": 0.01}),
    ],
)
def test_a_named_optimiser_is_torchs_with_the_fields_defaults(name, kind, options):
    made = getattr(optim, name)(lr=0.1)([nn.Parameter(torch.zeros(1))])
    assert type(made) is kind
    assert {key: made.param_groups[0][key] for key in options} == options


def test_poly_follows_its_formula_from_1_to_0():
    factor = poly(steps=10, power=0.9)
    assert [factor(t) for t in range(11)] == pytest.approx([(1 - t / 10) ** 0.9 for t in range(11)])
    assert factor(12) == 0.0


def test_warmup_rises_linearly_to_the_curve():
    factor, plain = poly(steps=100, warmup=4), poly(steps=100)
    assert [factor(t) / plain(t) for t in range(6)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1])


def test_constant_stays():
    assert {constant(steps=5)(t) for t in range(9)} == {1.0}


def test_cosine_falls_from_1_by_half_a_period_to_0():
    factor = cosine(steps=10)
    assert [factor(t) for t in (0, 5, 10, 12)] == pytest.approx([1, 0.5, 0, 0])
    assert factor(2) == pytest.approx((1 + math.cos(0.2 * math.pi)) / 2)


def test_cosine_begins_where_its_warmup_ends():
    factor, plain = cosine(steps=14, warmup=4), cosine(steps=10)
    assert [factor(t) for t in range(4)] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert [factor(4 + t) for t in range(11)] == [plain(t) for t in range(11)]
    assert cosine(steps=2, warmup=5)(1) == pytest.approx(1 / 3)
    assert cosine(steps=5, warmup=4)(5) == pytest.approx(0)


def test_step_falls_after_each_milestone():
    factor = optim.step(steps=9, milestones=[6, 3], gamma=0.5)
    assert [factor(t) for t in range(8)] == [1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25]
    assert optim.step(steps=9, milestones=[1])(1) == 0.1


class Normed(nn.Module):
    """A network with a norm, biases inside and outside of it, and names of which one begins with another."""

    def __init__(self):
        super().__init__()
        self.back = nn.Sequential(nn.Conv2d(3, 4, 1), nn.GroupNorm(2, 4))
        self.backbone = nn.Conv2d(4, 4, 1)


def grouped(network, given=None, **options):
    """Return, by parameter, the factor on its rate and its own weight decay."""
    names = {parameter: name for name, parameter in network.named_parameters()}
    groups = ParameterGroups(**options).split(parameters_of(network) if given is None else given, network)
    split = [(names.get(p), g["lr_scale"], g.get("weight_decay")) for g in groups for p in g["params"]]
    assert len({name for name, *_ in split}) == len(split)
    return {name: rest for name, *rest in split}


def test_a_prefix_scales_the_parameters_below_it_and_the_longest_counts():
    assert grouped(Normed(), groups={"back": 0.1, "back.1": 0.5, "backbone.bias": 2.0}) == {
        "back.0.weight": [0.1, None],
        "back.0.bias": [0.1, None],
        "back.1.weight": [0.5, None],
        "back.1.bias": [0.5, None],
        "backbone.weight": [1.0, None],
        "backbone.bias": [2.0, None],
    }


@pytest.mark.parametrize(
    ("kinds", "undecayed"),
    [
        (["norm"], {"back.1.weight", "back.1.bias"}),
        (["bias"], {"back.0.bias", "back.1.bias", "backbone.bias"}),
        (["norm", "bias"], {"back.1.weight", "back.0.bias", "back.1.bias", "backbone.bias"}),
    ],
)
def test_norms_and_biases_are_kept_out_of_weight_decay(kinds, undecayed):
    decays = {name: decay for name, (_, decay) in grouped(Normed(), no_decay=kinds).items()}
    assert {name for name, decay in decays.items() if decay == 0} == undecayed
    assert set(decays.values()) == {0.0, None}  # None: the optimiser's own


def test_a_factor_multiplies_a_networks_own_and_what_is_not_of_it_stays():
    class Own(Normed):
        def parameter_groups(self):
            return [{"params": self.back.parameters(), "lr_scale": 10.0}, {"params": self.backbone.parameters()}]

    network, other = Own(), nn.Parameter(torch.zeros(1))
    given = [*parameters_of(network), {"params": [other], "lr_scale": 3.0, "weight_decay": 0.3}]
    found = grouped(network, given, groups={"back.0": 0.1, "backbone": 0.5}, no_decay=["norm"])
    assert found == {
        "back.0.weight": [1.0, None],
        "back.0.bias": [1.0, None],
        "back.1.weight": [10.0, 0.0],
        "back.1.bias": [10.0, 0.0],
        "backbone.weight": [0.5, None],
        "backbone.bias": [0.5, None],
        None: [3.0, 0.3],
    }


@pytest.mark.parametrize(
    ("prefix", "advice"),
    [
        ("bakbone", "Did you mean 'backbone'?"),
        ("zzz", "Known: back, backbone."),
        ("z.q", "Known: back.0, back.1, backbone.bias, backbone.weight."),
    ],
)
def test_a_prefix_that_no_parameter_has_is_refused(prefix, advice):
    with pytest.raises(RecipeError, match="begins with") as caught:
        grouped(Normed(), groups={prefix: 0.1})
    assert repr(prefix) in str(caught.value) and advice in str(caught.value)


def test_the_groups_of_a_network_inside_another_are_taken():
    class Inner(Normed):
        def parameter_groups(self):
            return [{"params": self.back.parameters(), "lr_scale": 10.0}, {"params": self.backbone.parameters()}]

    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention, self.inner = nn.Conv2d(1, 1, 1), Inner()

    network = Outer()
    groups = parameters_of(network)
    assert [(len(group["params"]), group.get("lr_scale")) for group in groups] == [(2, None), (4, 10.0), (2, None)]
    assert groups[0]["params"] == list(network.attention.parameters())


def test_the_engine_scales_each_groups_own_rate_by_the_step():
    def two_rates(parameters):
        first, *rest = parameters
        return torch.optim.SGD([{"params": [first], "lr": 1.0}, {"params": rest, "lr": 0.1}])

    engine = Engine(tiny_model(), [Supervised()], optimizer=two_rates, schedule=lambda t: 0.5**t, device="cpu")
    rates = []
    for index in range(3):
        engine.step(tiny_batch(index))
        rates.append([group["lr"] for group in engine.optimizer.param_groups])
    assert rates == [[1.0, 0.1], [0.5, 0.05], [0.25, 0.025]]


def test_groups_of_iterators_train():
    """As torch's own documentation writes them."""

    class Grouped(TinyModel):
        def parameter_groups(self):
            yield {"params": self.parameters(), "lr_scale": 2.0}

    model = Grouped()
    engine = Engine(model, [Supervised()], optimizer=sgd(lr=0.3), device="cpu")
    before = [p.clone() for p in model.parameters()]
    engine.step(tiny_batch())
    assert engine.optimizer.param_groups[0]["lr"] == 0.6
    assert not any(torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))


def test_a_parameter_that_stands_bare_is_one_of_its_group():
    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3))

        def parameter_groups(self):
            return [{"params": self.scale}]

    (group,) = parameters_of(network := Bare())
    assert group["params"] == [network.scale]


def test_a_network_without_parameters_is_refused():
    with pytest.raises(StackError, match="ReLU has no parameters"):
        parameters_of(nn.ReLU())


def test_a_parameter_that_no_group_has_is_named_unless_it_is_frozen():
    class Forgetful(TinyModel):
        def parameter_groups(self):
            return [{"params": self.body.parameters()}, {"params": self.auxiliary.parameters(), "lr_scale": 10.0}]

    network = Forgetful()
    with pytest.raises(StackError, match=r"parameter_groups of Forgetful leave out 'head.weight' and 1 more, which"):
        parameters_of(network)
    network.head.weight.requires_grad_(False)
    with pytest.raises(StackError, match=r"parameter_groups of Forgetful leave out 'head.bias', which"):
        parameters_of(network)
    network.head.requires_grad_(False)
    assert len(parameters_of(network)) == 2


def test_without_a_schedule_the_rate_stays():
    engine = Engine(tiny_model(), [Supervised()], optimizer=sgd(lr=0.3), device="cpu")
    engine.step(tiny_batch())
    assert engine.optimizer.param_groups[0]["lr"] == 0.3


class Overflows(Supervised):
    """Its gradients overflow in fp16 in the first step."""

    @hookimpl
    def loss(self, step):
        value = step.segmentation_loss("source")
        return {"loss": value * 1e4 if step.index == 0 else value}


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_a_first_step_that_fp16s_scaler_skips_leaves_no_trace_in_the_optimiser(name):
    engine = Engine(
        tiny_model(), [Overflows()], optimizer=getattr(optim, name)(lr=0.01), device="cpu", precision="fp16"
    )
    before = [parameter.detach().clone() for parameter in engine.model.parameters()]
    junk = [torch.full_like(parameter, 1e30) for parameter in before]
    del junk  # what torch's fused SGD would take for a momentum
    engine.step(tiny_batch())
    assert all(torch.equal(a, b) for a, b in zip(before, engine.model.parameters(), strict=True))
    assert engine.precision.scaler.get_scale() < 2**16
    assert not any(value.any() for state in engine.optimizer.state.values() for value in state.values())


def test_a_parameter_may_have_its_first_gradient_late():
    first, second = (nn.Parameter(torch.ones(3)) for _ in range(2))
    optimizer = sgd(lr=0.1, weight_decay=0.0)([first, second])
    fuse(optimizer)
    for parameters in ([first], [first, second]):
        for parameter in parameters:
            parameter.grad = torch.ones(3)
        optimizer.step()
    torch.testing.assert_close(second.detach(), torch.full((3,), 0.9))


FORMS = {
    "sgd": (partial(torch.optim.SGD, lr=0.1, momentum=0.9), True),
    "adam": (partial(torch.optim.Adam, lr=0.1), True),
    "chosen": (partial(torch.optim.Adam, lr=0.1, fused=False), False),
    "foreach": (partial(torch.optim.AdamW, lr=0.1, foreach=True), None),
    "dampening": (partial(torch.optim.SGD, lr=0.1, momentum=0.9, dampening=0.5), None),  # whose first step has none
    "both": (partial(torch.optim.SGD, lr=0.1, momentum=0.9, dampening=0.5, fused=True), True),
    "own": (partial(type("Own", (torch.optim.SGD,), {}), lr=0.1), None),  # might not heed the flag
}


@pytest.mark.parametrize("name", FORMS)
def test_an_optimiser_is_fused_where_it_can_and_its_maker_chose_nothing_and_heeds_the_flag_in_any_form(name):
    make, fused = FORMS[name]
    parameter, expected = (nn.Parameter(torch.ones(3)) for _ in range(2))
    optimizer, plain = make([parameter]), make([expected])
    fuse(optimizer)
    assert optimizer.param_groups[0]["fused"] is fused
    for step, flag in enumerate((1.0, 0.0, 1.0, 0.0, 0.0)):
        parameter.grad, expected.grad = (torch.full((3,), float(step)) for _ in range(2))
        before = parameter.detach().clone()
        step_unless(torch.tensor(flag), optimizer)
        assert hasattr(optimizer, "found_inf") is bool(fused and name != "both")  # the host reads it for the others
        if flag:
            assert torch.equal(parameter, before)
        else:
            plain.step()
            torch.testing.assert_close(parameter, expected)


@pytest.mark.parametrize("mine", [None, False])
@pytest.mark.parametrize("theirs", [None, False])
@pytest.mark.parametrize("kind", [partial(torch.optim.SGD, momentum=0.9), torch.optim.Adam])
def test_an_optimiser_goes_on_from_the_checkpoint_of_another_form(kind, mine, theirs):
    weights = []
    for resumed in (True, False):
        first, second = (nn.Parameter(torch.ones(3)) for _ in range(2))
        optimizer = kind([first, second], lr=0.1, fused=theirs)
        fuse(optimizer)
        first.grad = torch.ones(3)
        step_unless(torch.zeros(()), optimizer)
        if resumed:
            state, optimizer = optimizer.state_dict(), kind([first, second], lr=0.1, fused=mine)
            fuse(optimizer)
            optimizer.load_state_dict(state)
        second.grad = torch.full((3,), 2.0)
        step_unless(torch.ones(()), optimizer)
        step_unless(torch.zeros(()), optimizer)
        weights.append(torch.stack((first.detach(), second.detach())))
    torch.testing.assert_close(*weights)


@pytest.mark.parametrize(("kind", "key"), [(SGD, "momentum_buffer"), (Adam, "exp_avg"), (AdamW, "exp_avg_sq")])
def test_state_of_another_shape_is_refused_before_a_kernel_writes_beyond_it(kind, key):
    options = {"momentum": 0.9} if kind is SGD else {}
    engine = Engine(tiny_model(), [Supervised()], device="cpu", optimizer=lambda p: kind(p, lr=0.1, **options))
    engine.step(tiny_batch())
    state = engine.state_dict()
    state["optimizer"]["state"][0][key] = torch.zeros(1)
    said = rf"the optimiser's {key} of parameter 0 has shape \(1,\) in the checkpoint"
    with pytest.raises(CheckpointError, match=said):
        engine.load_state_dict(state)


def test_a_loaded_state_keeps_the_form_that_this_run_computes_in():
    def engine(**form):
        made = Engine(tiny_model(), [Supervised()], device="cpu", optimizer=lambda p: Adam(p, lr=0.1, **form))
        made.step(tiny_batch())
        return made

    own, other = engine(), engine(foreach=True)
    elsewhere = copy.deepcopy(other.state_dict())
    for group in elsewhere["optimizer"]["param_groups"]:
        group["capturable"] = group["differentiable"] = True
    own.load_state_dict(elsewhere)
    forms = {
        tuple(g[name] for name in ("fused", "foreach", "capturable", "differentiable"))
        for g in own.optimizer.param_groups
    }
    assert forms == {(True, None, False, False)}
    own.step(tiny_batch(1))
    other.step(tiny_batch(1))
    for one, two in zip(own.model.parameters(), other.model.parameters(), strict=True):
        torch.testing.assert_close(one, two)


@pytest.mark.parametrize("form", [{"fused": False}, {"foreach": True}])
def test_a_loaded_state_changes_no_form_that_was_chosen(form):
    optimizer, other = (Adam([nn.Parameter(torch.ones(3))], lr=0.1, **options) for options in (form, {}))
    fuse(other)
    load_state(optimizer, other.state_dict())
    assert {key: optimizer.param_groups[0][key] for key in form} == form


def test_momentum_that_a_checkpoint_lacks_begins_as_zeros():
    engine = Engine(tiny_model(), [Supervised()], device="cpu", optimizer=sgd(lr=0.1))
    state = engine.state_dict()
    state["optimizer"]["state"] = {}
    engine.load_state_dict(state)
    assert not any(engine.optimizer.state[p]["momentum_buffer"].any() for p in engine.model.parameters())
    engine.step(tiny_batch())
    assert all(engine.optimizer.state[p]["momentum_buffer"].any() for p in engine.model.head.parameters())


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("sgd", {"lr": 0.2, "momentum": 0.5, "weight_decay": 0.1, "nesterov": True}),
        ("sgd", {"lr": 0.2, "momentum": 0.0, "weight_decay": 0.1, "nesterov": False}),
        ("adam", {"lr": 0.2, "betas": (0.5, 0.7), "weight_decay": 0.1}),
        ("adamw", {"lr": 0.2, "betas": (0.5, 0.7), "weight_decay": 0.1}),
    ],
)
def test_an_optimisers_options_reach_torch(name, options):
    made = getattr(optim, name)(**options)([nn.Parameter(torch.zeros(1))])
    assert {key: made.defaults[key] for key in options} == options


def test_nesterov_without_momentum_is_refused_before_torch_does():
    with pytest.raises(RecipeError, match="sgd: nesterov: expected a momentum above 0 with it, got 0"):
        sgd(lr=0.1, momentum=0.0, nesterov=True)


@pytest.mark.parametrize(("betas", "said"), [([-0.1, 0.9], "at least 0"), ([0.9, 1.0], "less than 1")])
def test_betas_outside_of_0_to_1_are_refused(betas, said):
    with pytest.raises(RecipeError, match=said):
        check_options(adamw, {"lr": 0.1, "betas": betas}, "optimizer")


def test_the_fields_power_is_the_default_of_poly():
    assert poly(steps=10)(5) == 0.5**0.9


class TwoMoments(torch.optim.Optimizer):
    """An optimiser with state of a shape of its own, as Adafactor's."""

    def __init__(self, parameters):
        super().__init__(parameters, {"lr": 0.1})

    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter]["mean"] = torch.zeros(())


def test_state_of_other_optimisers_may_have_any_shape():
    engine = Engine(tiny_model(), [Supervised()], device="cpu", optimizer=TwoMoments)
    engine.step(tiny_batch())
    engine.load_state_dict(engine.state_dict())


def test_a_group_with_dampening_does_not_keep_the_others_from_their_fused_form():
    first, second = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    groups = [{"params": [first], "dampening": 0.5}, {"params": [second]}]
    optimizer = SGD(groups, lr=0.1, momentum=0.9)
    fuse(optimizer)
    assert [group["fused"] for group in optimizer.param_groups] == [None, True]


def of_groups(**options):
    """Return an engine whose optimiser has groups of a recipe's options, after two steps."""
    torch.manual_seed(0)
    network = TinyModel()
    groups = ParameterGroups(**options)
    make = adamw(lr=0.01, weight_decay=0.1)
    engine = Engine(network, [Supervised()], device="cpu", optimizer=lambda p: make(groups.split(p, network)))
    for index in range(2):
        engine.step(tiny_batch(index))
    return engine


def test_a_run_with_groups_resumes_and_other_groups_are_refused():
    options = {"groups": {"body": 0.1}, "no_decay": ["norm", "bias"]}
    first, second = of_groups(**options), of_groups(**options)
    state = copy.deepcopy(first.state_dict())
    second.step(tiny_batch(5))
    second.load_state_dict(state)
    for engine in (first, second):
        engine.step(tiny_batch(2))
    ours, theirs = first.model.state_dict(), second.model.state_dict()
    assert all(torch.equal(value, theirs[key]) for key, value in ours.items())
    with pytest.raises(CheckpointError, match="the optimiser of the model is another one"):
        of_groups(groups={"body": 0.1}).load_state_dict(state)


def test_groups_act_on_rates_and_on_decay():
    engine = of_groups(groups={"body": 0.1}, no_decay=["bias"])
    rates = {(round(group["lr"], 6), group["weight_decay"]) for group in engine.optimizer.param_groups}
    assert rates == {(0.001, 0.1), (0.001, 0.0), (0.01, 0.1), (0.01, 0.0)}
