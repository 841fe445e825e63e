"""An author's mistake in a strategy is one message before the first step; calls come in the order of the list."""

from functools import partial

import pytest
import torch

from dalib import Engine, Strategy, hookimpl
from dalib.core.stack import Stack
from dalib.errors import StackError, StrategyError
from tests.tiny import Entropy, Supervised, TinyData, tiny_batch, tiny_model


class Unmarked(Strategy):
    def loss(self, step):
        return {}


class Misspelled(Strategy):
    @hookimpl
    def prebatch(self, step):
        pass


class WrongArgument(Strategy):
    @hookimpl
    def loss(self, setp):
        return {}


class Stateful(Strategy):
    def state_dict(self):
        return {"count": 1}


class Asking(Strategy):
    decay: float | None = None
    batch_norm: str | None = None

    @hookimpl
    def setup(self, ctx):
        ctx.teacher(self.decay, self.batch_norm)


class TwoCritics(Strategy):
    @hookimpl
    def setup(self, ctx):
        for _ in range(2):
            ctx.critic("d", torch.nn.Linear(1, 1), partial(torch.optim.SGD, lr=1.0))


class ReadsTeacher(Strategy):
    @hookimpl
    def pre_batch(self, step):
        step.teacher_logits("target")


class ReadsOutput(Strategy):
    @hookimpl
    def loss(self, step):
        return {"x": step.output("target", "boundary").mean()}


class Returns(Strategy):
    what: object = None

    @hookimpl
    def loss(self, step):
        return {"x": self.what}


class AddsTwice(Strategy):
    provides = frozenset({"new.image"})

    @hookimpl
    def pre_batch(self, step):
        step.batch.add("new", step.batch["target"])
        step.batch.add("new", step.batch["target"])


class ReadsNothing(Strategy):
    @hookimpl
    def pre_batch(self, step):
        step.batch["nothing"]


MISTAKES = [
    ([Unmarked()], "strategy 'unmarked': Unmarked.loss is named like a hook but lacks @hookimpl."),
    ([Misspelled()], "strategy 'misspelled': Misspelled.prebatch is not a hook. Did you mean 'pre_batch'?"),
    (
        [WrongArgument()],
        "strategy 'wrongargument' has a hook with a wrong argument: hookimpl definition: loss(setp); "
        "Argument(s) {'setp'} are declared in the hookimpl but can not be found in the hookspec.",
    ),
    (
        [Supervised(), Supervised()],
        "two strategies are named 'supervised'; give one of them its own `name`, which is its key in logs and "
        "checkpoints.",
    ),
    (
        [Supervised],
        "a stack holds Strategy instances; got <class 'tests.tiny.Supervised'>. Did you pass the class?",
    ),
    (
        [Stateful()],
        "strategy 'stateful' returns state but cannot load it: Stateful defines state_dict without load_state_dict.",
    ),
    (
        [Asking(name="a", decay=0.9), Asking(name="b"), Asking(name="c", decay=0.99)],
        "strategies 'a' and 'c' want different teachers: decay 0.9 and 0.99. An engine has one teacher; give both one "
        "value, or leave one unset.",
    ),
    (
        [Asking(name="a", batch_norm="eval"), Asking(name="b", batch_norm="train")],
        "strategies 'a' and 'b' want different teachers: batch_norm 'eval' and 'train'. An engine has one teacher; "
        "give both one value, or leave one unset.",
    ),
    ([TwoCritics()], "strategy 'twocritics' makes two modules named 'd'; give each its own name."),
]

AT_THE_FIRST_STEP = [
    (ReadsTeacher(), "strategy 'readsteacher' reads the teacher; ask for it in setup with ctx.teacher()."),
    (
        ReadsOutput(),
        "strategy 'readsoutput' needs the model's output 'boundary', which this model does not give; in training it "
        "gives logits, features, aux.1. The output of any layer is read through ctx.tap.",
    ),
    (Returns(what=3.0), "loss of strategy 'returns': term 'x' must be a scalar, got 3.0."),
    (
        Returns(what=torch.zeros(2, 3)),
        "loss of strategy 'returns': term 'x' must be a scalar, got a tensor of shape (2, 3).",
    ),
    (AddsTwice(), "stream 'new' is already in the batch; use batch.write to change it."),
    (
        ReadsNothing(),
        "stream 'nothing' is not in the batch; it holds source, target. A strategy names what it reads in `requires`; "
        "a stream that none reads is not loaded.",
    ),
]


@pytest.mark.parametrize(("strategies", "message"), MISTAKES, ids=[m[:40] for _, m in MISTAKES])
def test_a_mistake_is_said_when_the_engine_is_built(strategies, message):
    with pytest.raises(StackError) as caught:
        Engine(tiny_model(), strategies, device="cpu")
    assert str(caught.value).partition(" It was raised by ")[0] == message


