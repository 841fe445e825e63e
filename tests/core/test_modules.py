"""Modules that strategies bring."""

import copy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dalib import DalibError, Engine, StackError, Strategy, hookimpl, wrap_model
from dalib.errors import CheckpointError
from tests.equal import assert_equal, assert_same
from tests.tiny import Supervised, tiny_batch, tiny_model

sgd = partial(torch.optim.SGD, lr=0.1)


class Head(Strategy):
    """A projection head on the features of the target, trained with the model."""

    own_optimizer: bool = False
    averaged: bool = False

    outputs = frozenset({"target.features"})

    @hookimpl
    def setup(self, ctx):
        optimizer = partial(torch.optim.SGD, lr=0.3) if self.own_optimizer else None
        make = partial(nn.Conv2d, 8, 2, 1)
        self.head = ctx.module("head", make, optimizer=optimizer, averaged=self.averaged)

    @hookimpl
    def loss(self, step):
        features = step.output("target", "features")
        wanted = self.head.teacher(features).detach() + 1 if self.averaged else 0.5
        return {"head": (self.head(features) - wanted).pow(2).mean()}


class Critic(Strategy):
    """A critic; ``leak`` lets its term reach the model past the detached outputs."""

    leak: bool = False

    outputs = frozenset({"target.logits"})
    critic_outputs = frozenset({"target.logits"})

    @hookimpl
    def setup(self, ctx):
        self.model = ctx.model
        self.critic = ctx.critic("d", nn.Conv2d(ctx.num_classes, 1, 1), sgd)

    @hookimpl
    def loss(self, step):
        return {"fool": self.critic(step.logits("target")).mean()}

    @hookimpl
    def critic_loss(self, step):
        leaked = self.model.head.weight.sum() if self.leak else 0.0
        return {"judge": self.critic(step.logits("target")).pow(2).mean() + leaked}


def engine_of(*strategies, **options):
    return Engine(tiny_model(), list(strategies), optimizer=sgd, device="cpu", **options)


@pytest.mark.parametrize("own_optimizer", [False, True])
def test_a_module_trains_with_the_model_by_its_optimiser_or_one_of_its_own(own_optimizer):
    engine = engine_of(Head(own_optimizer=own_optimizer, weight=0.5))
    model, head = copy.deepcopy((engine.model, engine.modules["head/head"].module))
    batch = tiny_batch()
    model.train()
    (0.5 * (head(model(batch["target"].image, outputs=True)["features"]) - 0.5).pow(2).mean()).backward()
    engine.step(batch)
    rates = {id(p): 0.3 if own_optimizer else 0.1 for p in head.parameters()}
    for module, trained in ((model, engine.model), (head, engine.modules["head/head"].module)):
        with torch.no_grad():
            for p in module.parameters():
                if p.grad is not None:
                    p -= rates.get(id(p), 0.1) * p.grad
        assert_same(dict(module.named_parameters()), dict(trained.named_parameters()), 1e-6)


def test_the_models_gradient_is_clipped_together_with_that_of_modules_in_its_optimiser():
    engine = engine_of(Head(), clip=1e-3)
    before = [p.detach().clone() for p in engine.optimizer.param_groups[1]["params"]]
    engine.step(tiny_batch())
    groups = engine.optimizer.param_groups
    norm = torch.stack([p.grad.norm() for group in groups for p in group["params"] if p.grad is not None]).norm()
    assert norm.item() == pytest.approx(1e-3, rel=1e-3)
    assert not torch.equal(before[0], groups[1]["params"][0])


def test_a_critics_term_that_reaches_the_model_trains_it_no_more():
    with_leak, without = (engine_of(Supervised(), Critic(leak=leak)) for leak in (True, False))
    for engine in (with_leak, without):
        engine.step(tiny_batch())
    assert_equal(with_leak.model.state_dict(), without.model.state_dict())
    assert all(p.requires_grad for p in with_leak.model.parameters())


def test_a_module_and_another_strategys_critic_are_frozen_in_critic_loss():
    class Meddles(Strategy):
        @hookimpl
        def setup(self, ctx):
            self.critic = ctx.critic("d", nn.Linear(1, 1), sgd)
            self.head = ctx.module("head", partial(nn.Linear, 1, 1))

        @hookimpl
        def loss(self, step):
            frozen = [p.requires_grad for p in self.critic.module.parameters()]
            assert not any(frozen) and all(p.requires_grad for p in self.head.module.parameters())
            return {}

        @hookimpl
        def critic_loss(self, step):
            ones = torch.ones(1, 1)
            assert not self.other.critic(torch.ones(1, 5, 1, 1)).requires_grad and not self.head(ones).requires_grad
            return {"own": self.critic(ones).sum()}

    critic, meddles = Critic(), Meddles()
    meddles.other = critic
    engine = engine_of(Supervised(), critic, meddles)
    engine.step(tiny_batch())
    assert all(p.requires_grad for p in meddles.head.module.parameters())


