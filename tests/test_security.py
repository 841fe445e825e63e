"""Files from strangers run no code, read nothing outside their folders and write nothing outside of --out."""

import io
import os
import sys
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from dalib import create_dataset
from dalib.discovery import SAFE, default_registry
from dalib.errors import DataError, RegistryError
from dalib.runs.loading import load_run
from tests.command import RECIPE, TINY, refusal, run_dalib


class Payload:
    """Runs a command when it is unpickled."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A recipe and the folder of its run."""
    folder = tmp_path_factory.mktemp("security")
    path = folder / "tiny.yaml"
    path.write_text(TINY)
    assert run_dalib("train", path, "--out", folder / "run", "train.steps=1", "evaluate.limit=1") == 0
    return path, folder / "run"


@pytest.fixture
def safe_ends(monkeypatch):
    """Undo what --safe does to the process."""
    monkeypatch.setenv(SAFE, "0")
    yield
    monkeypatch.undo()
    default_registry.cache_clear()


def changed(run, path, **entries):
    """Write the checkpoint of a run with other entries."""
    state = torch.load(run / "checkpoints" / "last.pt", weights_only=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state | entries, path)
    return path


@pytest.mark.parametrize("archive", [True, False], ids=["archive", "old format"])
@pytest.mark.parametrize("command", ["evaluate", "predict", "weights", "resume"])
def test_a_payload_in_a_checkpoint_is_not_run(command, archive, trained, tmp_path, capsys):
    recipe, _ = trained
    marker, file = tmp_path / "ran", tmp_path / "run" / "checkpoints" / "last.pt"
    file.parent.mkdir(parents=True)
    torch.save({"model": Payload(f"touch {marker}"), "step": 1}, file, _use_new_zipfile_serialization=archive)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    arguments = {
        "evaluate": ["evaluate", file],
        "predict": ["predict", file, tmp_path / "a.png", "--out", tmp_path / "out"],
        "weights": ["train", recipe, f"model.weights={file}", "--out", tmp_path / "new"],
        "resume": ["train", recipe, "--out", tmp_path / "run", "--resume"],
    }
    said = refusal(capsys, *arguments[command])
    assert str(file) in said and ("cannot be read" in said or "could run code" in said)
    assert not marker.exists() and not (tmp_path / "out").exists()


def test_a_compressed_checkpoint_is_not_unfolded(trained, tmp_path, capsys):
    file, bomb = changed(trained[1], tmp_path / "last.pt"), tmp_path / "bomb.pt"
    with zipfile.ZipFile(file) as whole, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as packed:
        for name in whole.namelist():
            packed.writestr(name, whole.read(name))
    assert "it is compressed, which torch never does" in refusal(capsys, "evaluate", bomb)


@pytest.mark.parametrize(
    "entries",
    [{"classes": 3}, {"palette": [[1, 2]]}, {"recipe": 7}, {"recipe": "- 1"}, {"model": [1]}, {"optimizer": {}}],
    ids=str,
)
def test_a_checkpoint_with_the_right_keys_and_the_wrong_values_is_named(entries, trained, tmp_path, capsys):
    file = changed(trained[1], tmp_path / "last.pt", **entries)
    assert str(file) in refusal(capsys, "evaluate", file)


@pytest.mark.parametrize("entries", [{"model": [1]}, {"optimizer": {}}, {"seconds": "long"}, {"bad_items": 3}], ids=str)
def test_a_run_with_wrong_values_in_its_checkpoint_is_not_gone_on_with(entries, trained, tmp_path, capsys):
    run = tmp_path / "run"
    changed(trained[1], run / "checkpoints" / "last.pt", **entries)
    before = (run / "checkpoints" / "last.pt").read_bytes()
    said = refusal(capsys, "train", trained[0], "--out", run, "train.steps=1", "evaluate.limit=1", "--resume")
    assert f"{run} holds what no run writes" in said
    assert (run / "checkpoints" / "last.pt").read_bytes() == before


