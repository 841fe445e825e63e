"""What people hand to an engine out of habit from other libraries is one message that says what to give."""

from functools import partial

import pytest
import timm
import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, StepLR

from dalib import DalibError, Engine, SegmentationLoss, StackError, Strategy, create_model, create_strategy, hookimpl
from dalib.core.optim import poly
from dalib.errors import RecipeError
from tests.tiny import Entropy, Supervised, TinyData, TinyModel, tiny_batch, tiny_model


def engine_of(model=None, stack=None, **options):
    return Engine(model or tiny_model(), [Supervised()] if stack is None else stack, device="cpu", **options)


# ------------------------------------------------------------------------------------------------------------ models


class Distributed(nn.parallel.DistributedDataParallel):
    def __init__(self, module):
        nn.Module.__init__(self)
        self.module = module


@pytest.mark.parametrize("wrap", [nn.DataParallel, Distributed])
def test_a_model_for_several_devices_is_refused_with_what_to_give(wrap):
    said = rf"Engine: a {wrap.__name__}; an engine trains on one device: give model.module"
    with pytest.raises(StackError, match=said):
        engine_of(wrap(tiny_model()))


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Conv2d(3, 5, 1),
        lambda: timm.create_model("resnet18", features_only=True),
        lambda: timm.create_model("resnet18", num_classes=5),
        lambda: "bisenet",
    ],
)
def test_what_is_no_segmentation_model_is_refused_with_how_to_wrap_it(make):
    with pytest.raises(StackError, match=r"expected a model of create_model or wrap_model, got a .*num_classes\)"):
        engine_of(make())


@pytest.mark.parametrize("name", ["bisenet", "deeplabv2", "timm"])
def test_a_backbone_that_is_a_module_is_refused_with_what_to_do(name):
    with pytest.raises(
        RecipeError, match=r"backbone: expected the name of a timm backbone, got a Conv2d. .*wrap_model"
    ):
        create_model(name, 5, backbone=nn.Conv2d(3, 8, 3))


@pytest.mark.parametrize("key", ["aux", "logits_aux", "out"])
def test_an_output_that_nothing_reads_is_a_warning(key):
    class Own(TinyModel):
        def forward(self, x, outputs=False):
            found = super().forward(x, outputs)
            return {**found, key: found["aux.1"]} if outputs else found

    with pytest.warns(UserWarning, match=f"nothing reads the network's output '{key}', .*begin with 'aux.'"):
        engine_of(Own()).step(tiny_batch())


def test_an_output_that_a_strategy_declares_is_read_and_no_warning():
    class Own(TinyModel):
        def forward(self, x, outputs=False):
            found = super().forward(x, outputs)
            return {**found, "depth": found["logits"]} if outputs else found

    class Reads(Strategy):
        outputs = frozenset({"source.depth"})

        @hookimpl
        def loss(self, step):
            return {"depth": step.output("source", "depth").pow(2).mean()}

    engine_of(Own(), [Supervised(), Reads()]).step(tiny_batch())


# -------------------------------------------------------------------------------------------- optimisers and rates


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_an_optimiser_that_is_made_is_refused_with_what_to_give(kind):
    model = tiny_model()
    said = rf"Engine: expected optimizer= as a function .*partial\(torch.optim.SGD.*got an {kind.__name__} that is made"
    with pytest.raises(StackError, match=said):
        engine_of(model, optimizer=kind(model.parameters(), lr=0.1))


def test_a_critics_optimiser_that_is_made_is_refused_too():
    class Critic(Entropy):
        @hookimpl
        def setup(self, ctx):
            module = nn.Conv2d(5, 1, 1)
            ctx.critic("d", module, torch.optim.SGD(module.parameters(), lr=0.1))

    with pytest.raises(StackError, match="module 'critic/d': expected optimizer= as a function"):
        engine_of(stack=[Critic()])


def test_a_function_that_makes_no_optimiser_is_refused():
    with pytest.raises(StackError, match="got one that makes None"):
        engine_of(optimizer=lambda parameters: None)


@pytest.mark.parametrize(
    "schedule",
    [
        StepLR(torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1), 1),
        StepLR,
        partial(StepLR, step_size=1),
        lambda optimizer: StepLR(optimizer, 1),
        lambda step: None,
        0.1,
    ],
)
def test_a_schedule_that_is_no_function_of_the_step_is_refused_with_what_to_give(schedule):
    with pytest.raises(
        StackError, match=r"no function from step to factor\. .*Give Engine\(schedule=f\), a function of"
    ):
        engine_of(schedule=schedule)


CHANGES = {
    "by hand": lambda optimizer: optimizer.param_groups[0].update(lr=0.5),
    "StepLR": lambda optimizer: StepLR(optimizer, 1, 0.5).step(),
    "CosineAnnealingLR": lambda optimizer: CosineAnnealingLR(optimizer, 5).step(),
}