def test_a_critics_term_that_reaches_no_critic_of_its_own_is_an_error():
    class Idle(Critic):
        @hookimpl
        def critic_loss(self, step):
            return {"judge": step.logits("target").mean()}

    with pytest.raises(StackError, match="'idle': term 'judge' reaches none of its own critics"):
        engine_of(Supervised(), Idle()).step(tiny_batch())


class Distill(Strategy):
    """Draws the logits to those of a frozen reference."""

    seed: int = 7

    outputs = frozenset({"target.logits"})

    @hookimpl
    def setup(self, ctx):
        self.made = 0
        self.reference = ctx.module("reference", self.make, trains=None)

    def make(self):
        self.made += 1
        return tiny_model(self.seed, dropout=0.5)

    @hookimpl
    def loss(self, step):
        return {"distill": F.mse_loss(step.logits("target"), self.reference(step.batch["target"].image))}


def test_a_reference_is_frozen_in_eval_mode_and_only_its_fingerprint_is_saved():
    engine = engine_of(Distill())
    module = engine.modules["distill/reference"].module
    before = copy.deepcopy(module.state_dict())
    engine.step(tiny_batch())
    assert_equal(module.state_dict(), before)
    assert not module.training and not any(p.requires_grad for p in module.parameters())
    (state,) = engine.state_dict()["modules"].values()
    assert list(state) == ["fingerprint"] and len(state["fingerprint"]) == 32


@pytest.mark.parametrize("purpose", ["evaluate", "plan"])
def test_a_reference_is_made_for_training_alone(purpose, tmp_path):
    trained = engine_of(Distill())
    trained.step(tiny_batch())
    trained.save(tmp_path / "a.pt")
    distill = Distill()
    engine = engine_of(distill, purpose=purpose)
    engine.load(tmp_path / "a.pt")
    assert distill.made == 0
    with pytest.raises(StackError, match=r"'distill/reference' exists in training alone"):
        distill.reference(torch.zeros(1, 3, 8, 8))


def test_a_run_does_not_resume_with_another_reference(tmp_path):
    engine_of(Distill()).save(tmp_path / "a.pt")
    engine_of(Distill()).load(tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="'distill/reference' has other weights than when the run began"):
        engine_of(Distill(seed=8)).load(tmp_path / "a.pt")


def test_an_averaged_module_has_a_teachers_copy_with_the_teachers_decay():
    engine = engine_of(Head(averaged=True))
    assert engine.teacher is not None
    head = engine.modules["head/head"]
    expected = head.module.weight.detach().clone()
    for step in range(3):
        engine.step(tiny_batch(step))
        decay = min(1 - 1 / (step + 1), 0.99)
        expected = decay * expected + (1 - decay) * head.module.weight.detach()
        torch.testing.assert_close(head.averaged.weight, expected)
    assert not head.averaged.weight.requires_grad


def test_a_module_and_its_teachers_copy_are_called_like_the_module_with_keywords_too():
    class Shifts(nn.Linear):
        def forward(self, x, *, by=0.0):
            return super().forward(x) + by

    class Asks(Strategy):
        @hookimpl
        def setup(self, ctx):
            self.module = ctx.module("module", partial(Shifts, 2, 2), averaged=True)

    asks, x = Asks(), torch.ones(1, 2)
    engine_of(asks)
    for call in (asks.module, asks.module.teacher):
        torch.testing.assert_close(call(x, by=1.0), call(x) + 1)


def test_modules_resume_bit_for_bit(tmp_path):
    def make():
        return engine_of(Supervised(), Head(averaged=True), Head(name="own", own_optimizer=True), Critic(), Distill())

    whole, first, second = make(), make(), make()
    for index in range(4):
        whole.step(tiny_batch(index))
    for index in range(2):
        first.step(tiny_batch(index))
    first.save(tmp_path / "a.pt")
    second.load(tmp_path / "a.pt")
    for index in range(2, 4):
        second.step(tiny_batch(index))
    assert_equal(whole.state_dict(), second.state_dict())