@pytest.mark.parametrize(("strategy", "message"), AT_THE_FIRST_STEP, ids=[m[:40] for _, m in AT_THE_FIRST_STEP])
def test_what_only_running_shows_is_said_in_the_first_step(strategy, message):
    with pytest.raises(StackError) as caught:
        Engine(tiny_model(), [strategy], device="cpu").step(tiny_batch())
    said, _, where = str(caught.value).partition(" It was raised by ")
    if isinstance(strategy, Returns):  # which says whose loss it is by itself
        assert said == message
        return
    assert said == message and where.startswith(f"strategy {strategy.name!r} in its hook ") and "at step 1." in where


def test_two_samplers_of_one_stream_are_refused():
    class Sampler(Strategy):
        @hookimpl
        def sampler(self, stream, dataset):
            return (lambda position: 0) if stream == "source" else None

    engine = Engine(tiny_model(), [Supervised(), Sampler(name="a"), Sampler(name="b")], device="cpu")
    with pytest.raises(StackError) as caught:
        engine.fit(TinyData(), steps=1, batch_size=2)
    assert str(caught.value) == (
        "strategies 'a' and 'b' both sample the stream 'source'; a stream has one sampler: drop one of them."
    )


def test_a_sampler_decides_which_images_its_stream_gets_and_no_other():
    class Third(Strategy):
        @hookimpl
        def sampler(self, stream, dataset):
            return (lambda position: 3) if stream == "source" else None

        @hookimpl
        def pre_batch(self, step):
            drawn.append((step.batch["source"].index.tolist(), step.batch["target"].index.tolist()))

    class Last(Third):
        @hookimpl
        def sampler(self, stream, dataset):
            return (lambda position: 9) if stream == "target" else None

    drawn = []
    Engine(tiny_model(), [Last(), Supervised()], device="cpu").fit(TinyData(), TinyData(), steps=1, batch_size=4)
    assert drawn[0][1] == [9] * 4 and len(set(drawn[0][0])) == 4
    drawn = []
    Engine(tiny_model(), [Third(), Supervised()], device="cpu").fit(TinyData(), TinyData(), steps=2, batch_size=4)
    assert [source for source, _ in drawn] == [[3] * 4] * 2
    assert len({i for _, target in drawn for i in target}) == 8


class Talker(Strategy):
    """Says which hook of it ran."""

    @hookimpl
    def setup(self, ctx):
        said.append(("setup", self.name))

    @hookimpl
    def pre_batch(self, step):
        said.append(("pre_batch", self.name))

    @hookimpl
    def loss(self, step):
        said.append(("loss", self.name))
        return {}

    @hookimpl
    def critic_loss(self, step):
        said.append(("critic_loss", self.name))
        return {}

    @hookimpl
    def post_step(self, step):
        said.append(("post_step", self.name))

    @hookimpl
    def predictor(self, model, predict):
        said.append(("predictor", self.name))
        return predict

    @hookimpl
    def teardown(self):
        said.append(("teardown", self.name))


said: list[tuple[str, str]] = []


def test_hooks_are_called_in_the_order_of_the_list_and_teardown_reversed():
    said.clear()
    engine = Engine(tiny_model(), [Talker(name="z"), Talker(name="a")], device="cpu")
    engine.step(tiny_batch(), tiny_batch())
    engine.predictor(engine.model)
    engine.close()
    micro = ["pre_batch", "loss", "critic_loss"]
    expected = [(hook, name) for hook in ["setup", *micro, *micro, "post_step", "predictor"] for name in "za"]
    assert said == [*expected, ("teardown", "a"), ("teardown", "z")]


def test_predictors_wrap_one_another_the_first_innermost():
    class Add(Strategy):
        factor: float

        @hookimpl
        def predictor(self, model, predict):
            return lambda images: self.factor * predict(images) + 1

    stack = Stack([Add(name="a", factor=2.0), Add(name="b", factor=3.0)])
    predict = stack.predictor(None, lambda images: images, torch.device("cpu"), 0)
    assert torch.equal(predict(torch.ones(1, 2, 3, 3)), torch.full((1, 2, 3, 3), 10.0))  # 3 (2 x + 1) + 1


@pytest.mark.parametrize(
    ("wrap", "found"),
    [
        (lambda logits: logits.argmax(1), r"got \(1, 4, 6\)"),
        (lambda logits: logits[..., ::2], r"got \(1, 5, 4, 3\)"),
        (lambda logits: logits[:, :2], r"got \(1, 2, 4, 6\)"),
        (lambda logits: None, "got NoneType"),
    ],
)
def test_a_predictor_that_returns_no_logits_of_the_images_size_is_named(wrap, found):
    class Wraps(Strategy):
        @hookimpl
        def predictor(self, model, predict):
            return lambda images: wrap(predict(images))

    predict = Stack([Wraps()]).predictor(tiny_model(), tiny_model(), torch.device("cpu"), 0)
    with pytest.raises(StackError, match=r"strategy 'wraps' must return logits \(1, 5, 4, 6\) .*" + found):
        predict(torch.zeros(1, 3, 4, 6))


class Random(Strategy):
    """Draws where it is asked to; each hook draws once itself, too."""

    @hookimpl
    def sampler(self, stream, dataset):
        first = torch.randint(1000, ()).item()
        return lambda position: first * 10**6 + torch.randint(10**6, ()).item()

    @hookimpl
    def predictor(self, model, predict):
        noise = torch.rand(1, 3, 1, 1)
        return lambda images: predict(images) + noise + torch.rand(1, 3, 1, 1)


