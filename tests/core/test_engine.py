"""The engine does what a plain loop does, whatever the stack."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dalib import Batch, DalibError, Engine, Strategy, Stream, hookimpl
from dalib.data.bad_items import BadItems, ItemError
from dalib.errors import DataError, StackError, StrategyError
from tests.equal import assert_same
from tests.tiny import Entropy, Supervised, TinyData, TinyModel, tiny_batch, tiny_model


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)


def adam(parameters):
    return torch.optim.Adam(parameters, lr=0.01)


def engine(strategies, model=None, **options):
    options = {"optimizer": sgd, "device": "cpu", "schedule": lambda step: (1 - step / 10) ** 0.9} | options
    return Engine(model or tiny_model(), strategies, **options)


def parameters_of(engine):
    return {k: v.clone() for k, v in engine.model.state_dict().items()}


class Noise(Strategy):
    """Draws random numbers everywhere, reads only the source and has a dropout forward first."""

    requires = frozenset({"source.image"})
    outputs = frozenset({"source.logits"})

    @hookimpl
    def pre_batch(self, step):
        torch.rand(7)

    @hookimpl
    def loss(self, step):
        return {"noise": (step.logits("source") * torch.rand(1)).mean()}

    @hookimpl
    def post_step(self, step):
        torch.randn(3)


class Jitter(Strategy):
    """Replaces the source by a noisy one."""

    requires = frozenset({"source.image"})
    writes = frozenset({"source.image"})

    @hookimpl
    def pre_batch(self, step):
        image = step.batch["source"].image
        step.batch.write("source", image=(image + 0.1 * torch.rand_like(image)).clamp(0, 1))


class Fool(Strategy):
    """A least-squares critic on softmax outputs."""

    outputs = frozenset({"target.logits"})

    @hookimpl
    def setup(self, ctx):
        self.critic = ctx.critic("domain", nn.Conv2d(ctx.num_classes, 1, 3), adam)

    @hookimpl
    def loss(self, step):
        return {"fool": self.critic(step.logits("target").softmax(1)).pow(2).mean()}

    @hookimpl
    def critic_loss(self, step):
        outputs = {s: self.critic(step.logits(s).softmax(1)) for s in ("source", "target")}
        return {"source": outputs["source"].pow(2).mean(), "target": (outputs["target"] - 1).pow(2).mean()}


def seg_loss(outputs, label):
    total = 0.0
    for name in ("logits", "aux.1"):
        values = F.cross_entropy(outputs[name], label, ignore_index=255, reduction="sum")
        total = total + values / (label != 255).sum()
    return total


def test_source_only_equals_a_plain_loop():
    mine, model = engine([Supervised()]), tiny_model()
    optimizer = sgd(model.parameters())
    for index in range(4):
        batch = tiny_batch(index)
        terms = mine.step(batch)
        optimizer.param_groups[0]["lr"] = 0.1 * (1 - index / 10) ** 0.9
        optimizer.zero_grad()
        loss = seg_loss(model(batch["source"].image, outputs=True), batch["source"].label)
        loss.backward()
        optimizer.step()
        torch.testing.assert_close(terms["supervised/loss"], loss.detach(), rtol=1e-6, atol=1e-6)
    assert_same(parameters_of(mine), dict(model.state_dict()), 1e-6)


def test_adversarial_equals_a_plain_loop():
    mine, model = engine([Supervised(), Fool(weight=0.5)]), tiny_model()
    critic = copy.deepcopy(mine.modules["fool/domain"].module).requires_grad_(True)
    of_model, of_critic = sgd(model.parameters()), adam(critic.parameters())
    for index in range(4):
        batch = tiny_batch(index)
        mine.step(batch)
        for optimizer, lr in ((of_model, 0.1), (of_critic, 0.01)):
            optimizer.param_groups[0]["lr"] = lr * (1 - index / 10) ** 0.9
            optimizer.zero_grad()
        source = model(batch["source"].image, outputs=True)
        target = model(batch["target"].image, outputs=True)
        fool = critic(target["logits"].softmax(1)).pow(2).mean()
        (seg_loss(source, batch["source"].label) + 0.5 * fool).backward()
        of_critic.zero_grad()
        on_source = critic(source["logits"].detach().softmax(1)).pow(2).mean()
        on_target = (critic(target["logits"].detach().softmax(1)) - 1).pow(2).mean()
        (on_source + on_target).backward()
        of_model.step()
        of_critic.step()
    assert_same(parameters_of(mine), dict(model.state_dict()), 1e-6)
    assert_same(dict(mine.modules["fool/domain"].module.state_dict()), dict(critic.state_dict()), 1e-6)


def test_critics_compute_in_channels_last_like_the_model():
    mine = engine([Fool()])
    for weight in (mine.modules["fool/domain"].module.weight, mine.model.body[0].weight):
        assert weight.is_contiguous(memory_format=torch.channels_last)


def test_the_critic_gets_no_gradient_from_loss_and_the_model_none_from_critic_loss():
    class OnlyJudges(Fool):
        @hookimpl
        def loss(self, step):
            return {}

    fools, judges = engine([Fool(weight=1e9)]), engine([OnlyJudges(name="fool")])
    fools.step(tiny_batch())
    judges.step(tiny_batch())
    for mine, theirs in zip(*(e.modules["fool/domain"].module.parameters() for e in (fools, judges)), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad)  # a weight of 1e9 in `loss` did not reach it
    assert all(p.grad is None for p in judges.model.parameters())
    assert not any(p.requires_grad for p in fools.modules["fool/domain"].module.parameters())


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_grouped_and_joint_backward_give_the_same_gradients(precision):
    class Undeclared(Entropy):
        outputs = None

    grouped = engine([Supervised(), Entropy(name="e", weight=0.3)], precision=precision)
    joint = engine([Supervised(), Undeclared(name="e", weight=0.3)], precision=precision)
    assert [len(g) for g in grouped.stack.groups] == [1, 1]
    assert [len(g) for g in joint.stack.groups] == [2]
    for index in range(3):
        grouped.step(tiny_batch(index))
        joint.step(tiny_batch(index))
    assert_same(parameters_of(grouped), parameters_of(joint), 1e-6 if precision == "fp32" else 2e-3)


def test_a_strategy_of_weight_0_that_draws_and_reads_the_source_changes_no_bit_of_the_rest():
    def train(stack):
        mine = engine(stack, tiny_model(dropout=0.3))
        terms = [mine.step(tiny_batch(i)) for i in range(3)]
        return parameters_of(mine), terms

    plain, terms = train([Jitter(), Supervised(), Entropy()])
    noisy, noisy_terms = train([Jitter(), Noise(name="first", weight=0.0), Supervised(), Entropy(), Noise(weight=0.0)])
    assert_same(plain, noisy)
    assert all(torch.equal(v, b[k]) for a, b in zip(terms, noisy_terms, strict=True) for k, v in a.items())


def test_the_global_generator_is_left_as_it_was():
    mine = engine([Jitter(), Supervised()], tiny_model(dropout=0.3))
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    mine.step(tiny_batch())
    assert torch.equal(torch.rand(3), expected)


def test_two_micro_batches_equal_the_mean_of_their_losses():
    mine, model = engine([Supervised()], schedule=None), tiny_model()
    optimizer = sgd(model.parameters())
    halves = [tiny_batch(1), tiny_batch(2)]
    terms = mine.step(*halves)
    losses = [seg_loss(model(b["source"].image, outputs=True), b["source"].label) for b in halves]
    (sum(losses) / 2).backward()
    optimizer.step()
    assert_same(parameters_of(mine), dict(model.state_dict()), 1e-6)
    torch.testing.assert_close(terms["supervised/loss"], (sum(losses) / 2).detach())


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_forwards_run_in_the_precision_asked_for(precision):
    class Reads(Strategy):
        @hookimpl
        def loss(self, step):
            self.dtype = step.logits("source").dtype
            return {}

    engine([reads := Reads()], precision=precision).step(tiny_batch())
    assert reads.dtype == {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def test_one_train_mode_forward_a_stream_and_step():
    calls = []
    model = tiny_model()
    model.body.register_forward_hook(lambda *_: calls.append(model.training))
    engine([Supervised(), Entropy(), Fool(), Noise()], model).step(tiny_batch())
    assert calls == [True, True]


def test_fp16_scaler_is_updated_once_a_step_and_every_optimiser_sees_one_scale():
    mine = engine([Supervised(), Fool()], precision="fp16")
    scaler, updates = mine.precision.scaler, []
    update = scaler.update
    scaler.update = lambda: (updates.append(scaler.get_scale()), update())
    scaler._init_scale = 256.0  # low enough that nothing overflows
    scaler._growth_interval = 1  # a second update within a step would double the scale twice
    for index in range(3):
        mine.step(tiny_batch(index))
    assert len(updates) == 3
    assert updates == [updates[0], 2 * updates[0], 4 * updates[0]]


def test_fp16_critic_takes_the_same_steps_as_in_fp32():
    weights = []
    for precision in ("fp32", "fp16"):
        mine = engine([Supervised(), Fool()], precision=precision)
        mine.precision.scaler._init_scale = 256.0
        before = mine.modules["fool/domain"].module.weight.detach().clone()
        mine.step(tiny_batch())
        weights.append(mine.modules["fool/domain"].module.weight.detach() - before)
    torch.testing.assert_close(weights[0], weights[1], rtol=0.02, atol=1e-4)


@pytest.mark.parametrize("weight", [1.0, 0.25])
def test_a_critic_takes_the_sum_of_its_terms_whatever_the_strategys_weight(weight):
    class Judges(Strategy):
        @hookimpl
        def setup(self, ctx):
            self.critic = ctx.critic("c", nn.Linear(1, 1), lambda p: torch.optim.SGD(p, lr=1.0))

        @hookimpl
        def critic_loss(self, step):
            verdict = self.critic(torch.full((1, 1), 3.0)).sum()
            return {"one": verdict, "two": 2 * verdict}

    mine = engine([Judges(weight=weight)], schedule=None)
    critic = mine.modules["judges/c"].module
    before = critic.weight.item(), critic.bias.item()
    mine.step(tiny_batch())
    assert (critic.weight.item(), critic.bias.item()) == pytest.approx((before[0] - 9.0, before[1] - 3.0), abs=1e-5)


def test_unless_told_otherwise_an_engine_has_seed_0_the_published_rate_and_the_classes_of_cityscapes():
    class Draws(Strategy):
        @hookimpl
        def setup(self, ctx):
            self.classes, self.drawn = ctx.classes, torch.rand(1).item()

    (of_default, of_0, of_1) = stacks = [Draws(), Draws(), Draws()]
    engines = [
        Engine(tiny_model(num_classes=19), [strategy], device="cpu", **options)
        for strategy, options in zip(stacks, ({}, {"seed": 0}, {"seed": 1}), strict=True)
    ]
    assert of_default.drawn == of_0.drawn != of_1.drawn
    Engine(tiny_model(num_classes=19), [other := Draws(name="other")], device="cpu")
    assert other.drawn != of_0.drawn
    assert [group["lr"] for group in engines[0].optimizer.param_groups] == [2.5e-4]
    assert of_default.classes[0] == "road" and len(of_default.classes) == 19
    Engine(tiny_model(), [strategy := Draws()], device="cpu", classes=["a", "b", "c", "d", "e"])
    assert strategy.classes == ("a", "b", "c", "d", "e")


def test_a_network_brings_its_own_loss_and_the_one_that_is_given_goes_before():
    class Brings(TinyModel):
        def segmentation_loss(self, outputs, label, weight=None, *, across):
            return outputs["logits"].mean() * 0 + 7

    def other(outputs, label, weight=None, *, across):
        return outputs["logits"].mean() * 0 + 8

    assert engine([Supervised()], Brings()).step(tiny_batch())["supervised/loss"] == 7
    assert engine([Supervised()], Brings(), loss=other).step(tiny_batch())["supervised/loss"] == 8


def test_an_optimiser_without_gradient_is_not_stepped():
    class Idle(Strategy):
        works: tuple[bool, ...] = ()

        @hookimpl
        def setup(self, ctx):
            self.critic = ctx.critic("idle", nn.Linear(1, 1), lambda p: torch.optim.SGD(p, lr=1.0, weight_decay=0.5))

        @hookimpl
        def critic_loss(self, step):
            return {"x": self.critic(torch.ones(1, 1)).sum()} if self.works[step.index] else {}

    mine = engine([Supervised(), Idle(works=(False, True, False))])
    weight, moved = mine.modules["idle/idle"].module.weight, []
    for index in range(3):
        before = weight.clone()
        mine.step(tiny_batch(index))
        moved.append(not torch.equal(before, weight))
    assert moved == [False, True, False]


def test_what_is_logged_a_micro_batch_is_averaged_and_what_is_logged_a_step_stays():
    class Logs(Strategy):
        @hookimpl
        def pre_batch(self, step):
            step.log("micro", torch.tensor(step.micro))

        @hookimpl
        def post_step(self, step):
            step.log("step", torch.tensor(7))

    terms = engine([Supervised(), Logs()], accumulate=3).step(*(tiny_batch(i) for i in range(3)))
    assert (terms["logs/micro"], terms["logs/step"]) == (1.0, 7.0)


def test_a_stream_that_nobody_reads_is_not_loaded_and_leaves_the_training_as_it_is():
    class Forbidden(TinyData):
        def __getitem__(self, index):
            raise AssertionError("loaded")

    alone, beside = engine([Supervised()]), engine([Supervised()])
    alone.fit(TinyData(), steps=2, batch_size=2)
    beside.fit(TinyData(), Forbidden(), steps=2, batch_size=2)
    assert_same(parameters_of(alone), parameters_of(beside))
    with pytest.raises(ItemError, match="AssertionError: loaded"):
        engine([Supervised(), Entropy()]).fit(TinyData(), Forbidden(), steps=1, batch_size=2)


def test_a_batch_without_a_valid_pixel_gives_exactly_0_and_changes_nothing_but_batch_norm():
    mine = engine([Supervised()], optimizer=lambda p: torch.optim.SGD(p, lr=1.0))
    batch = tiny_batch()
    ignored = torch.full_like(batch["source"].label, 255)
    before = copy.deepcopy(dict(mine.model.named_parameters()))
    terms = mine.step(Batch({"source": Stream(batch["source"].image, ignored)}))
    assert terms["supervised/loss"] == 0
    assert all(torch.equal(p, before[n]) for n, p in mine.model.named_parameters())


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-4), ("fp16", 0.02)])
def test_the_models_gradient_is_clipped_after_unscaling_and_no_critics(precision, tolerance):
    def plain(parameters):
        return torch.optim.SGD(parameters, lr=1.0)

    class Judges(Fool):
        @hookimpl
        def setup(self, ctx):
            self.critic = ctx.critic("domain", nn.Conv2d(ctx.num_classes, 1, 3), plain)

    mine = engine([Supervised(weight=50.0), Judges()], clip=0.01, optimizer=plain, schedule=None, precision=precision)
    mine.precision.scaler._init_scale = 64.0  # low enough that nothing overflows
    trained = [mine.model, mine.modules["judges/domain"].module]
    before = [[p.detach().clone() for p in module.parameters()] for module in trained]
    mine.step(tiny_batch())
    of_model, of_critic = (
        torch.cat([(p - b).detach().flatten() for p, b in zip(module.parameters(), old, strict=True)]).norm().item()
        for module, old in zip(trained, before, strict=True)
    )
    assert of_model == pytest.approx(0.01, rel=tolerance)
    assert of_critic > 0.1


def test_reading_an_undeclared_forward_is_refused():
    class Sly(Strategy):
        outputs = frozenset({"source.logits"})

        @hookimpl
        def loss(self, step):
            return {"x": step.logits("target").mean()}

    with pytest.raises(DalibError, match=r"'sly' reads target\.logits in loss but declares outputs"):
        engine([Sly()]).step(tiny_batch())


def test_reading_the_student_in_pre_batch_is_refused():
    class Early(Strategy):
        @hookimpl
        def pre_batch(self, step):
            step.logits("source")

    with pytest.raises(DalibError, match="'early' reads student outputs in pre_batch"):
        engine([Early()]).step(tiny_batch())


def test_an_undeclared_write_is_refused():
    class Scribbler(Strategy):
        @hookimpl
        def pre_batch(self, step):
            step.batch.write("source", image=step.batch["source"].image * 0)

    with pytest.raises(DalibError, match=r"'scribbler' changed source.image without declaring it"):
        engine([Scribbler()]).step(tiny_batch())


def test_an_error_in_a_hook_names_the_strategy_the_hook_and_the_step():
    class Broken(Strategy):
        @hookimpl
        def loss(self, step):
            raise ZeroDivisionError("oops")

    with pytest.raises(StrategyError) as caught:
        engine([Broken()]).step(tiny_batch())
    assert str(caught.value) == "strategy 'broken' in its hook 'loss' at step 1 raised ZeroDivisionError: oops"
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_a_users_error_in_a_hook_stays_one():
    class Asks(Strategy):
        @hookimpl
        def pre_batch(self, step):
            raise DataError("give me colours.")

    with pytest.raises(DataError) as caught:
        engine([Asks()]).step(tiny_batch())
    assert str(caught.value) == "give me colours. It was raised by strategy 'asks' in its hook 'pre_batch' at step 1."


def test_a_users_error_below_other_predictors_is_said_to_come_from_one_strategy():
    class Wraps(Strategy):
        fails: bool = False

        @hookimpl
        def predictor(self, model, predict):
            def wrapped(images):
                if self.fails:
                    raise DataError("give me colours.")
                return predict(images)

            return wrapped

    mine = engine([Supervised(), Wraps(name="inner", fails=True), Wraps(name="outer")])
    with pytest.raises(DataError) as caught:
        mine.predict(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))
    assert str(caught.value) == "give me colours. It was raised by strategy 'inner' in its hook 'predictor'."


def raising(hook):
    """Return a strategy whose hook (or what the hook returns) raises."""

    def fails(*arguments, **options):
        raise KeyError("oops")

    bodies = {
        "state_dict": lambda self: fails(),
        "setup": hookimpl(lambda self, ctx: fails()),
        "sampler": hookimpl(lambda self, stream, dataset: fails),
        "predictor": hookimpl(lambda self, model, predict: fails),
        "teardown": hookimpl(lambda self: fails()),
        **{name: hookimpl(lambda self, step: fails()) for name in ("pre_batch", "loss", "critic_loss", "post_step")},
    }
    return type("Fails", (Strategy,), {"load_state_dict": lambda self, state: None, hook: bodies[hook]})()


@pytest.mark.parametrize(
    "hook",
    ["setup", "sampler", "pre_batch", "loss", "critic_loss", "post_step", "predictor", "teardown", "state_dict"],
)
def test_a_fault_in_any_hook_names_it(hook):
    with pytest.raises(StrategyError) as caught:
        mine = engine([Supervised(), raising(hook), Entropy()])
        mine.fit(TinyData(), TinyData(), steps=1, batch_size=2, eval=FiveClasses())
        mine.state_dict()
        mine.close()
    assert f"strategy 'fails' in its hook {hook!r}" in str(caught.value) and "KeyError: 'oops'" in str(caught.value)
    assert isinstance(caught.value.__cause__, KeyError)


@pytest.mark.parametrize(
    ("result", "message"), [(1.0, "must return a dict"), ({"x": torch.ones(2)}, "must be a scalar")]
)
def test_a_loss_that_is_no_mapping_of_scalars_is_refused(result, message):
    class Wrong(Strategy):
        @hookimpl
        def loss(self, step):
            return result

    with pytest.raises(DalibError, match=message):
        engine([Wrong()]).step(tiny_batch())


def test_a_write_drops_what_the_teacher_said_of_the_old_images():
    seen = []

    class Reads(Strategy):
        writes = frozenset({"target.image"})

        @hookimpl
        def setup(self, ctx):
            ctx.teacher()

        @hookimpl
        def pre_batch(self, step):
            seen.append(step.teacher_logits("target"))
            assert step.teacher_logits("target") is seen[-1]
            step.batch.write("target", image=step.batch["target"].image * 0)
            seen.append(step.teacher_logits("target"))

    engine([Reads()]).step(tiny_batch())
    assert not torch.equal(*seen)


def test_fit_trains_up_to_the_step_and_evaluates():
    mine = engine([Supervised(), Entropy(weight=0.1)])
    result = mine.fit(TinyData(), TinyData(seed=1), steps=3, batch_size=4, eval=FiveClasses())
    assert mine.index == 3
    assert 0 <= result.miou <= 1


@pytest.mark.parametrize("progress", [False, True])
def test_fit_shows_a_bar_where_it_is_asked_to(progress, capsys):
    engine([Supervised()]).fit(TinyData(), steps=2, batch_size=4, progress=progress)
    assert ("100%" in capsys.readouterr().out) == progress


@pytest.mark.parametrize("rank", [0, 1])
def test_of_several_ranks_rank_0_alone_shows_a_bar_and_saves(rank, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("dalib.ranks.rank", lambda: rank)
    mine = engine([Supervised()])
    mine.fit(TinyData(), steps=1, batch_size=4, progress=True)
    mine.save(tmp_path / "c.pt")
    assert ("100%" in capsys.readouterr().out) == (tmp_path / "c.pt").exists() == (rank == 0)


def test_data_are_read_in_this_process_unless_workers_are_asked_for():
    class Seen(TinyData):
        here = 0

        def __getitem__(self, index):
            Seen.here += 1
            return super().__getitem__(index)

    read = []
    for options in ({}, {"workers": 0}, {"workers": 1}):
        Seen.here = 0
        engine([Supervised()]).fit(Seen(), steps=1, batch_size=2, **options)
        read.append(Seen.here)
    Seen.here = 0
    list(engine([Supervised()]).iterate(Seen(), steps=1, batch_size=2))
    assert read[0] == read[1] == Seen.here > read[2]


def test_items_that_cannot_be_read_are_left_out_where_that_is_asked():
    class Broken(TinyData):
        def __getitem__(self, index):
            if index == 3:
                raise DataError("3 is broken.")
            return super().__getitem__(index)

    told = []
    for _ in engine([Supervised()]).iterate(
        Broken(), steps=5, batch_size=2, bad_items=BadItems(1, lambda *what: told.append(what))
    ):
        pass
    assert len(told) == 1 and "3 is broken." in str(told[0])


def test_a_target_that_is_read_and_not_given_is_named():
    with pytest.raises(StackError, match=r"'entropy' needs target\.image\. There is no target data"):
        engine([Supervised(), Entropy()]).fit(TinyData(), steps=1, batch_size=2)


def test_evaluating_takes_the_options_of_dalib_evaluate():
    assert engine([Supervised()]).evaluate(FiveClasses(4), limit=1).confusion.sum() == 12 * 16


def test_predicting_takes_bytes_to_the_networks_range_and_gives_train_ids_as_bytes():
    class Looks(Strategy):
        @hookimpl
        def predictor(self, model, predict):
            return lambda images: (self.seen.append(images), predict(images))[1]

    looks = Looks()
    looks.seen = []
    images = torch.tensor([0, 51, 255], dtype=torch.uint8).repeat(1, 3, 8, 4)
    mine = engine([looks])
    ids = mine.predict(images)
    torch.testing.assert_close(looks.seen[0], images / 255, rtol=0, atol=1e-7)
    assert ids.dtype == torch.uint8 and torch.equal(ids, mine.model.eval()(images / 255).argmax(1).to(torch.uint8))


def test_each_part_of_a_step_has_its_time():
    class Asks(Supervised):
        @hookimpl
        def setup(self, ctx):
            ctx.teacher()

    mine = engine([Asks(name="asks")])
    mine.fit(TinyData(), steps=1, batch_size=2, eval=FiveClasses())
    parts = {"data", "asks", "forward (student)", "backward", "optimizer", "teacher", "evaluation", "other"}
    assert mine.clock.totals().keys() == parts


class FiveClasses(TinyData):
    classes = ("a", "b", "c", "d", "e")


def test_resuming_equals_not_stopping(tmp_path):
    def fresh():
        return engine([Jitter(), Supervised(), Fool(weight=0.1)], tiny_model(dropout=0.2), accumulate=2)

    data = {"source": TinyData(), "target": TinyData(7, seed=1), "batch_size": 4}
    whole = fresh()
    whole.fit(**data, steps=6)
    first = fresh()
    first.fit(**data, steps=3)
    first.save(tmp_path / "c.pt")
    second = fresh()
    second.load(tmp_path / "c.pt")
    second.fit(**data, steps=6)
    assert_same(parameters_of(whole), parameters_of(second))
    states = [e.modules["fool/domain"].module.state_dict() for e in (whole, second)]
    assert_same(*map(dict, states))


class Grouped(TinyModel):
    """Its head learns ten times as fast."""

    def parameter_groups(self):
        head = list(self.head.parameters())
        body = [p for p in self.parameters() if all(p is not h for h in head)]
        return [{"params": body}, {"params": head, "lr_scale": 10.0}]


def test_a_networks_parameter_groups_scale_the_learning_rate_under_the_schedule():
    torch.manual_seed(0)
    grouped = engine([Supervised()], Grouped(), optimizer=lambda p: torch.optim.SGD(p, lr=0.1))
    plain = engine([Supervised()], optimizer=lambda p: torch.optim.SGD(p, lr=0.1))
    before = parameters_of(plain)
    grouped.step(tiny_batch())
    plain.step(tiny_batch())
    for name, value in parameters_of(plain).items():
        factor = 10 if name.startswith("head.") else 1
        if value.is_floating_point() and "running" not in name:
            moved = parameters_of(grouped)[name] - before[name]
            torch.testing.assert_close(moved, factor * (value - before[name]), rtol=1e-4, atol=1e-6)
    grouped.step(tiny_batch(1))
    rates = [group["lr"] for group in grouped.optimizer.param_groups]
    assert rates == pytest.approx([0.1 * 0.9**0.9, 0.9**0.9])


def test_a_parameter_in_two_groups_is_refused_by_name():
    class Twice(Grouped):
        def parameter_groups(self):
            return [{"params": list(self.parameters())}, {"params": [self.head.weight]}]

    with pytest.raises(DalibError, match=r"parameter_groups of Twice name 'head.weight' twice"):
        engine([Supervised()], Twice())


def test_the_model_may_give_a_plain_module_without_wrapper():
    assert isinstance(engine([Supervised()]).model, TinyModel)


def test_a_model_of_which_nothing_would_be_trained_is_refused():
    engine = Engine(tiny_model().requires_grad_(False), [Supervised()], device="cpu")
    with pytest.raises(StackError, match=r"no parameter of the model requires a gradient, .* fuse\(\)"):
        engine.step(tiny_batch())


class Adapts(Strategy):
    """Adds to the head's bias with every batch, in what it is given alone; it sees which images come when."""

    adapts = True

    @hookimpl
    def setup(self, ctx):
        self.seen, self.student, self.alike = [], ctx.model, []

    @hookimpl
    def predictor(self, model, predict):
        self.alike.append(model is not self.student and not model.training)

        def adapt(images):
            self.seen.append(images)
            with torch.no_grad():
                model.head.bias[0] += 1
            return predict(images)

        return adapt


