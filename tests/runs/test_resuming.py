"""What a resumed run may change."""

import pytest

from dalib.errors import DalibError
from dalib.files import load_tensors
from dalib.runs.resuming import check_same_recipe
from tests.command import refusal, run_dalib
from tests.streets import LABEL, PHOTO, make_streets, save, write_recipe
from tests.streets import RECIPE as STREETS

RECIPE = """
data:
  source: [{use: gta5, root: /old/gta5, size: [8, 16]}]
  target: {use: folder, root: /old/photos, list: train.txt}
train: {steps: 5}
schedule: {use: poly}
"""


@pytest.fixture
def check(tmp_path):
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return lambda recipe: check_same_recipe(tmp_path, recipe)


def test_data_that_have_moved_are_told_and_go_on(check):
    assert check(RECIPE) == ""
    assert check(RECIPE.replace("/old/gta5", "/new/gta5")) == (
        "data.source.0.root was /old/gta5 and is /new/gta5: the run is the same only if the same files lie there."
    )
    both = check(RECIPE.replace("/old", "/new").replace("steps: 5", "steps: 9"))
    assert "data.target.root was /old/photos and is /new/photos" in both and "follow the new schedule" in both


@pytest.mark.parametrize(
    ("was", "now"),
    [("[8, 16]", "[8, 8]"), ("train.txt", "val.txt"), ("root: /old/photos, ", ""), ("gta5,", "synthia,")],
)
def test_anything_else_of_the_data_is_refused(check, was, now):
    with pytest.raises(DalibError, match="Resume with the run's own recipe"):
        check(RECIPE.replace(was, now))


SOURCE = "split: train, label_map: map.yaml"
MAP = "classes: [even, odd]\nids: {0: even" + "".join(f", {i}: {('even', 'odd')[i % 2]}" for i in range(1, 19)) + "}\n"


@pytest.fixture
def begun(tmp_path, capsys):
    """Return how to resume a run of 2 steps, up to 4: the arguments of the command."""
    root = make_streets(tmp_path)
    (root / "map.yaml").write_text(MAP)
    for name in "ab":
        (root / f"{name}.txt").write_text("train/a\ntrain/b\n# train/c\n")
        save(root.parent / "photos" / f"{name}.png", PHOTO)
    few = "{use: folder, root: ROOT, list: a.txt, label_map: map.yaml}"
    text = STREETS.replace("split: train}", f"{SOURCE}}}", 1).replace("val}", "val, label_map: map.yaml}")
    text = text.replace("root: ROOT, split: train}", f"root: {root.parent / 'photos'}}}\n  streams: {{few: {few}}}", 1)
    recipe = write_recipe(root, text.replace("supervised}", "supervised, streams: [source, few]}, {use: minent}"))
    assert run_dalib("train", recipe, "--out", tmp_path / "run") == 0
    capsys.readouterr()
    return "train", recipe, "--out", tmp_path / "run", "--resume", "train.steps=4"


def swap(root):
    (root / "map.yaml").write_text(MAP.replace("7: odd", "7: even"))


def leave_out(root):
    (root / "map.yaml").write_text(MAP.replace(" 7: odd,", "") + "unknown: ignore\n")


def reorder(root):
    (root / "a.txt").write_text("train/b\ntrain/a\n")


def shorten(root):
    (root / "a.txt").write_text("train/b\n")


def add(root):
    save(root / "images/train/x.png", PHOTO), save(root / "labels/train/x.png", LABEL)


def rename(root):
    for folder in ("images", "labels"):
        (root / folder / "train/c.png").rename(root / folder / "train/z.png")


def add_a_photo(root):
    save(root.parent / "photos/c.png", PHOTO)


def add_to_eval(root):
    save(root / "images/val/x.png", PHOTO), save(root / "labels/val/x.png", LABEL)


CHANGES = {
    swap: "data.source: its label map made odd of the stored value 7 when the run began and makes even of it. ",
    leave_out: "made odd of the stored value 7 when the run began and makes ignored or unknown of it",
    reorder: "data.streams.few: among the files of its 2 images are others, or in another order, than when the",
    shorten: "data.streams.few: its images were 2 when the run began and are 1. ",
    add: "data.source: its images were 3 when the run began and are 4. ",
    rename: "data.source: among the files of its 3 images are others",
    add_a_photo: "data.target: its images were 2 when the run began and are 3. ",
    add_to_eval: "data.eval: its images were 1",
}


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_run_is_not_resumed_on_other_data_under_the_same_recipe(change, begun, tmp_path, capsys):
    change(tmp_path / "streets")
    said = refusal(capsys, *begun)
    assert CHANGES[change] in said and f"put the data of the run in {tmp_path / 'run'} back as they were" in said
    assert load_tensors(tmp_path / "run/checkpoints/last.pt")["step"] == 2


def test_a_run_is_resumed_where_nothing_that_it_reads_has_changed(begun, tmp_path):
    root = tmp_path / "streets"
    (root / "a.txt").write_text("# first\ntrain/a.png\ntrain/b\n")  # the same images
    (root / "map.yaml").write_text(MAP + "# the same\npalette: [[1, 2, 3], [4, 5, 6]]\n")
    save(root / "images/other/x.png", PHOTO), save(root / "labels/other/x.png", LABEL)
    for file in (root / "labels").rglob("*.png"):
        file.touch()
    assert run_dalib(*begun) == 0
    assert load_tensors(tmp_path / "run/checkpoints/last.pt")["step"] == 4


def test_a_run_of_before_the_data_were_kept_is_resumed(begun, tmp_path, monkeypatch):
    monkeypatch.setattr("dalib.runs.folder.RunFolder.newest", without_data(tmp_path / "run/checkpoints/last.pt"))
    assert run_dalib(*begun) == 0


def without_data(file):
    state = load_tensors(file)
    assert {"data.source", "data.target", "data.streams.few", "data.eval"} == state.pop("data").keys()
    return lambda folder: state