@pytest.mark.filterwarnings("ignore:Detected call of .lr_scheduler.step")
@pytest.mark.parametrize("before", [0, 2])
@pytest.mark.parametrize("schedule", [None, poly(steps=10)])
@pytest.mark.parametrize("change", CHANGES)
def test_a_rate_that_was_changed_from_outside_is_an_error_that_says_how(change, schedule, before):
    engine = engine_of(optimizer=partial(torch.optim.SGD, lr=0.1), schedule=schedule)
    for seed in range(before):
        engine.step(tiny_batch(seed))
    CHANGES[change](engine.optimizer)
    with pytest.raises(
        StackError, match=r"the learning rates were \[0.\d+\] and have been set to \[0.\d+\]. .*schedule"
    ):
        engine.step(tiny_batch())


def test_a_change_of_the_initial_rate_is_respected_and_resumes():
    def engine():
        return engine_of(optimizer=partial(torch.optim.SGD, lr=0.1), schedule=poly(steps=10, power=1))

    first = engine()
    first.step(tiny_batch())
    first.optimizer.param_groups[0]["initial_lr"] = 0.5
    first.step(tiny_batch())
    assert first.optimizer.param_groups[0]["lr"] == 0.5 * 0.9
    second = engine()
    second.load_state_dict(first.state_dict())
    second.step(tiny_batch())
    assert second.optimizer.param_groups[0]["lr"] == 0.5 * 0.8


def test_the_function_of_a_torch_schedule_gives_its_rates():
    def halves(step):
        return 0.5**step

    engine = engine_of(optimizer=partial(torch.optim.SGD, lr=0.1), schedule=halves)
    theirs = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    schedule = LambdaLR(theirs, halves)
    for _ in range(3):
        engine.step(tiny_batch())
        assert engine.optimizer.param_groups[0]["lr"] == theirs.param_groups[0]["lr"]
        theirs.step()
        schedule.step()


# -------------------------------------------------------------------------------------------------- nothing to train

NOTHING = {
    "no strategy": ([], "no strategy of the stack has a loss"),
    "no loss": (["augment"], "no strategy of the stack has a loss"),
    "weight 0": ([("supervised", {"weight": 0})], "the weights of supervised are 0"),
    "ramp of 0": ([("supervised", {"weight": {"from": 0, "to": 0, "steps": 5}})], "the weights of supervised are 0"),
}


@pytest.mark.parametrize("case", NOTHING)
def test_a_stack_that_would_train_nothing_is_refused_before_the_first_step(case):
    names, said = NOTHING[case]
    stack = [
        create_strategy(name[0], **name[1]) if isinstance(name, tuple) else create_strategy(name) for name in names
    ]
    engine = engine_of(stack=stack)
    with pytest.raises(StackError, match=f"{said}, so nothing would be trained; .*use: supervised"):
        engine.fit(TinyData(), steps=1, batch_size=2)
    assert engine.index == 0


@pytest.mark.parametrize("ramp", [{"from": 0, "to": 1, "steps": 5}, {"from": 1, "to": 0, "steps": 1}])
def test_a_weight_that_is_0_for_a_time_trains(ramp):
    engine_of(stack=[create_strategy("supervised", weight=ramp)]).fit(TinyData(), steps=2, batch_size=2)


@pytest.mark.parametrize("weights", [[0, 0, 0, 0, 0], (0.0,) * 5, torch.zeros(5)])
def test_class_weights_of_0_alone_are_refused(weights):
    with pytest.raises(RecipeError, match="class_weights: expected one above 0 at least"):
        SegmentationLoss(class_weights=weights)


def test_class_weights_of_0_alone_are_refused_in_a_strategy_by_its_name():
    with pytest.raises(RecipeError, match=r"class_weights: expected .* raised by strategy 'supervised'"):
        engine_of(stack=[create_strategy("supervised", class_weights=[0] * 5)])


def test_class_weights_for_other_classes_are_refused_before_the_first_step():
    with pytest.raises(StackError, match="class_weights of the loss: expected 5 values, one per class, got 3"):
        engine_of(loss=SegmentationLoss(class_weights=[1, 2, 3]))


@pytest.mark.parametrize("weights", [[1, 2, 1, 1, 1], torch.tensor([1, 2, 1, 1, 1])])
def test_whole_class_weights_weigh_like_their_decimals(weights):
    whole, decimal = (
        engine_of(loss=SegmentationLoss(class_weights=given)).step(tiny_batch())
        for given in (weights, [1.0, 2, 1, 1, 1])
    )
    assert torch.equal(whole["supervised/loss"], decimal["supervised/loss"])


class Ignored(TinyData):
    def __getitem__(self, index):
        return self.images[index], torch.full_like(self.labels[index], 255)


@pytest.mark.parametrize("stream", ["source", "few"])
def test_data_without_a_labelled_pixel_are_refused_before_the_first_step(stream):
    engine = engine_of(stack=[create_strategy("supervised", streams=[stream])])
    said = f"'supervised' needs {stream}.label. No image of the {stream} data that was looked at has a labelled pixel."
    with pytest.raises(DalibError, match=f"{said} Check its labels, its split and its label map"):
        engine.fit(streams={stream: Ignored()}, steps=1, batch_size=2)
    assert engine.index == 0
