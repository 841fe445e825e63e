"""A step whose numbers go bad leaves no trace but its name, whether the host or the device takes it back."""

import copy

import pytest
import torch
from torch import nn

from dalib import Batch, Engine, Strategy, Stream, hookimpl
from dalib.core.guard import SKIPPED_IN_A_ROW, SKIPPED_IN_ALL, Guard, NonFiniteError, Verdict
from dalib.core.kept import Kept
from dalib.core.optim import adamw
from tests.tiny import Entropy, Supervised, TinyModel, tiny_batch, tiny_model

BAD_STEP = 2


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=0.01)


def adam(parameters):
    return torch.optim.AdamW(parameters, lr=0.01)


class Teaches(Strategy):
    """Learns from the teacher, whose BatchNorm sees every target image."""

    requires = frozenset({"target.image"})
    forwards = frozenset({"target"})

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
    forwards = frozenset({"target"})

    @hookimpl
    def setup(self, ctx):
        self.critic = ctx.critic("domain", nn.Sequential(nn.Conv2d(ctx.num_classes, 4, 3), nn.BatchNorm2d(4)), adam)
        self.seen = 0

    @hookimpl
    def loss(self, step):
        return {"entropy": self._spoil(step, self.critic(step.logits("target")).pow(2).mean(), "")}

    @hookimpl
    def critic_loss(self, step):
        return {"judge": self._spoil(step, self.critic(step.logits("target")).pow(2).mean(), "critic ")}

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
        spoilt = {f"{prefix}term": value * torch.inf, f"{prefix}gradient": value + (value * 0).sqrt()}
        return spoilt.get(self.kind, value)


class SpoiltAuxiliary(TinyModel):
    """Its auxiliary head gives NaN in its forward number ``when``; -1 is never."""

    when = -1

    def forward(self, x, outputs=False):
        given = super().forward(x, outputs)
        self.when -= self.training
        if self.when == -1 and self.training:
            given["aux.1"] = given["aux.1"] * torch.nan
        return given


def make(kind="none", *, model=None, optimizer=sgd, at=(BAD_STEP,), micro=0, **options):
    stack = [Supervised(), Teaches(weight=0.1), Bad(kind=kind, at=at, micro=micro)]
    return Engine(model or tiny_model(), stack, optimizer=optimizer, device="cpu", **options)


def batch_of(step, *, spoilt=False):
    batch = tiny_batch(step)
    if not spoilt:
        return batch
    image = batch["target"].image.clone()
    image[0, 0, 3, 3] = torch.nan
    return Batch({"source": batch["source"], "target": Stream(image)})


def state_of(engine):
    state = copy.deepcopy(engine.state_dict())
    return {key: state[key] for key in ("model", "optimizer", "teacher", "critics", "scaler")}


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
    """Both ways in which a bad update is kept out; the device's own is taken on the CPU, too."""
    if request.param == "device":
        monkeypatch.setattr(Guard, "reads_at_once", False)
    return request.param


FAULTS = {
    "term": "term 'entropy' of strategy 'bad' is not finite",
    "gradient": "the gradient of the model is not finite",
    "critic term": "term 'judge' of strategy 'bad' is not finite",
    "critic gradient": "the gradient of critic 'bad/domain' is not finite",
    "image": "term 'agree' of strategy 'teaches' is not finite, term 'entropy' of strategy 'bad' is not finite, "
    "term 'judge' of strategy 'bad' is not finite",
    "auxiliary": "term 'loss' of strategy 'supervised' is not finite",
}


def go_bad(kind, policy, optimizer=sgd):
    """Return an engine before its bad step, and that step's batch."""
    model = None
    if kind == "auxiliary":
        torch.manual_seed(0)
        model = SpoiltAuxiliary()
        model.when = 2 * BAD_STEP  # two forwards a step, the source's first
    engine = make(kind, model=model, on_non_finite=policy, optimizer=optimizer)
    for step in range(BAD_STEP):
        engine.step(batch_of(step))
    return engine, batch_of(BAD_STEP, spoilt=kind == "image")


@pytest.mark.parametrize("optimizer", [sgd, adamw(lr=0.01)], ids=["sgd", "fused"])
@pytest.mark.parametrize("kind", FAULTS)
def test_a_skipped_step_is_named_and_changes_no_bit(kind, optimizer, route, caplog):
    engine, batch = go_bad(kind, "skip", optimizer)
    before = state_of(engine)
    engine.step(batch)
    assert_same(state_of(engine), before)
    (record,) = caplog.records
    assert record.message == f"step {BAD_STEP + 1} went bad: {FAULTS[kind]}; the step is skipped"
    assert engine.index == BAD_STEP + 1 and engine.guard.skipped == 1
    engine.step(batch_of(BAD_STEP + 1))
    state = state_of(engine)
    assert_finite(state)
    assert not torch.equal(state["model"]["head.weight"], before["model"]["head.weight"])


@pytest.mark.parametrize("kind", FAULTS)
def test_a_run_stops_with_the_state_before_the_bad_step(kind, route):
    engine, batch = go_bad(kind, "stop")
    before = engine.state_dict() | state_of(engine)
    with pytest.raises(NonFiniteError) as caught:
        engine.step(batch)
    said = str(caught.value)
    assert said.startswith(f"step {BAD_STEP + 1} went bad: {FAULTS[kind]}. The step is undone. ")
    assert all(word in said for word in ("optimizer.lr", "train.clip", "train.precision", "train.on_non_finite: skip"))
    assert_same(engine.state_dict(), before)
    assert engine.index == BAD_STEP


