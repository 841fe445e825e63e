"""A step whose numbers go bad leaves no trace but its name, whatever went bad, whoever updates, in any precision."""

import copy
from functools import cache, partial

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from dalib import Batch, Engine, Strategy, Stream, hookimpl
from dalib.core.guard import SKIPPED_IN_A_ROW, SKIPPED_IN_ALL, Guard, NonFiniteError, Verdict
from dalib.errors import CheckpointError, StrategyError
from tests.tiny import Entropy, Supervised, TinyData, TinyModel, tiny_batch, tiny_model

BAD_STEP = 2

OPTIMIZERS = {
    "sgd": partial(torch.optim.SGD, lr=0.1, weight_decay=0.01),
    "momentum": partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=0.01),
    "adam": partial(torch.optim.Adam, lr=0.01, amsgrad=True),
    "adamw": partial(torch.optim.AdamW, lr=0.01),
    "unfused": partial(torch.optim.RMSprop, lr=0.001, momentum=0.5),
}


class Teaches(Strategy):
    """Learns from the teacher, whose BatchNorm sees every target image."""

    outputs = frozenset({"target.logits"})

    @hookimpl
    def setup(self, ctx):
        ctx.teacher(decay=0.9)

    @hookimpl
    def pre_batch(self, step):
        step.teacher_logits("target")

    @hookimpl
    def loss(self, step):
        return {"agree": (step.logits("target") - step.teacher_logits("target")).pow(2).mean()}


class Bad(Strategy):
    """Goes bad in the way ``kind`` at the steps ``at``: in its term, or in its gradient alone; or in a critic's."""

    kind: str = "none"
    at: tuple[int, ...] = (BAD_STEP,)
    micro: int = 0
    critic: str = "adam"
    outputs = frozenset({"target.logits"})

    @hookimpl
    def setup(self, ctx):
        layers = spectral_norm(nn.Conv2d(ctx.num_classes, 4, 3)), nn.BatchNorm2d(4)
        self.judge = ctx.critic("domain", nn.Sequential(*layers), OPTIMIZERS[self.critic])
        self.seen = 0

    @hookimpl
    def loss(self, step):
        return {"entropy": self._spoil(step, self.judge(step.logits("target")).float().pow(2).mean(), "")}

    @hookimpl
    def critic_loss(self, step):
        return {"judge": self._spoil(step, self.judge(step.logits("target")).float().pow(2).mean(), "critic ")}

    @hookimpl
    def post_step(self, step):
        self.seen += 1

    def state_dict(self):
        return {"seen": self.seen}

    def load_state_dict(self, state):
        self.seen = state["seen"]

    def _spoil(self, step, value, prefix):
        if step.index not in self.at or step.micro != self.micro:
            return value
        spoilt = {
            f"{prefix}term": value * torch.inf,
            f"{prefix}nan": value * torch.nan,
            f"{prefix}gradient": value + (value * 0).sqrt(),
            f"{prefix}constant": torch.full_like(value, torch.nan, requires_grad=False),
        }
        return spoilt.get(self.kind, value)


class SpectralModel(TinyModel):
    """Its head has spectral norm, and its auxiliary one gives NaN in its forward number ``when``; -1 is never."""

    when = -1

    def __init__(self):
        super().__init__()
        self.head = spectral_norm(self.head)

    def forward(self, x, outputs=False):
        given = super().forward(x, outputs)
        self.when -= self.training
        if self.when == -1 and self.training:
            given["aux.1"] = given["aux.1"] * torch.nan
        return given


def make(kind="none", *, optimizer="momentum", critic="adam", at=(BAD_STEP,), micro=0, teacher=True, **options):
    torch.manual_seed(0)
    model = SpectralModel()
    if kind == "auxiliary":
        model.when = 2 * BAD_STEP  # two forwards a step, the source's first
    stack = [
        Supervised(),
        *([Teaches(weight=0.1)] if teacher else []),
        Bad(kind=kind, at=at, micro=micro, critic=critic),
    ]
    engine = Engine(model, stack, optimizer=OPTIMIZERS[optimizer], device="cpu", **options)
    engine.precision.scaler._init_scale = 256.0  # low enough that nothing overflows by itself
    return engine


