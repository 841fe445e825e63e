"""Mistakes of a plugin's author, each named in one message before it can give a wrong number."""

from collections import deque
from typing import ClassVar

import numpy as np
import pytest
import torch

from dalib import Engine, StackError, Strategy, Stream, create_strategy, hookimpl
from dalib.core.stack import Stack
from dalib.errors import RecipeError, StrategyError
from dalib.registry import Registry
from tests.tiny import Supervised, tiny_batch, tiny_model


def engine_of(*strategies, model=None):
    return Engine(model or tiny_model(), list(strategies), device="cpu")


def refused(strategy, *, steps=1):
    engine = engine_of(Supervised(), strategy)
    with pytest.raises(StackError) as caught:
        for _ in range(steps):
            engine.step(tiny_batch())
    return str(caught.value)


# --------------------------------------------------------------------------------------------------------- state


class Stateful(Strategy):
    @hookimpl
    def loss(self, step):
        return {}

    def state_dict(self):
        return {"seen": {"last": self.value}}

    def load_state_dict(self, state):
        pass


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (np.float64(3), "float64"),
        (deque([1]), "deque"),
        (np.zeros(2), "ndarray"),
        ({1, 2}, "set"),
        (object(), "object"),
    ],
)
def test_state_that_a_checkpoint_cannot_hold_is_named_by_strategy_and_key(value, kind):
    stateful = Stateful()
    stateful.value = value
    with pytest.raises(StackError) as caught:
        Stack([stateful]).state_dict()
    expected = f"state_dict of strategy 'stateful' returned state['seen']['last'] of type {kind}; expected tensors,"
    assert expected in str(caught.value)


@pytest.mark.parametrize("value", [3, 0.5, True, None, "x", torch.ones(2), [1, {"a": torch.ones(1)}], (1, 2), {0: "x"}])
def test_state_of_tensors_and_primitives_is_taken(value, tmp_path):
    stateful = Stateful()
    stateful.value = value
    engine = engine_of(Supervised(), stateful)
    engine.step(tiny_batch())
    engine.save(tmp_path / "a.pt")
    engine.load(tmp_path / "a.pt")


# ------------------------------------------------------------------------------------------------- declarations


@pytest.mark.parametrize(
    ("declaration", "value"),
    [
        ("requires", ["source.image"]),
        ("requires", "source.image"),
        ("writes", {"source"}),
        ("outputs", {"target"}),
        ("critic_outputs", ["target.logits"]),
        ("provides", {3}),
        ("same_size", ["source"]),
    ],
)
def test_a_declaration_that_is_no_set_of_entries_is_named(declaration, value):
    with pytest.raises(StackError, match=f"strategy 'odd': expected {declaration} to be a set such as"):
        Stack([type("Odd", (Supervised,), {declaration: value})()])


def test_a_declaration_annotated_by_mistake_is_refused_when_the_class_is_made():
    with pytest.raises(StackError, match=r"Annotated\.requires is annotated, which makes it an option of the recipe"):

        class Annotated(Strategy):
            requires: frozenset[str] = frozenset({"source.image"})

    class Fine(Strategy):
        requires: ClassVar[frozenset[str]] = frozenset({"source.image"})


def test_a_post_init_of_ones_own_keeps_the_default_name_and_its_error_is_placed(monkeypatch):
    class Checks(Strategy):
        power: float = 1.0

        def __post_init__(self):
            if self.power > 2:
                raise ValueError("power above 2 diverges")

        @hookimpl
        def loss(self, step):
            return {}

    assert [s.name for s in Stack([Checks()]).strategies] == ["checks"]
    registry = Registry()
    registry.strategy("checks", Checks)
    monkeypatch.setattr("dalib.core.create.default_registry", lambda: registry)
    with pytest.raises(RecipeError, match=r"^checks: power above 2 diverges$"):
        create_strategy("checks", power=3.0)


# ------------------------------------------------------------------------------------------------ while it runs


class Acts(Strategy):
    """Does ``what`` in ``hook``."""

    requires = frozenset({"source.image", "source.label"})
    outputs = frozenset({"source.logits"})
    critic_outputs = frozenset({"source.logits"})

    @hookimpl
    def setup(self, ctx):
        self.model = ctx.model

    @hookimpl
    def pre_batch(self, step):
        self.act("pre_batch", step)

    @hookimpl
    def loss(self, step):
        self.act("loss", step)
        return {"mine": step.logits("source").float().mean()}

    @hookimpl
    def post_step(self, step):
        self.act("post_step", step)

    def act(self, hook, step):
        if hook == self.hook:
            self.what(self, step)


def acts(hook, what):
    strategy = Acts()
    strategy.hook, strategy.what = hook, what
    return strategy


@pytest.mark.parametrize("hook", ["pre_batch", "loss"])
def test_a_stream_changed_in_place_is_named(hook):
    message = refused(acts(hook, lambda self, step: step.batch["source"].image.mul_(0.5)))
    assert "strategy 'acts' changed source.image in place" in message


def test_a_tensor_of_ones_own_may_be_changed_in_place():
    engine_of(Supervised(), acts("pre_batch", lambda self, step: step.batch["source"].image.clone().mul_(2))).step(
        tiny_batch()
    )


