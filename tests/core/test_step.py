"""What a hook may read of a step, and what it gets."""

import copy
from functools import partial

import pytest
import torch

from dalib import Batch, Engine, Strategy, Stream, hookimpl
from dalib.errors import StackError
from tests.equal import assert_same
from tests.tiny import tiny_batch, tiny_model

HOOKS = ("pre_batch", "loss", "critic_loss", "post_step")


class Reads(Strategy):
    """Reads the student or the teacher in one hook, and keeps what it got."""

    hook: str = "loss"
    teacher: bool = False

    @hookimpl
    def setup(self, ctx):
        ctx.teacher()

    @hookimpl
    def pre_batch(self, step):
        self.read(step, "pre_batch")

    @hookimpl
    def loss(self, step):
        self.read(step, "loss")
        return {}

    @hookimpl
    def critic_loss(self, step):
        self.read(step, "critic_loss")
        return {}

    @hookimpl
    def post_step(self, step):
        self.read(step, "post_step")

    def read(self, step, hook):
        if hook == self.hook:
            self.got = step.teacher_logits("target") if self.teacher else step.logits("target")


def run(strategy):
    Engine(tiny_model(), [strategy], device="cpu").step(tiny_batch())
    return strategy.got


@pytest.mark.parametrize(
    ("hook", "teacher", "refused"),
    [
        (
            "pre_batch",
            False,
            "strategy 'reads' reads student outputs in pre_batch, where streams may still change; read them in `loss`, "
            "or use step.teacher_logits.",
        ),
        ("post_step", False, "strategy 'reads' reads student outputs in post_step; read them in `loss`."),
        ("post_step", True, "strategy 'reads' reads the teacher in post_step; read it in `loss`."),
    ],
)
def test_a_hook_that_may_not_read_is_refused(hook, teacher, refused):
    with pytest.raises(StackError) as caught:
        run(Reads(hook=hook, teacher=teacher))
    assert str(caught.value).partition(" It was raised by ")[0] == refused


@pytest.mark.parametrize(
    ("hook", "teacher", "graph"),
    [
        ("loss", False, True),
        ("critic_loss", False, False),
        ("pre_batch", True, False),
        ("loss", True, False),
        ("critic_loss", True, False),
    ],
)
def test_only_a_loss_reads_with_a_graph(hook, teacher, graph):
    assert run(Reads(hook=hook, teacher=teacher)).requires_grad == graph


def test_a_step_that_is_kept_gives_nothing_once_its_hooks_are_over():
    class Keeps(Strategy):
        @hookimpl
        def setup(self, ctx):
            ctx.teacher()

        @hookimpl
        def loss(self, step):
            self.step = step
            return {}

    keeps = Keeps()
    Engine(tiny_model(), [keeps], device="cpu").step(tiny_batch())
    for read in (keeps.step.logits, keeps.step.teacher_logits):
        with pytest.raises(StackError, match=r"a step was read outside of every hook"):
            read("target")


def test_dropout_draws_anew_at_each_step_micro_batch_and_stream():
    class Keeps(Strategy):
        @hookimpl
        def setup(self, ctx):
            self.got = []

        @hookimpl
        def loss(self, step):
            self.got += [step.logits("source"), step.logits("target")]
            return {}

    def outputs(dropout):
        image = tiny_batch()["target"].image
        batch, keeps = Batch({"source": Stream(image), "target": Stream(image)}), Keeps()
        engine = Engine(tiny_model(dropout=dropout), [keeps], device="cpu")
        for _ in range(2):
            engine.step(batch, batch)
        return {logits.sum().item() for logits in keeps.got}

    assert len(outputs(0.5)) == 8 and len(outputs(0.0)) == 1  # 2 steps of 2 micro-batches of 2 streams


def test_forwards_of_student_and_teacher_have_their_time():
    engine = Engine(tiny_model(), [Reads(), Reads(name="too", teacher=True)], device="cpu")
    engine.step(tiny_batch())
    assert {"forward (student)", "forward (teacher)"} <= engine.clock.totals().keys()