def batch_of(step, kind="none"):
    batch = tiny_batch(step)
    if kind != "image" or step != BAD_STEP:
        return batch
    image = batch["target"].image.clone()
    image[0, 0, 3, 3] = torch.nan
    return Batch({"source": batch["source"], "target": Stream(image)})


def state_of(engine):
    state = copy.deepcopy(engine._state())
    return {key: state[key] for key in ("model", "optimizer", "teacher", "modules", "scaler")}


def assert_same(mine, theirs, path=""):
    if isinstance(mine, dict):
        assert mine.keys() == theirs.keys(), path
        for key in mine:
            assert_same(mine[key], theirs[key], f"{path}/{key}")
    elif isinstance(mine, torch.Tensor):
        assert torch.equal(mine, theirs), path
    else:
        assert mine == theirs, path


def assert_finite(state):
    for value in state.values() if isinstance(state, dict) else state:
        if isinstance(value, dict | list):
            assert_finite(value)
        elif isinstance(value, torch.Tensor):
            assert value.isfinite().all()


@pytest.fixture(params=["host", "device"])
def route(request, monkeypatch):
    """Whether the host reads a verdict before the update, as on a CPU, or after the step."""
    if request.param == "device":
        monkeypatch.setattr(Guard, "reads_at_once", False)
    return request.param


FAULTS = {
    "term": "term 'entropy' of strategy 'bad' is not finite",
    "nan": "term 'entropy' of strategy 'bad' is not finite",
    "constant": "term 'entropy' of strategy 'bad' is not finite",
    "gradient": "the gradient of the model is not finite",
    "critic term": "term 'judge' of strategy 'bad' is not finite",
    "critic gradient": "the gradient of module 'bad/domain' is not finite",
    "image": "term 'agree' of strategy 'teaches' is not finite, term 'entropy' of strategy 'bad' is not finite, "
    "term 'judge' of strategy 'bad' is not finite",
    "auxiliary": "term 'loss' of strategy 'supervised' is not finite",
}


@cache
def without_a_bad_step(optimizer, precision):
    """Return the states after the steps before the bad one, and after those behind it."""
    engine, states = make(on_non_finite="skip", **of(optimizer, precision)), []
    for step in (0, 1, BAD_STEP + 1, BAD_STEP + 2):
        engine.index = step
        engine.step(batch_of(step))
        states.append(state_of(engine))
    return states[BAD_STEP - 1], states[-1]


def of(optimizer, precision):
    return {"optimizer": optimizer, "precision": precision, "critic": "unfused" if optimizer == "adamw" else "adam"}


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("kind", FAULTS)
def test_a_bad_step_changes_no_bit_and_training_goes_on_as_without_it(kind, optimizer, precision, monkeypatch, caplog):
    monkeypatch.setattr(Guard, "reads_at_once", False)
    before, after = without_a_bad_step(optimizer, precision)
    engine = make(kind, on_non_finite="skip", **of(optimizer, precision))
    for step in range(BAD_STEP):
        engine.step(batch_of(step))
    scale = engine.precision.scaler.get_scale()
    engine.step(batch_of(BAD_STEP, kind))
    assert engine.index == BAD_STEP + 1
    if precision == "fp16" and kind.endswith("gradient"):  # which is the scaler's affair, and no fault
        assert_same(state_of(engine) | {"scaler": None}, before | {"scaler": None})
        assert engine.precision.scaler.get_scale() == scale / 2
        assert not caplog.records and engine.guard.skipped == 0
        return
    assert_same(state_of(engine), before)
    said = f"step {BAD_STEP + 1} went bad: {FAULTS[kind]}; the step is skipped"
    assert [record.message for record in caplog.records] == [said] and engine.guard.skipped == 1
    for step in (BAD_STEP + 1, BAD_STEP + 2):
        engine.step(batch_of(step))
    assert_same(state_of(engine), after)
    assert engine.guard.skipped_in_a_row == 0


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_first_step_may_be_the_bad_one(optimizer, route):
    bad, clean = (make(kind, optimizer=optimizer, at=(0,), on_non_finite="skip") for kind in ("gradient", "none"))
    junk = [torch.full_like(parameter, 1e30) for parameter in bad.model.parameters()]
    del junk  # what torch's fused SGD would take for a momentum
    bad.step(tiny_batch())
    clean.index = 1
    for step in (1, 2):
        bad.step(tiny_batch(step))
        clean.step(tiny_batch(step))
    assert_same(state_of(bad), state_of(clean))


