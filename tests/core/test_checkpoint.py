"""A checkpoint is read whole or not at all, fits or says why it does not, and runs no code."""

import os
import pickle
import zipfile
from functools import partial
from pathlib import Path

import pytest
import torch

from dalib import Engine, create_strategy, hookimpl
from dalib.core import checkpoint
from dalib.errors import CheckpointError, DalibError
from tests.equal import assert_equal
from tests.tiny import Counter, Entropy, Supervised, tiny_batch, tiny_model


def test_a_checkpoint_holds_tensors_and_primitives_and_the_networks_own_keys(tmp_path):
    strategies = [create_strategy(name) for name in ("supervised", "dacs")]
    engine = Engine(tiny_model(), [*strategies, Counter()], device="cpu")
    engine.step(tiny_batch())
    engine.save(tmp_path / "c.pt")
    state = torch.load(tmp_path / "c.pt", weights_only=True)
    tiny_model().load_state_dict(state["model"])
    assert state["stack"][0] == ["supervised", "supervised"] and state["step"] == 1
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
        "the checkpoint's modules are ['critical/domain']; this run's are ['critical/other'].",
    ),
    (
        lambda: small([Critical()]),
        lambda: small([Critical(inputs=2)]),
        "module 'critical/domain' of the checkpoint has weight of shape (1, 1); this run's is (1, 2).",
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


def test_a_stack_without_strategies_is_told_from_one_that_has_some(tmp_path):
    small().save(tmp_path / "c.pt")
    torch.save(checkpoint.read(tmp_path / "c.pt") | {"stack": []}, tmp_path / "c.pt")
    with pytest.raises(CheckpointError, match="the checkpoint's strategies are none; this run's are supervised"):
        small().load(tmp_path / "c.pt")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("PytorchStreamReader failed reading zip archive: failed finding central directory"), "damaged"),
        (EOFError(), "damaged, such as cut short while it was copied; copy it again, or give another one that "),
        (RuntimeError("Unsupported global: GLOBAL posix.mkdir"), "objects besides tensors, which could run code; give"),
        (PermissionError(13, "Permission denied"), "Permission denied; check its permissions and the disk."),
    ],
    ids=["torch", "no text", "objects", "the system"],
)
def test_what_is_wrong_with_a_file_is_one_sentence_without_torchs_own_text(error, said, tmp_path, monkeypatch):
    def fails(*args, **options):
        raise error

    small().save(tmp_path / "c.pt")
    monkeypatch.setattr(torch, "load", fails)
    with pytest.raises(CheckpointError) as refused:
        checkpoint.read(tmp_path / "c.pt")
    told = str(refused.value)
    assert told.startswith(f"checkpoint {tmp_path / 'c.pt'} cannot be read: ") and said in told and told.endswith(".")
    assert "Pytorch" not in told and "global" not in told and len(told.splitlines()) == 1


def test_a_checkpoint_with_something_foreign_under_a_right_key_is_named(tmp_path):
    small().save(path := tmp_path / "c.pt")
    torch.save(checkpoint.read(path) | {"skipped": {}}, path)
    with pytest.raises(CheckpointError, match=rf"^{path} holds what no run writes \(KeyError: 'in_a_row'\)"):
        small().load(path)


def test_an_error_in_what_a_checkpoint_holds_names_file_and_cause():
    said = r"^c\.pt holds what no run writes \(KeyError: 'seed'\); it cannot be used"
    with pytest.raises(CheckpointError, match=said), checkpoint.taken_from(Path("c.pt")):
        raise KeyError("seed")


def test_the_checkpoint_before_goes_where_it_is_asked_to(tmp_path):
    paths = last, previous = tmp_path / "last.pt", tmp_path / "previous.pt"
    for step in (1, 2):
        checkpoint.write({"model": {}, "step": step}, last, previous)
    assert [checkpoint.read(path)["step"] for path in paths] == [2, 1]


class Payload:
    def __reduce__(self):
        return os.mkdir, ("hacked",)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: None, "checkpoint {path} does not exist."),
        (lambda path: path.mkdir(), "checkpoint {path} does not exist."),
        (
            lambda path: path.write_bytes(b"no checkpoint"),
            "checkpoint {path} cannot be read: it is no checkpoint of torch",
        ),
        (lambda path: path.write_bytes(b""), "checkpoint {path} cannot be read: "),
        (lambda path: torch.save([1, 2], path), "{path} is not a checkpoint of a run; expected the keys 'model' and"),
        (lambda path: torch.save({"a": 1}, path), "{path} is not a checkpoint of a run; expected the keys 'model' and"),
        (
            lambda path: torch.save({"model": {}}, path),
            "{path} is not a checkpoint of a run; expected the keys 'model'",
        ),
        (
            lambda path: torch.save({"step": 1}, path),
            "{path} is not a checkpoint of a run; expected the keys 'model' and",
        ),
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
    assert str(caught.value).startswith(message.format(path=path)) and "\n" not in str(caught.value)
    assert not (tmp_path / "hacked").exists()


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_a_checkpoint_cut_short_is_named(share, tmp_path):
    path = tmp_path / "c.pt"
    small().save(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(CheckpointError, match=r"c\.pt cannot be read: "):
        small().load(path)


def test_no_flipped_bit_is_read_as_another_state(tmp_path):
    path = tmp_path / "c.pt"
    small().save(path)
    data, whole = path.read_bytes(), checkpoint.read(path)
    with zipfile.ZipFile(path) as archive:
        directory = archive.start_dir  # where a mark of a folder would make torch read nothing at all
    told = 0
    for position in {*range(0, directory, 31), *range(directory, len(data))}:
        path.write_bytes(data[:position] + bytes([data[position] ^ 16]) + data[position + 1 :])
        try:
            read = checkpoint.read(path)
        except CheckpointError as error:
            assert str(error).startswith(f"checkpoint {path} cannot be read: ")
            told += 1
        else:  # padding between the entries, and dates
            assert_equal(read, whole)
    assert told > 1000


def test_a_checkpoint_is_an_archive_that_others_read_and_what_they_save_is_read(tmp_path):
    path = tmp_path / "c.pt"
    small().save(path)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
    torch.save(torch.load(path, weights_only=True), tmp_path / "edited.pt")
    assert_equal(checkpoint.read(tmp_path / "edited.pt"), checkpoint.read(path))


class Full:
    """A file on a disk with room for so many bytes."""

    def __init__(self, file, room):
        self.file = file
        self.room = room

    def write(self, data):
        self.room -= len(data)
        if self.room < 0:
            raise OSError(28, "No space left on device")
        return self.file.write(data)

    def __getattr__(self, name):
        return getattr(self.file, name)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.99, 1])
def test_a_disk_that_fills_leaves_the_old_checkpoint_whole_and_is_said(share, tmp_path, monkeypatch):
    path = tmp_path / "c.pt"
    engine = small()
    engine.save(path)
    before = path.read_bytes()
    room = int(share * (len(before) - 1))
    engine.step(tiny_batch())
    opened = Path.open
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", lambda self, mode: Full(opened(self, mode), room))
        with pytest.raises(DalibError, match=r"c\.pt cannot be written: No space left .* stands there is whole\."):
            engine.save(path)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["c.pt"]
    assert checkpoint.read(path)["step"] == 0
