"""What cannot be read, written or trusted: permissions, a full disk, checkpoints of others."""

import errno
import os
from pathlib import Path

import pytest
import torch

from tests.command import refusal, run_dalib
from tests.streets import LABEL, PHOTO, cut, label_map, make_streets, save, write_recipe


@pytest.fixture
def root(tmp_path):
    return make_streets(tmp_path)


def denied(*arguments: object, **options: object) -> None:
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "here")


def full(*arguments: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_an_unreadable_image_is_named(root, capsys, monkeypatch):
    recipe = write_recipe(root)
    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: denied() if path.stem == "a" else read(path))
    said = refusal(capsys, "train", recipe, "--out", root.parent / "run")
    assert (
        said
        == f"{root}/images/train/a.png: cannot be read (Permission denied); check that it exists and its permissions."
    )
    assert not (root.parent / "run").exists()


def test_an_unreadable_folder_is_named(root, capsys, monkeypatch):
    recipe = write_recipe(root)
    monkeypatch.setattr(Path, "iterdir", denied)
    said = refusal(capsys, "train", recipe, "--out", root.parent / "run")
    assert said == f"{root}/images/train: cannot be read (Permission denied); check its permissions."


def test_a_folder_for_the_run_that_takes_nothing_is_named(root, capsys, monkeypatch):
    recipe = write_recipe(root)
    (root.parent / "file").write_text("")
    for out in (root.parent / "file", root.parent / "file" / "run"):
        found = "it is a file" if out.name == "file" else "Not a directory"
        assert refusal(capsys, "train", recipe, "--out", out).startswith(f"{out} cannot hold a run: {found}.")
    out = root.parent / "run"
    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", denied)
        said = refusal(capsys, "train", recipe, "--out", out)
    assert said == f"{out} cannot hold a run: Permission denied. Choose another folder with --out."
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        said = refusal(capsys, "train", recipe, "--out", out)
    assert said.startswith(f"{out}/environment.json cannot be written: No space left on device; it takes ")
    assert not [file for file in out.rglob("*") if file.is_file()]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a run on 19 classes."""
    folder = tmp_path_factory.mktemp("trained")
    for name in ("train/a", "train/b", "val/d"):
        save(folder / "streets" / "images" / f"{name}.png", PHOTO)
        save(folder / "streets" / "labels" / f"{name}.png", LABEL)
    assert run_dalib("train", write_recipe(folder / "streets"), "--out", folder / "run") == 0
    return folder / "run"


TWO_CLASSES = "data={source: {use: folder, root: ROOT, split: train, label_map: map.yaml}, batch_size: 2}"


def test_a_checkpoint_of_other_classes_is_refused_for_scoring_and_a_start_for_training(trained, root, capsys):
    label_map("{classes: [road, car], unknown: ignore}")(root)
    data = TWO_CLASSES.replace("ROOT", str(root))
    said = refusal(capsys, "evaluate", trained, f"data.eval={{use: folder, root: {root}, label_map: map.yaml}}")
    assert said.startswith(f"{trained} has 19 classes and data.eval has 2; they differ in")
    out = root.parent / "run"
    assert run_dalib("train", write_recipe(root), data, f"model.weights={trained}", "--out", out) == 0
    said = capsys.readouterr().err
    assert f"{trained} was trained for 19 classes and this model has 2: the rest of the network starts from it" in said
    assert "4 tensors that depend on the number of classes, such as head.weight, start anew" in said


class Payload:
    def __reduce__(self):
        return os.mkdir, ("hurt",)


def test_a_checkpoint_from_a_stranger_runs_no_code(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"model": Payload(), "step": 1}, "stranger.pt")
    for command in (["evaluate", "stranger.pt"], ["predict", "stranger.pt", "x.png", "--out", "out"]):
        assert refusal(capsys, *command).startswith("checkpoint stranger.pt cannot be read: it holds objects ")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["stranger.pt"]


def test_what_predict_cannot_read_or_write_is_named(trained, root, capsys):
    cut("images/train/a.png")(root)
    out = root.parent / "out"
    assert refusal(capsys, "predict", trained, root / "none", "--out", out).startswith(
        f"{root}/none: expected an image or a folder of images, found nothing; check the path."
    )
    assert "that do not decode" in refusal(capsys, "predict", trained, root / "images/train/a.png", "--out", out)
    (root.parent / "file").write_text("")
    said = refusal(capsys, "predict", trained, root / "images/train/b.png", "--out", root.parent / "file" / "out")
    assert said.startswith(f"{root.parent}/file/out/classes.json cannot be written: Not a directory. Nothing is left ")
