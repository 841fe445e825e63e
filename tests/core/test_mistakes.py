"""Mistakes of a plugin's author, each named in one message before it can give a wrong number."""

from collections import deque
from typing import ClassVar

import numpy as np
import pytest
import torch

from dalib import Engine, StackError, Strategy, Stream, create_strategy, hookimpl
from dalib.core.stack import Stack
from dalib.errors import RecipeError, StrategyError
from dalib.losses import LOCAL
from dalib.registry import Registry
from tests.equal import assert_equal
from tests.tiny import Supervised, TinyData, tiny_batch, tiny_model


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

    teacher = False

    @hookimpl
    def setup(self, ctx):
        self.model = ctx.model
        if self.teacher:
            ctx.teacher()

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


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda step: step.logits("source").detach().clamp_(0), "the student's output source.logits"),
        (lambda step: step.teacher_logits("source").mul_(0), "the teacher's output source.logits"),
    ],
)
def test_an_output_changed_in_place_is_named(change, what):
    strategy = acts("loss", lambda self, step: change(step))
    strategy.teacher = True
    assert f"strategy 'acts' changed {what} in place" in refused(strategy)


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


# ------------------------------------------------------------------------------------------------------ a start


class Sets(Strategy):
    """Does ``what`` in setup."""

    @hookimpl
    def setup(self, ctx):
        self.what(self, ctx)

    @hookimpl
    def loss(self, step):
        return {}


def shared(self, ctx):
    one = torch.nn.Conv2d(5, 5, 1)
    ctx.module("first", lambda: one, optimizer=sgd)
    ctx.module("second", lambda: one, optimizer=sgd)


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1)


AT_THE_START = {
    "own module": (
        lambda self, ctx: setattr(self, "head", torch.nn.Linear(1, 1)),
        "'sets' keeps its own trainable 'head'",
    ),
    "own parameter": (
        lambda self, ctx: setattr(self, "scale", torch.nn.Parameter(torch.ones(1))),
        "'sets' keeps its own trainable 'scale'",
    ),
    "a module for make": (
        lambda self, ctx: ctx.module("h", torch.nn.Linear(1, 1)),
        "takes a function that makes the module, such as `lambda: Linear",
    ),
    "part of the model": (
        lambda self, ctx: ctx.module("h", lambda: ctx.model.body, trains=None),
        "module 'sets/h' shares parameters with the model; make a copy",
    ),
    "one module twice": (shared, "module 'sets/second' shares parameters with module 'sets/first'"),
    "trains": (lambda self, ctx: ctx.module("h", torch.nn.Identity, trains="losses"), "got 'losses'"),
    "batch_norm": (lambda self, ctx: ctx.teacher(batch_norm="running"), "expected batch_norm 'train' or 'eval'"),
    "start": (lambda self, ctx: ctx.teacher(start=-7), "expected a teacher's start of at least 0, got -7"),
}


@pytest.mark.parametrize("mistake", AT_THE_START)
def test_a_mistake_in_setup_is_named(mistake):
    sets = Sets()
    sets.what, message = AT_THE_START[mistake]
    with pytest.raises(StackError) as caught:
        engine_of(Supervised(), sets)
    assert message in str(caught.value)


def test_the_model_and_frozen_modules_may_be_kept():
    def keep(self, ctx):
        self.model, self.filter = ctx.model, torch.nn.Conv2d(3, 3, 1).requires_grad_(False)

    sets = Sets()
    sets.what = keep
    engine_of(Supervised(), sets)