def test_backward_in_a_loss_is_named():
    message = refused(acts("loss", lambda self, step: step.logits("source").mean().backward(retain_graph=True)))
    assert "strategy 'acts' calls backward in its hook 'loss'; return the term" in message


def test_gradients_of_ones_own_are_allowed_in_a_loss():
    def differentiate(self, step):
        (self.gradient,) = torch.autograd.grad(step.logits("source").mean(), self.model.head.bias, retain_graph=True)

    strategy = acts("loss", differentiate)
    engine_of(Supervised(), strategy).step(tiny_batch())
    assert strategy.gradient.abs().sum() > 0


def test_a_forward_in_post_step_is_refused_by_hand_too():
    message = refused(acts("post_step", lambda self, step: self.model(step.batch["source"].image)))
    assert "a forward in post_step would move BatchNorm's running statistics" in message
    assert "by strategy 'acts' in its hook 'post_step'" in message


def test_reading_a_stream_that_is_not_declared_is_named():
    message = refused(acts("loss", lambda self, step: step.batch["target"]))
    assert "strategy 'acts' reads the stream 'target' without declaring it; add \"target.image\"" in message


@pytest.mark.parametrize("hook", ["loss", "post_step"])
def test_writing_outside_of_pre_batch_names_the_hook_as_the_fault(hook):
    message = refused(acts(hook, lambda self, step: step.batch.write("source", image=torch.zeros(2, 3, 12, 16))))
    assert f"changed source.image in its hook '{hook}'; streams change in `pre_batch` alone" in message


@pytest.mark.parametrize("value", [torch.zeros(2), 0.5, None])
def test_logging_anything_but_a_scalar_tensor_is_named(value):
    message = refused(acts("loss", lambda self, step: step.log("share", value)))
    assert "strategy 'acts' logs 'share': expected a 0-d tensor, got" in message


@pytest.mark.parametrize("hook", ["pre_batch", "loss", "post_step"])
def test_a_scalar_logged_under_a_terms_name_is_named(hook):
    message = refused(acts(hook, lambda self, step: step.log("mine", torch.zeros(()))))
    assert "strategy 'acts' gives two scalars the name 'mine'" in message


def test_a_loss_term_and_a_critics_term_of_one_name_are_named():
    class Both(Strategy):
        @hookimpl
        def setup(self, ctx):
            self.critic = ctx.critic("d", torch.nn.Conv2d(5, 1, 1), lambda p: torch.optim.SGD(p, lr=0.1))

        @hookimpl
        def loss(self, step):
            return {"x": self.critic(step.logits("target")).mean()}

        @hookimpl
        def critic_loss(self, step):
            return {"x": self.critic(step.logits("target")).mean()}

    assert "'both' gives two scalars the name 'x', one by loss and one by critic_loss; rename" in refused(Both())


def test_the_segmentation_loss_of_a_stream_without_labels_is_refused():
    class Unlabelled(Strategy):
        @hookimpl
        def loss(self, step):
            return {"x": step.segmentation_loss("target")}

    assert "'unlabelled' wants the segmentation loss of 'target', which has no labels" in refused(Unlabelled())


# ------------------------------------------------------------------------------------------------------- a plan


class Adds(Strategy):
    """Adds a stream of half the target's size."""

    requires = frozenset({"target.image"})
    provides = frozenset({"small.image"})
    outputs = frozenset({"small.logits"})

    def sizes(self, before):
        height, width = before["target"]
        return {"small": (height // 2, width // 2)}

    @hookimpl
    def pre_batch(self, step):
        step.batch.add("small", Stream(step.batch["target"].image[..., ::2, ::2]))


def test_a_plan_knows_the_size_of_a_provided_stream():
    plan = engine_of(Adds()).plan({"source": (64, 128), "target": (64, 128)})
    assert plan.rows[0].sizes["small"] == (32, 64)


def test_a_provided_streams_size_is_unknown_where_it_follows_from_an_unknown_one():
    plan = engine_of(Adds()).plan({"source": (64, 128), "target": None})
    assert plan.rows[0].sizes == {"source": (64, 128), "target": None, "small": None}


def test_a_stream_that_is_not_there_is_an_error_of_sizes():
    class Asks(Adds):
        def sizes(self, before):
            return {"small": before["sauce"]}

    with pytest.raises(StrategyError, match="strategy 'asks' in its hook 'sizes' raised KeyError: 'sauce'"):
        engine_of(Asks()).plan({"source": None, "target": None})


@pytest.mark.parametrize("declaration", ["outputs", "critic_outputs"])
def test_a_plan_names_an_output_that_the_model_does_not_give(declaration):
    reads = type("Reads", (Acts,), {declaration: frozenset({"source.aux.1", "source.aux.99"})})()
    with pytest.raises(StackError, match=r"'reads' reads the output source\.aux\.99, which this model does not give"):
        engine_of(reads).plan({"source": None, "target": None})


@pytest.mark.parametrize("purpose", ["train", "plan", "evaluate"])
def test_setup_is_told_what_for_how_long_and_from_which_seed(purpose):
    class Asks(Strategy):
        @hookimpl
        def setup(self, ctx):
            self.told = ctx.purpose, ctx.steps, ctx.seed

    asks = Asks()
    Engine(tiny_model(), [asks], device="cpu", seed=3, purpose=purpose, steps=70)
    assert asks.told == (purpose, 70, 3)