@pytest.mark.parametrize("kind", FAULTS)
@pytest.mark.parametrize("teacher", [True, False])
def test_a_run_stops_with_the_state_before_the_bad_step(kind, teacher, route):
    engine = make(kind, teacher=teacher)
    for step in range(BAD_STEP):
        engine.step(batch_of(step))
    before = state_of(engine)
    with pytest.raises(NonFiniteError) as caught:
        engine.step(batch_of(BAD_STEP, kind))
    said, fault = str(caught.value), FAULTS[kind]
    if not teacher:
        fault = fault.removeprefix("term 'agree' of strategy 'teaches' is not finite, ")
    assert said.startswith(f"step {BAD_STEP + 1} went bad: {fault}. The step is undone. ")
    assert all(word in said for word in ("optimizer.lr", "train.clip", "train.precision", "train.on_non_finite: skip"))
    assert_same(state_of(engine), before)
    if route == "host":
        assert engine.index == BAD_STEP and engine.state_dict()["strategies"]["bad"] == {"seen": BAD_STEP}
    else:  # counters have gone on
        with pytest.raises(CheckpointError, match=f"step {BAD_STEP + 1} went bad.* Go on from the last checkpoint"):
            engine.state_dict()


def test_a_run_that_stopped_goes_on_from_a_checkpoint(route):
    stopped, whole = make("term", at=(1,)), make()
    for engine in (stopped, whole):
        engine.step(tiny_batch(0))
    state = copy.deepcopy(stopped.state_dict())
    with pytest.raises(NonFiniteError, match="step 2 went bad"):
        stopped.step(tiny_batch(1))
    stopped.load_state_dict(state)
    stopped.stack.strategies[-1].at = ()
    for engine in (stopped, whole):
        engine.step(tiny_batch(1))
    assert_same(state_of(stopped), state_of(whole))


def test_a_run_ends_when_its_last_verdict_has_come(monkeypatch):
    monkeypatch.setattr(Guard, "reads_at_once", False)
    monkeypatch.setattr(Verdict, "arrived", False)
    engine = Engine(tiny_model(), [Bad(kind="term", at=(1,))], device="cpu")
    with pytest.raises(NonFiniteError, match="step 2 went bad"):
        engine.fit(TinyData(), TinyData(), steps=2, batch_size=2)


@pytest.mark.parametrize("policy", ["stop", "skip"])
def test_verdicts_that_come_late_name_the_right_step_and_stop_as_of_it(policy, monkeypatch, caplog):
    monkeypatch.setattr(Guard, "reads_at_once", False)
    engine = make("image", on_non_finite=policy)
    for step in range(BAD_STEP):
        engine.step(batch_of(step))
    before = state_of(engine)
    monkeypatch.setattr(Verdict, "arrived", False)
    for step in range(BAD_STEP, BAD_STEP + 4):
        engine.step(batch_of(step, "image"))
    assert engine.index == BAD_STEP + 4 and not caplog.records
    if policy == "stop":  # asking for the state is what waits
        with pytest.raises(NonFiniteError, match=f"^step {BAD_STEP + 1} went bad: {FAULTS['image']}"):
            engine.state_dict()
        assert_same(state_of(engine), before)
    else:
        engine.state_dict()
        assert_finite(state_of(engine))
        assert engine.guard.skipped == 1 and engine.guard.skipped_in_a_row == 0
        assert [r.message.split(" went")[0] for r in caplog.records] == [f"step {BAD_STEP + 1}"]


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("policy", ["stop", "skip"])
def test_a_run_without_fault_is_that_of_torchs_own_steps_bit_for_bit(policy, precision, route):
    """What torch's scaler steps, and an average that knows no flag, are the reference."""
    guarded, bare = (make(on_non_finite=policy, precision=precision) for _ in range(2))

    def update(terms, inputs):
        scaler = bare.precision.scaler
        for optimizer in bare.optimizers:
            scaler.step(optimizer)
        scaler.update()
        towards = 1 - min(1 - 1 / (bare.index + 1), 0.9)
        for mine, theirs in zip(bare.teacher.module.parameters(), bare.model.parameters(), strict=True):
            mine.data.lerp_(theirs.data, towards)
        return torch.zeros(())

    bare._update = update
    for step in range(3):
        bare.step(tiny_batch(step), tiny_batch(step + 10))
        guarded.step(tiny_batch(step), tiny_batch(step + 10))
    assert_same(state_of(guarded), state_of(bare))