class Wrong(Strategy):
    """Makes its module in one of several wrong ways."""

    way: str = ""

    @hookimpl
    def setup(self, ctx):
        make = partial(nn.Linear, 1, 1)
        if self.way == "twice":
            ctx.module("head", make)
            ctx.critic("head", make(), sgd)
        elif self.way == "critic without optimiser":
            ctx.module("head", make, trains="critic_loss")
        elif self.way == "reference with optimiser":
            ctx.module("head", make, trains=None, optimizer=sgd)
        elif self.way == "no module":
            ctx.module("head", lambda: 3)
        elif self.way == "hung on the model":
            ctx.model.head2 = make()
        else:
            ctx.module("head", make).teacher(torch.ones(1, 1))


@pytest.mark.parametrize(
    ("way", "message"),
    [
        ("twice", "strategy 'wrong' makes two modules named 'head'"),
        ("critic without optimiser", "module 'wrong/head' trains in critic_loss, so it needs an optimiser"),
        ("reference with optimiser", r"module 'wrong/head' is frozen \(trains=None\): give neither"),
        ("no module", r"module 'wrong/head': make\(\) must return an nn.Module; it returned 3"),
        (
            "hung on the model",
            r"strategy 'wrong' adds 'head2.*' to the model; a module of its own comes from ctx.module",
        ),
        ("no copy", r"module 'wrong/head' has no teacher's copy; make it with ctx.module\(averaged=True\)"),
    ],
)
def test_a_mistake_with_a_module_is_named_when_the_engine_is_built(way, message):
    with pytest.raises(StackError, match=message):
        engine_of(Supervised(), Wrong(way=way))


def test_a_module_in_a_predictor_is_in_eval_mode_and_then_back():
    class Around(Strategy):
        @hookimpl
        def setup(self, ctx):
            self.norm = ctx.module("norm", partial(nn.BatchNorm2d, 5), averaged=True)

        @hookimpl
        def loss(self, step):
            return {"x": self.norm(step.logits("target")).pow(2).mean()}

        @hookimpl
        def predictor(self, model, predict):
            return lambda images: self.norm(predict(images))

    around = Around()
    engine = engine_of(around)
    engine.step(tiny_batch())
    before = copy.deepcopy(engine.state_dict())
    images = torch.randint(0, 255, (3, 3, 12, 16), dtype=torch.uint8)
    assert torch.equal(engine.predict(images)[:1], engine.predict(images[:1]))
    assert_equal(engine.state_dict(), before)
    assert around.norm.module.training


def test_what_was_frozen_in_a_module_stays_frozen_beside_a_critic():
    class Frozen(Critic):
        @hookimpl
        def setup(self, ctx):
            super().setup(ctx)
            self.head = ctx.module("head", lambda: nn.Sequential(nn.Conv2d(5, 5, 1), nn.Conv2d(5, 5, 1)))
            self.head.module[0].requires_grad_(False)

        @hookimpl
        def loss(self, step):
            return {"x": self.head(step.logits("target")).pow(2).mean()}

    frozen = Frozen()
    engine = engine_of(frozen)
    first, second = (layer.weight.detach().clone() for layer in frozen.head.module)
    for index in range(2):
        engine.step(tiny_batch(index))
    assert torch.equal(first, frozen.head.module[0].weight) and not torch.equal(second, frozen.head.module[1].weight)


def test_a_reference_that_changes_is_told_when_the_run_is_saved():
    engine = engine_of(Distill())
    engine.step(tiny_batch())
    with torch.no_grad():
        engine.modules["distill/reference"].module.head.weight.add_(1)
    with pytest.raises(StackError, match="'distill/reference' has changed since it was made"):
        engine.state_dict()


def test_a_refused_checkpoint_changes_nothing(tmp_path):
    class Fails(Strategy):
        def state_dict(self):
            return {"count": 1}

        def load_state_dict(self, state):
            raise KeyError("c2")

    for make in (lambda seed: Distill(seed=seed), lambda seed: Fails()):
        first = engine_of(Supervised(), make(7))
        first.step(tiny_batch())
        first.save(tmp_path / "a.pt")
        second = engine_of(Supervised(), make(8))
        before = copy.deepcopy(second.state_dict())
        with pytest.raises(DalibError):
            second.load(tmp_path / "a.pt")
        assert_equal(second.state_dict(), before)


def test_a_tapped_model_takes_a_second_engine():
    model = wrap_model(tiny_model(), 5)

    class Taps(Strategy):
        @hookimpl
        def setup(self, ctx):
            ctx.tap("body")

    for _ in range(2):
        Engine(model, [Taps()], device="cpu")
    assert sum(hook.__class__.__name__ == "_Tap" for hook in model.network.body._forward_hooks.values()) == 1