def test_an_output_is_computed_once_and_again_when_its_stream_was_written():
    class Writes(Strategy):
        writes = frozenset({"target.image"})

        @hookimpl
        def setup(self, ctx):
            ctx.teacher()

        @hookimpl
        def pre_batch(self, step):
            before, again = step.teacher_logits("target"), step.teacher_logits("target")
            step.batch.write("target", image=1 - step.batch["target"].image)
            self.after = step.teacher_logits("target")
            assert before is again and not torch.equal(before, self.after)

        @hookimpl
        def loss(self, step):
            assert step.teacher_logits("target") is self.after
            assert step.logits("target") is step.logits("target")
            return {}

    Engine(tiny_model(), [Writes()], device="cpu").step(tiny_batch())


def test_the_segmentation_loss_gets_outputs_label_weight_and_the_whole_batchs_mean():
    source = tiny_batch()["source"]
    weight = torch.rand(source.label.shape)
    got = {}

    def loss(outputs, label, weight=None, *, across):
        got.update(outputs=outputs, label=label, weight=weight, mean=across.mean(weight, label != 255, weight))
        return outputs["logits"].mean()

    class Means(Strategy):
        @hookimpl
        def loss(self, step):
            own = step.batch["source"]
            got["step.mean"] = step.mean(own.weight, own.label != 255, own.weight)
            return {"x": step.segmentation_loss("source")}

    batch = Batch({"source": Stream(source.image, source.label, weight)})
    Engine(tiny_model(), [Means()], device="cpu", loss=loss).step(batch)
    assert {"logits", "aux.1"} <= got["outputs"].keys()
    assert torch.equal(got["label"], source.label) and torch.equal(got["weight"], weight)
    valid = source.label != 255
    expected = (weight.double() ** 2)[valid].sum() / valid.sum()
    for name in ("mean", "step.mean"):
        torch.testing.assert_close(got[name].double(), expected)


def test_what_a_strategy_logs_stands_under_its_name_and_its_time_too():
    class Logs(Strategy):
        @hookimpl
        def post_step(self, step):
            assert step.finite.dtype == torch.bool and bool(step.finite)
            step.log("x", torch.tensor(3.0))

    engine = Engine(tiny_model(), [Logs(name="logs")], device="cpu", optimizer=partial(torch.optim.SGD, lr=0.1))
    assert engine.step(tiny_batch())["logs/x"] == 3
    assert "logs" in engine.clock.totals()


def test_what_is_finite_is_known_after_the_update_and_true_before():
    class Asks(Strategy):
        @hookimpl
        def pre_batch(self, step):
            assert step.finite.dtype == torch.bool and bool(step.finite)

    Engine(tiny_model(), [Asks()], device="cpu").step(tiny_batch())


def test_a_stream_is_written_in_pre_batch_alone():
    class WritesInLoss(Strategy):
        writes = frozenset({"target.image"})

        @hookimpl
        def loss(self, step):
            step.batch.write("target", image=step.batch["target"].image)

    with pytest.raises(StackError, match=r"changed target\.image in its hook 'loss'; streams change in `pre_batch`"):
        Engine(tiny_model(), [WritesInLoss()], device="cpu").step(tiny_batch())


def test_draws_depend_on_seed_step_micro_batch_hook_and_name_and_on_nothing_else():
    class Draws(Strategy):
        @hookimpl
        def setup(self, ctx):
            self.drawn = []

        @hookimpl
        def pre_batch(self, step):
            self.drawn.append(torch.rand(1).item())

        @hookimpl
        def loss(self, step):
            self.drawn.append(torch.rand(1).item())
            return {}

    def drawn(*names, seed=0):
        strategies = [Draws(name=name) for name in names]
        engine = Engine(tiny_model(), strategies, device="cpu", seed=seed)
        for _ in range(2):
            engine.step(tiny_batch(), tiny_batch())
        return [strategy.drawn for strategy in strategies]

    (alone,) = drawn("a")
    assert len(set(alone)) == 8  # 2 steps of 2 micro-batches, 2 hooks
    before, beside = drawn("b", "a")
    assert beside == alone and not set(before) & set(alone)
    assert not set(drawn("a", seed=1)[0]) & set(alone)


class Student(Strategy):
    """Calls the student on images of its own, twice."""

    images: torch.Tensor | None = None
    hook: str = "loss"

    @hookimpl
    def setup(self, ctx):
        ctx.teacher()

    @hookimpl
    def pre_batch(self, step):
        self.call("pre_batch", step)

    @hookimpl
    def loss(self, step):
        self.call("loss", step)
        return {"x": step.logits("source").mean() * 0}

    @hookimpl
    def post_step(self, step):
        self.call("post_step", step)

    def call(self, hook, step):
        if hook == self.hook:
            self.first, self.second = step.student(self.images), step.student(self.images)