@pytest.mark.parametrize("micro", [0, 1])
def test_one_bad_micro_batch_spoils_its_whole_step(micro, route):
    engine = make("term", at=(1,), micro=micro, on_non_finite="skip")
    engine.step(tiny_batch(0), tiny_batch(1))
    before = state_of(engine)
    engine.step(tiny_batch(2), tiny_batch(3))
    assert_same(state_of(engine), before)
    assert engine.guard.skipped == 1


def test_a_step_without_a_term_is_none_that_went_bad(route):
    class Silent(Strategy):
        @hookimpl
        def post_step(self, step):
            assert step.finite

    engine = Engine(tiny_model(), [Silent()], device="cpu")
    engine.step(tiny_batch())
    assert engine.state_dict()["step"] == 1


def test_post_step_learns_whether_the_update_was_made(route):
    seen = []

    class Notes(Strategy):
        @hookimpl
        def post_step(self, step):
            seen.append(bool(step.finite))

    engine = Engine(TinyModel(), [Bad(kind="term", at=(1,)), Notes()], device="cpu", on_non_finite="skip")
    for step in range(3):
        engine.step(tiny_batch(step))
    assert seen == [True, False, True]


def test_too_many_skipped_steps_in_a_row_stop_the_run(route):
    engine = make("term", at=tuple(range(1, 100)), on_non_finite="skip")
    with pytest.raises(NonFiniteError, match=f"{SKIPPED_IN_A_ROW} steps in a row .*; a run stops at 10 and 100"):
        for step in range(99):
            engine.step(tiny_batch(step))
    assert SKIPPED_IN_A_ROW <= engine.index <= SKIPPED_IN_A_ROW + 1
    assert_finite(state_of(engine))


def test_skipped_steps_are_counted_beyond_a_resume_and_too_many_in_all_stop_the_run(route):
    first = make("term", at=(0, 2, 4), on_non_finite="skip")
    for step in range(3):
        first.step(tiny_batch(step))
    second = make("term", at=(0, 2, 4), on_non_finite="skip")
    second.load_state_dict(first.state_dict())
    assert (second.guard.skipped, second.guard.skipped_in_a_row) == (2, 1)
    second.guard.skipped = SKIPPED_IN_ALL - 1
    with pytest.raises(NonFiniteError, match=f"With it 1 steps in a row and {SKIPPED_IN_ALL} in all"):
        for step in (3, 4):
            second.step(tiny_batch(step))


class Overflows(Strategy):
    """A gradient that no fp16 holds while the scale is above ``at_most``."""

    at_most: float = 1024.0
    outputs = frozenset({"source.logits"})

    @hookimpl
    def loss(self, step):
        logits = step.logits("source")
        scale = step._forwards.precision.scaler.get_scale()
        return {"x": logits.float().mean() + (0.0 if scale <= self.at_most else (logits * 0).sum().float().sqrt())}


def test_gradients_that_overflow_in_fp16_are_no_fault_until_the_scale_has_collapsed(route):
    engine = Engine(TinyModel(), [Overflows()], device="cpu", precision="fp16")
    for step in range(8):
        engine.step(tiny_batch(step))
    assert engine.precision.scaler.get_scale() == 1024.0 and engine.guard.skipped == 0
    hopeless = Engine(TinyModel(), [Overflows(at_most=0.0)], device="cpu", precision="fp16")
    with pytest.raises(NonFiniteError, match="step 32 went bad: fp16's scale of the gradients fell below 6"):
        for step in range(40):
            hopeless.step(tiny_batch(step))


