"""A checkpoint goes on bit for bit, or says why it does not, before anything has changed."""

import os
import pickle
from functools import partial

import pytest
import torch

from dalib import Engine, Strategy, create_strategy, hookimpl
from dalib.errors import CheckpointError
from tests.tiny import Entropy, Supervised, TinyData, tiny_batch, tiny_model

SIZE = (34, 40)  # a discriminator needs 32 pixels a side
DATA = {"source": TinyData(10, SIZE), "target": TinyData(7, SIZE, seed=1), "batch_size": 4}

JITTER = {"color_jitter": [0.5, 0.5, 0.5, 0.05], "blur": {"kernel": 3, "sigma": [0.2, 0.8]}}
ALONE = {
    "supervised": {"ohem": 0.7, "min_kept": 16},
    "augment": {"streams": ["source", "target"], "crop": [32, 36], "scale": [0.5, 2.0], "flip": 0.5, **JITTER},
    "fda": {"beta": [0.01, 0.05], "entropy": {"eta": 2.0}},
    "adversarial": {"weight": 0.001},
    "dacs": {"threshold": 0.3, "ema": 0.9},
    "minent": {"weight": 0.01},
}
FULL = ["augment", "fda", "supervised", "adversarial", "dacs", "minent"]


class Counter(Strategy):
    """State of its own that decides the training."""

    @hookimpl
    def setup(self, ctx):
        self.count = 0

    @hookimpl
    def loss(self, step):
        return {"x": step.logits("source").pow(2).mean() * self.count}

    @hookimpl
    def post_step(self, step):
        self.count += 1

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state):
        self.count = state["count"]


def make(names, **options):
    """Return an engine with dropout and these bundled strategies; ``supervised`` always among them."""
    names = names if "supervised" in names else [*names, "supervised"]
    options = {"optimizer": partial(torch.optim.SGD, lr=0.05, momentum=0.9)} | options
    strategies = [create_strategy(name, **ALONE[name]) for name in names]
    return Engine(
        tiny_model(dropout=0.2),
        [*strategies, Counter()],
        schedule=lambda t: (1 - t / 10) ** 0.9,
        device="cpu",
        **options,
    )


def assert_equal(one, other, path=""):
    """Compare nested states bit for bit."""
    assert type(one) is type(other), path
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), path
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), path
        for key in one:
            assert_equal(one[key], other[key], f"{path}/{key}")
    elif isinstance(one, list):
        assert len(one) == len(other), path
        for index, pair in enumerate(zip(one, other, strict=True)):
            assert_equal(*pair, f"{path}/{index}")
    else:
        assert one == other, path


def check_resume(tmp_path, names, workers=0, **options):
    whole, first, second = (make(names, **options) for _ in range(3))
    whole.fit(**DATA, steps=3)
    first.fit(**DATA, steps=2, workers=workers)
    first.save(tmp_path / "c.pt")
    second.load(tmp_path / "c.pt")
    assert second.index == 2
    second.fit(**DATA, steps=3, workers=workers)
    assert_equal(whole.state_dict(), second.state_dict())


@pytest.mark.parametrize("name", sorted(ALONE))
def test_each_bundled_strategy_resumes_bit_for_bit(name, tmp_path):
    check_resume(tmp_path, [name])


@pytest.mark.parametrize(
    "options",
    [{"workers": 2}, {"accumulate": 2}, {"precision": "bf16"}],
    ids=["workers", "accumulate", "bf16"],
)
def test_the_full_stack_resumes_bit_for_bit(options, tmp_path):
    check_resume(tmp_path, FULL, **options)


def test_the_scaler_of_fp16_resumes_bit_for_bit(tmp_path):
    check_resume(tmp_path, ["minent", "dacs"], precision="fp16")  # the discriminator takes minutes in it on a CPU


def test_saving_changes_nothing(tmp_path):
    plain, saved = make(FULL), make(FULL)
    plain.fit(**DATA, steps=2)
    saved.fit(**DATA, steps=1)
    saved.save(tmp_path / "c.pt")
    saved.fit(**DATA, steps=2)
    assert_equal(plain.state_dict(), saved.state_dict())


def test_a_checkpoint_holds_tensors_and_primitives_and_the_networks_own_keys(tmp_path):
    engine = make(["adversarial", "dacs"])
    engine.step(tiny_batch(size=SIZE))
    engine.save(tmp_path / "c.pt")
    state = torch.load(tmp_path / "c.pt", weights_only=True)
    tiny_model().load_state_dict(state["model"])
    assert state["stack"][0] == ["adversarial", "adversarial"] and state["step"] == 1
    assert state["strategies"]["counter"] == {"count": 1}


def small(strategies=None, **options):
    options = {"device": "cpu", "optimizer": partial(torch.optim.SGD, lr=0.1, momentum=0.9)} | options
    return Engine(options.pop("model", None) or tiny_model(), strategies or [Supervised()], **options)