def test_loading_a_run_reads_no_other_weights_and_downloads_none(trained, tmp_path):
    recipe = TINY.replace("{use: tiny}", "{use: tiny, weights: /none/such.pt}")
    loaded = load_run(changed(trained[1], tmp_path / "last.pt", recipe=recipe), device="cpu")
    assert loaded.recipe.model["weights"] is None
    asked = RECIPE.replace("{use: bisenet}", "{use: bisenet, pretrained: true, backbone_weights: /none/such.pt}")
    with pytest.raises(Exception, match="the model of the checkpoint is another one"):  # made, without a download
        load_run(changed(trained[1], tmp_path / "last.pt", recipe=asked), device="cpu")


def test_a_recipe_that_explodes_ends_with_a_message(tmp_path, capsys):
    lines = ["a0: &a0 [1, 2, 3, 4, 5, 6, 7, 8, 9]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30)]
    (tmp_path / "bomb.yaml").write_text("\n".join(lines))
    assert "its aliases unfold to more than 100,000 characters" in refusal(capsys, "train", tmp_path / "bomb.yaml")


@pytest.mark.parametrize("name", ["../secret", "../secret.png", "images/../../secret", "{outside}"])
def test_a_list_cannot_name_images_outside_of_its_data_set(name, tmp_path):
    for file in ("set/images/a.png", "secret.png"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / file)
    name = name.format(outside=tmp_path / "secret.png")
    (tmp_path / "mine.txt").write_text(f"a\n{name}\n")
    with pytest.raises(DataError, match=r"mine\.txt: expected names of images, found .* which is not there"):
        create_dataset("folder", root=str(tmp_path / "set"), list=str(tmp_path / "mine.txt"))


def test_no_prediction_is_written_outside_of_its_folder(trained, tmp_path):
    for name in ("a..png", "b...png", "deep/c..png", "d\\..\\..\\up.png", "..png", "deep/...png"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        encoded = io.BytesIO()
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(encoded, "PNG")
        (tmp_path / "in" / name).write_bytes(encoded.getvalue())
    before = set(tmp_path.rglob("*"))
    assert run_dalib("predict", trained[1], tmp_path / "in", "--out", tmp_path / "here" / "out") == 0
    written = {path for path in set(tmp_path.rglob("*")) - before if path.is_file()}
    assert len(written) == 13 and all(path.is_relative_to(tmp_path / "here" / "out") for path in written)


@pytest.mark.usefixtures("safe_ends")
def test_safe_refuses_a_recipes_module_wherever_the_recipe_stands(trained, tmp_path, capsys):
    recipe, run = trained
    image = tmp_path / "a.png"
    Image.new("RGB", (8, 8)).save(image)
    for command in (
        ["train", recipe, "--out", tmp_path / "run"],
        ["plan", recipe],
        ["doctor", recipe],
        ["evaluate", run],
        ["predict", run, image, "--out", tmp_path / "out"],
        ["export", run, "--out", tmp_path / "model.onnx"],
    ):
        said = refusal(capsys, *command, "--safe")
        assert "plugin module 'tests.tiny_plugin' is not one of dalib's own, and --safe (DALIB_SAFE=1)" in said
    assert set(tmp_path.iterdir()) == {image}


@pytest.mark.usefixtures("safe_ends")
def test_safe_imports_no_installed_plugin_but_dalibs_own(tmp_path, monkeypatch, capsys):
    (tmp_path / "stranger.py").write_text("raise SystemExit('imported')")
    information = tmp_path / "stranger-1.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: stranger\nVersion: 1\n")
    (information / "entry_points.txt").write_text("[dalib]\nstranger = stranger\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("dalib.cli.commands.default_registry", default_registry)
    assert run_dalib("plugins", "--safe") == 0
    listed = capsys.readouterr().out
    assert "stranger" in listed and "left out by --safe" in listed and "supervised" in listed
    assert "stranger" not in sys.modules
    with pytest.raises(RegistryError, match="Plugin 'stranger' failed to load: left out by --safe"):
        default_registry().get("strategy", "theirs")