def test_a_samplers_draw_depends_on_seed_name_stream_and_position_alone():
    def drawn(seed=0, name="random", stream="source", positions=(4,)):
        draw = Stack([Random(name=name)]).draws({stream: range(10**9)}, seed)[stream]
        torch.rand(5)
        return [draw(position) for position in positions]

    assert drawn() == drawn() == drawn(positions=(9, 4))[1:]
    others = [drawn(seed=1), drawn(name="other"), drawn(stream="target"), drawn(positions=(5,))]
    assert all(drawn() != other for other in others) and drawn()[0] // 10**6 == others[-1][0] // 10**6


def test_a_predictors_draws_depend_on_seed_name_and_number_of_the_call_alone():
    def predicted(seed=0, name="random", calls=2):
        stack = Stack([Random(name=name)])
        predict = stack.predictor(None, lambda images: images, torch.device("cpu"), seed)
        torch.rand(5)
        return torch.stack([predict(torch.zeros(1, 3, 1, 1)) for _ in range(calls)])

    first = predicted()
    assert torch.equal(first, predicted()) and not torch.equal(first[0], first[1])
    assert not torch.equal(first, predicted(seed=1)) and not torch.equal(first, predicted(name="other"))


def test_neither_disturbs_the_draws_around_it():
    stack = Stack([Random()])
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    stack.draws({"source": range(10**9)}, 0)["source"](1)
    stack.predictor(None, lambda images: images, torch.device("cpu"), 0)(torch.zeros(1, 3, 1, 1))
    assert torch.equal(torch.rand(2), expected)


def test_each_strategy_gets_its_own_state_back_and_an_error_says_whose_it_was():
    class Counting(Strategy):
        def state_dict(self):
            return {"count": self.count}

        def load_state_dict(self, state):
            self.count = state["count"]

    a, b = Counting(name="a"), Counting(name="b")
    stack = Stack([a, b])
    stack.load_state_dict({"a": {"count": 1}, "b": {"count": 2}})
    assert (a.count, b.count) == (1, 2) and stack.state_dict() == {"a": {"count": 1}, "b": {"count": 2}}
    with pytest.raises(StrategyError, match=r"strategy 'b' in its hook 'load_state_dict' raised KeyError: 'count'"):
        stack.load_state_dict({"a": {"count": 1}, "b": {}})


def test_strategies_that_share_a_stream_share_a_graph_even_through_a_third():
    class Both(Strategy):
        outputs = frozenset({"source.logits", "target.logits"})
        loss = Supervised.loss

    source, target, both = Supervised(), Entropy(), Both()
    assert Stack([target, source]).groups == [(target,), (source,)]
    assert Stack([target, source, both]).groups == [(target, source, both)]
    assert Stack([both, source, target]).groups == [(both, source, target)]


def test_a_loss_without_a_forward_makes_no_backward_pass_of_its_own():
    class Decay(Strategy):
        outputs = frozenset()
        loss = Supervised.loss

    decay, source, target = Decay(), Supervised(), Entropy()
    assert Stack([decay, source, target]).groups == [(decay, source), (target,)]
    assert Stack([target, decay, source]).groups == [(target, decay), (source,)]
    assert Stack([decay]).groups == [(decay,)] and Stack([]).groups == []


def test_the_streams_that_a_stack_reads_are_known_where_every_reader_declares_them():
    class Sampler(Strategy):
        @hookimpl
        def sampler(self, stream, dataset):
            return None

    class Undeclared(Strategy):
        @hookimpl
        def post_step(self, step): ...

    class Any(Strategy):
        requires = frozenset({"source.image"})
        loss = Supervised.loss

    assert Stack([Supervised(), Sampler()]).streams() == {"source"}
    assert Stack([Supervised(), Entropy()]).streams() == {"source", "target"}
    assert Stack([Supervised(), Undeclared()]).streams() is None
    assert Stack([Supervised(), Any()]).streams() is None


def test_strategies_compare_by_identity_and_take_options_by_keyword_alone():
    class Plain(Strategy):
        value: int = 1

    one, other = Plain(value=2), Plain(value=2)
    assert one != other and len({one, other}) == 2
    assert (one.name, one.weight, Plain(name="mine").name) == ("plain", 1.0, "mine")
    with pytest.raises(TypeError):
        Plain(2)


def test_one_strategy_of_a_stack_adapts_at_prediction():
    class Adapts(Strategy):
        adapts = True

        @hookimpl
        def predictor(self, model, predict):
            return predict

    with pytest.raises(StackError, match="strategies 'a' and 'b' both adapt the model to the images"):
        Stack([Adapts(name="a"), Talker(name="c"), Adapts(name="b")])
    assert Stack([Talker(), Adapts()]).adapts and not Stack([Talker()]).adapts


def test_an_annotated_adapts_is_refused_as_an_option():
    with pytest.raises(StackError, match=r"adapts is annotated, .*: adapts = True"):

        class Adapts(Strategy):
            adapts: bool = True