class WithTeacher(Supervised):
    teaching: bool = True

    @hookimpl
    def setup(self, ctx):
        if self.teaching:
            ctx.teacher()


class Critical(Supervised):
    critic: str = "domain"
    inputs: int = 1

    @hookimpl
    def setup(self, ctx):
        ctx.critic(self.critic, torch.nn.Linear(self.inputs, 1), partial(torch.optim.SGD, lr=1.0))


MISFITS = [
    (
        lambda: small([Supervised(), Entropy()]),
        lambda: small([Entropy(), Supervised()]),
        "the checkpoint's strategies are supervised, entropy; this run's are entropy, supervised. Resume with the "
        "recipe of the run, or start a new run.",
    ),
    (
        lambda: small([Supervised(name="s")]),
        lambda: small([Entropy(name="s")]),
        "the checkpoint's strategies are s (supervised); this run's are s (entropy).",
    ),
    (
        lambda: small([Critical()]),
        lambda: small([Critical(critic="other")]),
        "the checkpoint's critics are ['critical/domain']; this run's are ['critical/other'].",
    ),
    (
        lambda: small([Critical()]),
        lambda: small([Critical(inputs=2)]),
        "critic 'critical/domain' of the checkpoint has weight of shape (1, 1); this run's is (1, 2).",
    ),
    (
        lambda: small([WithTeacher()]),
        lambda: small([WithTeacher(teaching=False)]),
        "one of checkpoint and run has a teacher, the other has none.",
    ),
    (
        small,
        lambda: small(model=tiny_model(num_classes=7)),
        "the model of the checkpoint has head.weight of shape (5, 8, 1, 1); this run's is (7, 8, 1, 1). Do the class "
        "counts differ?",
    ),
    (
        small,
        lambda: small(optimizer=partial(torch.optim.Adam, lr=0.1)),
        "the optimiser of the model is another one: the checkpoint's has 12 parameters with dampening,",
    ),
    (
        small,
        lambda: small(precision="fp16"),
        "one of checkpoint and run is in fp16, the other is not; resume in the precision of the run.",
    ),
]


@pytest.mark.parametrize(("saved", "loading", "message"), MISFITS, ids=[m[-1][:45] for m in MISFITS])
def test_what_does_not_fit_is_said_and_nothing_changes(saved, loading, message, tmp_path):
    engine = saved()
    engine.step(tiny_batch())
    engine.save(tmp_path / "c.pt")
    other = loading()
    before = {k: v.clone() for k, v in other.model.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        other.load(tmp_path / "c.pt")
    assert str(caught.value).startswith(message)
    assert_equal(before, dict(other.model.state_dict()))
    assert other.index == 0


def test_another_network_is_refused_with_what_is_absent_and_unknown(tmp_path):
    small().save(tmp_path / "c.pt")
    model = tiny_model()
    model.extra = torch.nn.Linear(1, 1)
    with pytest.raises(CheckpointError, match=r"2 tensors are absent \(extra.bias, extra.weight .*0 are unknown"):
        small(model=model).load(tmp_path / "c.pt")


class Payload:
    def __reduce__(self):
        return os.mkdir, ("hacked",)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: None, "checkpoint {path} does not exist."),
        (lambda path: path.mkdir(), "checkpoint {path} does not exist."),
        (lambda path: path.write_bytes(b"no checkpoint"), "checkpoint {path} cannot be read: "),
        (lambda path: path.write_bytes(b""), "checkpoint {path} cannot be read: "),
        (lambda path: torch.save([1, 2], path), "{path} is not a checkpoint of a run; expected the keys 'model' and"),
        (lambda path: torch.save({"a": 1}, path), "{path} is not a checkpoint of a run; expected the keys 'model' and"),
        (
            lambda path: torch.save({"model": {}, "step": 1}, path),
            "the checkpoint is not one of a training run: it lacks",
        ),
        (lambda path: torch.save({"model": Payload(), "step": 1}, path), "checkpoint {path} cannot be read: "),
        (lambda path: path.write_bytes(pickle.dumps(Payload(), protocol=2)), "checkpoint {path} cannot be read: "),
    ],
)
def test_a_file_that_is_no_checkpoint_is_named_and_runs_no_code(write, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "c.pt"
    write(path)
    with pytest.raises(CheckpointError) as caught:
        small().load(path)
    assert str(caught.value).startswith(message.format(path=path))
    assert not (tmp_path / "hacked").exists()


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_a_checkpoint_cut_short_is_named(share, tmp_path):
    path = tmp_path / "c.pt"
    small().save(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(CheckpointError, match=r"c\.pt cannot be read: "):
        small().load(path)


def test_a_failed_write_leaves_the_old_checkpoint_whole(tmp_path, monkeypatch):
    path = tmp_path / "c.pt"
    engine = small()
    engine.save(path)
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    engine.step(tiny_batch())
    with pytest.raises(OSError, match="No space left"):
        engine.save(path)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["c.pt"]
