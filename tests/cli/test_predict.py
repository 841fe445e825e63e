"""``dalib predict``: the size that a run's network sees, several inputs, and what cannot be read."""

import pytest
from PIL import Image

import dalib.evaluation.predict
from dalib.cli import main
from tests.command import TINY, refusal, run_dalib


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("predict")
    (folder / "tiny.yaml").write_text(TINY)
    assert run_dalib("train", folder / "tiny.yaml", "--out", folder / "run", "train.steps=1") == 0
    for name in ("photos/a.jpg", "b.jpg"):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        Image.effect_noise((256, 128), 80).convert("RGB").save(path)
    return folder


@pytest.mark.parametrize(
    ("options", "seen"),
    [([], (32, 64)), (["--size", "native"], (128, 256)), (["--size", "16", "32"], (16, 32))],
    ids=["the run's size", "native", "a given size"],
)
def test_the_network_sees_the_size_that_the_run_was_scored_at_unless_another_is_asked_for(
    options, seen, trained, tmp_path, monkeypatch
):
    sizes, original = [], dalib.evaluation.predict.Protocol.predictor

    def watched(protocol, predict):
        return original(protocol, lambda images: (sizes.append(tuple(images.shape[2:])), predict(images))[1])

    monkeypatch.setattr(dalib.evaluation.predict.Protocol, "predictor", watched)
    assert run_dalib("predict", trained / "run", trained / "b.jpg", "--out", tmp_path / "out", *options) == 0
    assert sizes == [seen]
    with Image.open(tmp_path / "out" / "labels" / "b.png") as label:
        assert label.size == (256, 128)


def test_it_takes_several_inputs_and_tells_how_many_and_how_fast(trained, tmp_path, capsys):
    assert run_dalib("predict", trained / "run", trained / "photos", trained / "b.jpg", "--out", tmp_path / "o") == 0
    assert {p.name for p in (tmp_path / "o").glob("**/*_blend.jpg")} == {"a_blend.jpg", "b_blend.jpg"}
    told = capsys.readouterr().out
    assert told.startswith(f"2 images in {tmp_path / 'o'} (") and " images/s)" in told


def test_what_a_system_or_an_editor_left_in_a_folder_is_no_picture_of_the_users(trained, tmp_path, capsys):
    photo = (trained / "b.jpg").read_bytes()
    for name in ("IMG.jpg", ".ipynb_checkpoints/IMG-checkpoint.jpg"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(photo)
    (tmp_path / "in" / "._IMG.jpg").write_bytes(b"Mac OS X")
    assert run_dalib("predict", trained / "run", tmp_path / "in", "--out", tmp_path / "o") == 0
    assert [path.name for path in (tmp_path / "o").glob("**/*_blend.jpg")] == ["IMG_blend.jpg"]
    assert not capsys.readouterr().err


def test_a_bad_picture_is_skipped_and_named_at_the_end_with_status_3(trained, tmp_path, capsys):
    (tmp_path / "bad.jpg").write_bytes(b"nothing")
    assert run_dalib("predict", trained / "run", tmp_path / "bad.jpg", trained / "b.jpg", "--out", tmp_path / "o") == 3
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(f"skipped: {tmp_path / 'bad.jpg'}: expected a whole ")
    assert (tmp_path / "o" / "b_blend.jpg").is_file()
    said = refusal(capsys, "predict", trained / "run", tmp_path / "bad.jpg", "--out", tmp_path / "none")
    assert said.startswith(f"{tmp_path / 'bad.jpg'}: expected a whole ")


def test_an_input_that_is_missing_is_refused_before_the_others_are_predicted(trained, tmp_path, capsys):
    said = refusal(capsys, "predict", trained / "run", trained / "b.jpg", tmp_path / "c.jpg", "--out", tmp_path / "o")
    assert said.startswith(f"{tmp_path / 'c.jpg'}: expected an image or a folder of images, found nothing")
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("size", [["5"], ["natve"], ["5", "6", "7"], ["native", "5"]])
def test_a_size_is_two_numbers_or_native(size, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["predict", "run", "images", "--out", "o", "--size", *size])
    assert ended.value.code == 2 and "argument --size: expected" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["bn_adapt", "tent", "crf"])
def test_strategies_around_predictions_are_added_as_for_an_evaluation(name, trained, tmp_path):
    wanted = f"strategies=[{{use: supervised}}, {{use: {name}}}]"
    assert run_dalib("predict", trained / "run", trained / "b.jpg", "--out", tmp_path / "plain") == 0
    assert run_dalib("predict", trained / "run", trained / "b.jpg", wanted, "--out", tmp_path / "around") == 0
    plain, around = ((tmp_path / folder / "labels" / "b.png").read_bytes() for folder in ("plain", "around"))
    assert plain != around


def test_a_change_of_the_stack_alone_is_nothing_to_predict(trained, tmp_path, capsys):
    assert refusal(capsys, "predict", trained / "run", "strategies=[]", "--out", tmp_path / "out") == (
        "strategies=[] changes the stack; name the images or folders to predict, too."
    )