def test_a_predictor_that_adapts_gets_a_copy_of_its_own_for_each_evaluation():
    strategy = Adapts()
    built = engine([Supervised(), strategy])
    plain = built.model.state_dict()["head.bias"].clone()
    images = torch.randint(0, 256, (1, 3, 12, 16), dtype=torch.uint8)
    predict = built.predictor(built.model)
    first, second = (predict(images.float() / 255)[:, 0] for _ in range(2))
    torch.testing.assert_close(second - first, torch.ones_like(first))  # what predicts is the copy
    again = built.predictor(built.model)(images.float() / 255)[:, 0]
    torch.testing.assert_close(again, first, rtol=0, atol=0)
    assert strategy.alike == [True, True] and torch.equal(built.model.state_dict()["head.bias"], plain)


def test_images_reach_a_predictor_that_adapts_in_their_order():
    strategy, data = Adapts(), TinyData(5)
    engine([Supervised(), strategy]).evaluate(data, batch_size=2, workers=1)
    assert torch.equal(torch.cat(strategy.seen), data.images.float() / 255)


def test_draws_differ_by_rank_and_are_the_same_each_time(monkeypatch):
    def drawn(rank):
        monkeypatch.setattr("dalib.ranks.rank", lambda: rank)
        values = []

        class Draws(Supervised):
            @hookimpl
            def pre_batch(self, step):
                values.append(torch.rand(()).item())

        engine = Engine(tiny_model(dropout=0.5), [Draws()], device="cpu")
        return [values, *(float(engine.step(tiny_batch())["draws/loss"]) for _ in range(2))]

    first, second = drawn(0), drawn(1)
    assert drawn(0) == first and drawn(1) == second and drawn(2)[0] != second[0]
    assert all(a != b for a, b in zip(first[0], second[0], strict=True)) and first[1] != second[1]  # dropout's, too