@pytest.mark.parametrize("policy", ["stop", "skip"])
def test_verdicts_that_come_late_name_the_right_step_and_stop_as_of_it(policy, monkeypatch, caplog):
    monkeypatch.setattr(Guard, "reads_at_once", False)
    engine, batch = go_bad("image", policy)
    before = engine.state_dict() | state_of(engine)
    monkeypatch.setattr(Verdict, "arrived", False)
    engine.step(batch)
    for step in range(BAD_STEP + 1, BAD_STEP + 4):
        engine.step(batch_of(step))
    assert engine.index == BAD_STEP + 4 and not caplog.records
    if policy == "stop":  # asking for the state is what waits
        with pytest.raises(NonFiniteError, match=f"^step {BAD_STEP + 1} went bad: {FAULTS['image']}"):
            engine.state_dict()
        assert_same(engine.state_dict(), before)
    else:
        assert_finite(state_of(engine))
        assert engine.guard.skipped == 1 and engine.guard.skipped_in_a_row == 0
        assert [r.message.split(" went")[0] for r in caplog.records] == [f"step {BAD_STEP + 1}"]


def test_the_first_step_may_be_the_bad_one(route):
    engine, clean = make("gradient", at=(0,), on_non_finite="skip"), make()
    engine.step(tiny_batch())
    clean.index = 1
    for step in (1, 2):
        engine.step(tiny_batch(step))
        clean.step(tiny_batch(step))
    assert_same(state_of(engine), state_of(clean))


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("policy", ["stop", "skip"])
def test_a_run_without_fault_is_that_of_an_engine_without_guard_bit_for_bit(policy, precision, route, monkeypatch):
    guarded = make(on_non_finite=policy, precision=precision)
    with monkeypatch.context() as patch:
        patch.setattr(Guard, "update", lambda self, terms, update: update())
        bare = make(precision=precision)
        for step in range(3):
            bare.step(tiny_batch(step), tiny_batch(step + 10))
    for step in range(3):
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


def test_post_step_learns_whether_the_update_was_made(route):
    seen = []

    class Notes(Strategy):
        @hookimpl
        def post_step(self, step):
            seen.append(bool(step.finite))

    engine = Engine(tiny_model(), [Bad(kind="term", at=(1,)), Notes()], device="cpu", on_non_finite="skip")
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
    forwards = frozenset({"source"})

    @hookimpl
    def loss(self, step):
        logits = step.logits("source")
        scale = step._forwards.precision.scaler.get_scale()
        return {"x": logits.float().mean() + (0.0 if scale <= self.at_most else (logits * 0).sum().float().sqrt())}


def test_gradients_that_overflow_in_fp16_are_no_fault_until_the_scale_has_collapsed(route):
    engine = Engine(tiny_model(), [Overflows()], device="cpu", precision="fp16")
    for step in range(8):
        engine.step(tiny_batch(step))
    assert engine.precision.scaler.get_scale() == 1024.0 and engine.guard.skipped == 0
    hopeless = Engine(tiny_model(), [Overflows(at_most=0.0)], device="cpu", precision="fp16")
    with pytest.raises(NonFiniteError, match="step 32 went bad: fp16's scale of the gradients fell below 6"):
        for step in range(40):
            hopeless.step(tiny_batch(step))


def test_a_loss_that_is_not_finite_is_a_fault_in_fp16_too_and_leaves_the_scale(route):
    engine = make("term", precision="fp16", on_non_finite="skip")
    for step in range(BAD_STEP):
        engine.step(tiny_batch(step))
    before = state_of(engine)
    engine.step(tiny_batch(BAD_STEP))
    assert_same(state_of(engine), before)
    engine.step(tiny_batch(BAD_STEP + 1))
    assert engine.guard.skipped == 1


def test_an_error_in_a_hook_leaves_the_state_of_the_last_whole_step(route):
    class Breaks(Strategy):
        forwards = frozenset({"target"})

        @hookimpl
        def loss(self, step):
            if step.index == 1:
                raise ValueError("oops")
            return {}

    engine = Engine(tiny_model(), [Supervised(), Teaches(), Entropy(), Breaks()], device="cpu")
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

    engine = Engine(tiny_model(), [Supervised(), Breaks()], device="cpu")
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
    engine = Engine(tiny_model(), [Supervised(), Teaches()], optimizer=sgd, device="cpu")
    engine.step(tiny_batch(0))
    with Watch():
        engine.step(tiny_batch(1))
    assert fetched == []


def test_tensors_of_every_type_are_put_back_to_the_bit_where_the_flag_holds():
    values = [torch.tensor([1.0, -0.0, torch.nan]), torch.tensor([2**62, -5]), torch.tensor([True, False])]
    values += [torch.tensor([-1.5, torch.inf], dtype=dtype) for dtype in (torch.float64, torch.bfloat16)]
    values.append(torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last))
    for undo in (True, False):
        live = [value.clone() for value in values]
        kept = Kept(live)
        for tensor in live:
            tensor.copy_(torch.full_like(tensor, 1 if tensor.dtype == torch.bool else 7))
            tensor[..., 0] = torch.nan if tensor.is_floating_point() else 0
        changed = [tensor.clone() for tensor in live]
        kept.put_back_where(torch.tensor(undo))
        for tensor, expected in zip(live, values if undo else changed, strict=True):
            assert torch.equal(tensor.contiguous().view(torch.uint8), expected.contiguous().view(torch.uint8))