def test_a_module_of_five_dimensions_is_taken():
    class Prototypes(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.values = torch.nn.Parameter(torch.zeros(1, 5, 8, 1, 1))

    sets = Sets()
    sets.what = lambda self, ctx: ctx.module("prototypes", Prototypes)
    engine_of(Supervised(), sets)


def test_a_list_as_default_is_answered_with_how_to_write_it():
    with pytest.raises(StackError, match=r"Scales: mutable default .* Write a list as a tuple"):

        class Scales(Strategy):
            sizes: list[float] = [0.5, 1.0]  # noqa: RUF012


def test_state_with_its_graph_is_refused():
    stateful = Stateful()
    stateful.value = torch.ones(1, requires_grad=True) * 2
    with pytest.raises(StackError, match=r"returned state\['seen'\]\['last'\] with its graph; detach it"):
        Stack([stateful]).state_dict()


def test_a_name_with_a_slash_is_refused():
    with pytest.raises(StackError, match="strategy name 'a/b': expected one without '/'"):
        Stack([Supervised(name="a/b")])


def test_what_is_kept_with_its_graph_from_an_earlier_step_is_named():
    def keep(self, step):
        self.kept = step.logits("source").mean() + getattr(self, "kept", 0.0)

    class Keeps(Acts):
        @hookimpl
        def loss(self, step):
            keep(self, step)
            return {"x": self.kept}

    keeps = Keeps()
    keeps.hook = ""
    engine = engine_of(keeps)
    engine.step(tiny_batch())
    with pytest.raises(StackError, match="a term reaches into the graph of an earlier step"):
        engine.step(tiny_batch())


def test_backward_in_a_critics_loss_is_named():
    class Judges(Strategy):
        @hookimpl
        def setup(self, ctx):
            self.critic = ctx.critic("d", torch.nn.Conv2d(5, 1, 1), sgd)

        @hookimpl
        def critic_loss(self, step):
            term = self.critic(step.logits("target")).mean()
            term.backward(retain_graph=True)
            return {"x": term}

    assert "'judges' calls backward in its hook 'critic_loss'" in refused(Judges())


@pytest.mark.parametrize("factor", [float("nan"), float("inf"), -1.0, (-0.5) ** 0.9])
def test_a_schedule_that_gives_no_factor_is_told_before_the_step(factor):
    engine = Engine(tiny_model(), [Supervised()], schedule=lambda step: factor if step else 1.0, device="cpu")
    engine.step(tiny_batch())
    before = {name: value.clone() for name, value in engine.model.state_dict().items()}
    with pytest.raises(StackError, match="for step 2; expected a number of at least 0"):
        engine.step(tiny_batch())
    assert_equal(dict(engine.model.state_dict()), before)


def test_a_buffer_that_grows_is_named():
    class Queue(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("queue", torch.zeros(2))

        def forward(self, x):
            self.queue = torch.cat([self.queue, torch.zeros(1)])
            return x

    class Remembers(Strategy):
        @hookimpl
        def setup(self, ctx):
            self.queue = ctx.module("queue", Queue)

        @hookimpl
        def loss(self, step):
            return {"x": self.queue(step.logits("target")).mean()}

    assert "buffer 'queue' of Queue changed its shape within a step, from (2,) to (3,)" in refused(Remembers())


def test_a_stream_that_two_strategies_provide_in_parts_is_refused():
    image, label = (
        type(name, (Supervised,), {"provides": frozenset({f"mx.{name.lower()}"})})() for name in ("Image", "Label")
    )
    with pytest.raises(StackError, match=r"mx\.label is provided twice: by 'image' and by 'label'"):
        engine_of(image, label).plan({"source": None, "target": None})


def test_means_of_other_shapes_are_refused():
    values = torch.rand(2, 8, 4, 4)
    with pytest.raises(StackError, match=r"must have the shape of the values, \(2, 8, 4, 4\), got \(2, 1, 4, 4\)"):
        LOCAL.mean(values, torch.ones(2, 1, 4, 4, dtype=torch.bool))
    assert torch.equal(LOCAL.mean(values), LOCAL.mean(values, torch.ones_like(values, dtype=torch.bool)))


def test_a_network_whose_output_has_no_gradient_is_told_in_the_first_step():
    class Detached(type(tiny_model())):
        def forward(self, x, outputs=False):
            with torch.no_grad():
                return super().forward(x, outputs)

    with pytest.raises(StackError, match="no loss term reaches a parameter, so nothing is trained"):
        engine_of(Supervised(), model=Detached()).fit(TinyData(), TinyData(), steps=1, batch_size=2)