def test_the_student_on_images_of_ones_own_uses_their_statistics_and_moves_none():
    images = torch.rand(3, 3, 8, 8, requires_grad=True)
    strategy, model = Student(images=images), tiny_model()
    twin, plain = copy.deepcopy(model).train(), copy.deepcopy(model).train()
    engine = Engine(model, [strategy], optimizer=partial(torch.optim.SGD, lr=0.0), device="cpu")
    engine.step(tiny_batch())
    torch.testing.assert_close(strategy.first, twin(images))
    plain(tiny_batch()["source"].image)  # the only forward whose statistics count
    assert_same(dict(model.named_buffers()), dict(plain.named_buffers()), 1e-6)
    (gradient,) = torch.autograd.grad(twin(images).pow(2).sum(), images)
    assert gradient.abs().sum() > 0


def test_gradients_flow_to_the_images_that_the_student_sees():
    class Virtual(Student):
        @hookimpl
        def loss(self, step):
            images = step.batch["target"].image.requires_grad_()
            (self.gradient,) = torch.autograd.grad(step.student(images).pow(2).sum(), images)
            return {"x": step.student(images + self.gradient.sign()).pow(2).mean()}

    strategy = Virtual()
    engine = Engine(tiny_model(), [strategy], device="cpu")
    engine.step(tiny_batch())
    assert strategy.gradient.abs().sum() > 0
    assert engine.model.head.weight.grad.abs().sum() > 0


def test_dropout_draws_anew_in_each_call_of_the_student_and_alike_in_each_run():
    runs = [Student(images=torch.ones(2, 3, 8, 8)) for _ in range(2)]
    for strategy in runs:
        Engine(tiny_model(dropout=0.5), [strategy], device="cpu").step(tiny_batch())
    assert not torch.equal(runs[0].first, runs[0].second)
    assert torch.equal(runs[0].first, runs[1].first) and torch.equal(runs[0].second, runs[1].second)


def test_the_student_runs_in_the_runs_precision_without_a_graph_in_pre_batch_and_not_in_post_step():
    strategy = Student(images=torch.ones(2, 3, 8, 8), hook="pre_batch")
    Engine(tiny_model(), [strategy], device="cpu", precision="bf16").step(tiny_batch())
    assert strategy.first.dtype == torch.bfloat16 and not strategy.first.requires_grad
    strategy = Student(images=torch.ones(2, 3, 8, 8), hook="post_step")
    with pytest.raises(StackError, match="'student' calls the student in post_step; do it in `loss`"):
        Engine(tiny_model(), [strategy], device="cpu").step(tiny_batch())


class TeacherFeatures(Strategy):
    """Reads an output of the teacher beside its logits."""

    hook: str = "loss"
    outputs = frozenset({"target.features"})

    @hookimpl
    def setup(self, ctx):
        ctx.teacher()

    @hookimpl
    def pre_batch(self, step):
        if self.hook == "pre_batch":
            self.features = step.output("target", "features", teacher=True)
            self.logits = step.teacher_logits("target")

    @hookimpl
    def loss(self, step):
        if self.hook == "loss":
            self.features = step.output("target", "features", teacher=True)
        self.kept = [set(outputs) for (_, teacher), (_, outputs) in step._outputs.items() if teacher]
        return {}


@pytest.mark.parametrize("hook", ["pre_batch", "loss"])
def test_any_output_of_the_teacher_is_read_from_one_forward_and_the_others_are_not_kept(hook):
    strategy = TeacherFeatures(hook=hook)
    engine = Engine(tiny_model(), [strategy], device="cpu")
    teacher, calls = copy.deepcopy(engine.teacher.module), []
    engine.teacher.module.body.register_forward_hook(lambda *_: calls.append(1))
    engine.step(tiny_batch())
    assert torch.equal(strategy.features, teacher(tiny_batch()["target"].image, outputs=True)["features"])
    assert len(calls) == 1
    assert strategy.kept == [{"logits", "features"}]


def test_reading_a_teachers_output_that_is_not_declared_is_refused():
    class Undeclared(TeacherFeatures):
        outputs = frozenset({"target.logits"})

    with pytest.raises(StackError, match=r"'undeclared' reads target\.features in loss but declares outputs"):
        Engine(tiny_model(), [Undeclared()], device="cpu").step(tiny_batch())