@pytest.mark.parametrize("hook", ["pre_batch", "loss", "critic_loss"])
def test_an_error_in_a_hook_leaves_the_state_of_the_last_whole_step(hook, route):
    def breaks(self, step):
        if step.index == 1:
            raise ValueError("oops")
        return {}

    breaks = type("Breaks", (Strategy,), {hook: hookimpl(breaks), "outputs": frozenset({"target.logits"})})()
    engine = make()
    engine = Engine(engine.model, [*engine.stack.strategies, Entropy(), breaks], device="cpu")
    engine.step(tiny_batch(0))
    before = copy.deepcopy(engine.state_dict())
    with pytest.raises(RuntimeError, match="oops"):
        engine.step(tiny_batch(1))
    assert_same(engine.state_dict(), before)


def test_an_error_after_the_update_makes_no_checkpoint_until_one_is_loaded(tmp_path):
    class Breaks(Strategy):
        @hookimpl
        def post_step(self, step):
            if step.index == 1:
                raise ValueError("oops")

    engine = Engine(TinyModel(), [Supervised(), Breaks()], device="cpu")
    engine.step(tiny_batch(0))
    engine.save(tmp_path / "1.pt")
    with pytest.raises(RuntimeError, match="oops"):
        engine.step(tiny_batch(1))
    with pytest.raises(Exception, match="step 2 broke off in the middle of its update"):
        engine.save(tmp_path / "2.pt")
    engine.load(tmp_path / "1.pt")
    engine.save(tmp_path / "2.pt")


def test_an_ordinary_step_on_the_device_reads_nothing(monkeypatch):
    """The dispatcher sees every fetch of a value: what ``.item()``, ``bool`` and ``tolist`` become."""
    from torch.utils._python_dispatch import TorchDispatchMode

    fetched = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, arguments=(), options=None):
            if function is torch.ops.aten._local_scalar_dense.default:
                fetched.append(function)
            return function(*arguments, **(options or {}))

    monkeypatch.setattr(Guard, "reads_at_once", False)
    monkeypatch.setattr(Verdict, "arrived", False)
    engine = Engine(TinyModel(), [Supervised(), Teaches()], optimizer=OPTIMIZERS["momentum"], device="cpu")
    engine.step(tiny_batch(0))
    with Watch():
        engine.step(tiny_batch(1))
    assert fetched == []


@pytest.mark.parametrize("policy", ["raise", "stop"])
def test_what_strategies_count_is_of_the_last_whole_step_too(policy):
    class Counts(Strategy):
        outputs = frozenset({"target.logits"})

        @hookimpl
        def setup(self, ctx):
            self.count = torch.zeros(())

        @hookimpl
        def loss(self, step):
            self.count += 1  # in place, so that a shallow copy would grow with it
            if step.index == 1 and policy == "raise":
                raise ValueError("oops")
            return {"x": step.logits("target").mean() * (torch.nan if step.index == 1 else 1.0)}

        def state_dict(self):
            return {"count": self.count}

        def load_state_dict(self, state):
            self.count = state["count"]

    counts = Counts()
    engine = Engine(tiny_model(), [counts], device="cpu")
    engine.step(tiny_batch())
    with pytest.raises((StrategyError, NonFiniteError)):
        engine.step(tiny_batch())
    state = engine.state_dict()
    assert state["step"] == 1 and state["strategies"]["counts"] == {"count": 1.0} and counts.count == 1


def test_a_buffer_that_a_forward_puts_in_place_of_another_goes_back_and_one_with_a_gradient_does_no_harm():
    model = tiny_model()
    model.register_buffer("seen", torch.zeros(2))
    model.register_buffer("slope", torch.ones(2, requires_grad=True))
    forward = model.forward

    def counting(x, outputs=False):
        model.seen = model.seen + 1
        return forward(x, outputs)

    model.forward = counting

    class Bad(Strategy):
        outputs = frozenset({"target.logits"})

        @hookimpl
        def loss(self, step):
            return {"x": step.logits("target").mean() * (torch.nan if step.index == 1 else 1.0)}

    engine = Engine(model, [Bad()], device="cpu", on_non_finite="skip")
    for step in range(3):
        engine.step(tiny_batch(step))
    assert model.seen.tolist() == [2.0, 2.0]
