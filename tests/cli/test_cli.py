"""The command line: what it prints, what it refuses, and the status it ends with."""

import fcntl
import json
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import termios

import pytest
import torch
from PIL import Image

from dalib import __version__
from dalib.cli import main
from dalib.core import checkpoint
from dalib.data.diorama import Diorama
from dalib.errors import DalibError
from dalib.runs.folder import RunFolder
from dalib.runs.loading import load_run
from tests.command import RECIPE, TINY, refusal, run_dalib

SIZES = "data.target.size=[48, 64]"
FDA, DACS, SUPERVISED = "{use: fda}", "{use: dacs}", "{use: supervised}"

# A stack that does not fit, as the override that makes it so, and the message.
STACKS = [
    ([f"strategies=[{SUPERVISED}, {SUPERVISED}]"], "two strategies are named 'supervised'; give one of them its own"),
    (
        [f"strategies=[{FDA}]", SIZES],
        "strategy 'fda' needs streams of one size; it would get source 32x64,",
    ),
    ([f"strategies=[{DACS}]", SIZES], "strategy 'dacs' needs streams of one size; it would get source 32x64, target"),
    ([f"strategies=[{DACS}, {{use: dacs, name: again}}]"], "mixed.image is provided twice: by 'dacs' and by 'again'"),
    (
        ["strategies=[{use: augment, streams: [mixed], flip: 0.5}, {use: dacs}]"],
        "strategy 'augment' needs mixed.image. 'dacs' provides it later in the list; move 'augment' after 'dacs'.",
    ),
    (["strategies=[{use: supervised, streams: [target]}]"], "strategy 'supervised' needs target.label. Labels of the"),
    (
        [f"strategies=[{FDA}]", "data.target=null"],
        "strategy 'fda' needs target.image. There is no target data;",
    ),
    (
        ["strategies=[{use: dacs, ema: 0.9}, {use: dacs, name: b, ema: 0.99}]"],
        "strategies 'dacs' and 'b' want different teachers: decay 0.9 and 0.99. An engine has one teacher;",
    ),
    (
        ["strategies=[{use: supervised, class_weights: [1, 2]}]"],
        "strategy 'supervised': class_weights has 2 values for 19 classes; give one per class.",
    ),
]


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "streets.yaml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A recipe and the folder of its run, by the command itself."""
    folder = tmp_path_factory.mktemp("cli")
    path = folder / "tiny.yaml"
    path.write_text(TINY)
    assert run_dalib("train", path, "--out", folder / "run", "train.steps=3") == 0
    return path, folder / "run"


@pytest.mark.parametrize(("overrides", "message"), STACKS, ids=[m[:40] for _, m in STACKS])
def test_a_stack_that_does_not_fit_is_refused_before_anything_is_written(overrides, message, recipe, capsys):
    assert message in refusal(capsys, "plan", recipe, *overrides)


def test_plan_prints_the_stack_in_order_and_warns_of_a_stale_read_and_an_empty_window(recipe, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    jitter = "{use: augment, streams: [source], color_jitter: [0.1, 0.1, 0.1, 0.1]}"
    assert run_dalib("plan", recipe, f"strategies=[{FDA}, {jitter}, {SUPERVISED}, {DACS}]") == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert printed.index("fda") < printed.index("augment") < printed.index("supervised") < printed.index("dacs")
    assert (
        "warning: strategy 'fda': with beta 0.01, images of 32x64 (H x W) have a window of b = floor(0.01 * 32) = 0"
        in printed
    )
    assert "backward passes per micro-batch: 2; teacher: EMA 0.99, BatchNorm train" in printed
    assert run_dalib("plan", recipe, f"strategies=[{DACS}, {jitter}, {SUPERVISED}]") == 0
    warned = " ".join(capsys.readouterr().out.split())
    assert "warning: strategy 'dacs' reads source.image before 'augment' changes it" in warned


@pytest.fixture
def folders(tmp_path, recipe):
    """A recipe of two folders of pictures with two classes of their own."""
    (tmp_path / "map.yaml").write_text("classes: [land, water]\nids: {0: land, 1: water}\n")
    for part in ("images", "labels"):
        (tmp_path / part).mkdir()
        Image.new("RGB" if part == "images" else "L", (64, 32)).save(tmp_path / part / "0.png")
    of_folder = f"{{use: folder, root: {tmp_path}, label_map: {tmp_path / 'map.yaml'}, size: [32, 64]}}"
    path = tmp_path / "folders.yaml"
    data = [f"{name}: {of_folder}" for name in ("source", "target", "eval")]
    text = recipe.read_text().partition("data:")[0] + f"data: {{{', '.join(data)}}}\ntrain: {{steps: 1}}\n"
    path.write_text(text)
    return path


def test_plan_reads_the_classes_of_the_data_sets(folders, capsys):
    weights = "strategies=[{use: supervised, class_weights: [1, 2]}]"
    assert run_dalib("plan", folders, weights) == 0
    assert not capsys.readouterr().err
    said = refusal(capsys, "plan", folders, "strategies=[{use: supervised, class_weights: [1, 2, 3]}]")
    assert said.startswith("strategy 'supervised': class_weights has 3 values for 2 classes; give one per class.")
    other = "{use: diorama, domain: target, size: [32, 64]}"
    assert run_dalib("plan", folders, f"data.target={other}") == 0  # its labels are not read
    assert "data.source has 2 classes and data.eval has 19" in refusal(capsys, "plan", folders, f"data.eval={other}")


def test_plan_without_the_data_says_that_it_takes_the_default_classes(folders, capsys):
    gone = [f"data.{name}.root=/nowhere" for name in ("source", "target", "eval")]
    assert run_dalib("plan", folders, *gone) == 0
    *absent, said = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in absent] == ["source", "target", "eval"]
    assert said == "No data set is here, so the stack is checked with Cityscapes' 19 classes."
    assert run_dalib("plan", folders, *gone[:2], "strategies=[{use: supervised, class_weights: [1, 2]}]") == 0
    assert [line.split(":")[0] for line in capsys.readouterr().err.splitlines()] == ["source", "target"]


def test_train_leaves_a_run_and_takes_overrides_on_both_sides_of_options(trained):
    _, folder = trained
    results = json.loads((folder / "results.json").read_text())
    assert results["steps"] == 3 and 0 <= results["miou"] <= 1


def test_a_folder_that_holds_a_run_is_refused_and_kept(trained, capsys):
    recipe, folder = trained
    before = (folder / "results.json").read_bytes()
    assert refusal(capsys, "train", recipe, "--out", folder) == (
        f"{folder} already holds a run. Go on with it by --resume, or choose another folder with --out."
    )
    assert (folder / "results.json").read_bytes() == before


def test_resuming_with_another_recipe_is_refused_by_the_entry_that_differs(trained, capsys):
    recipe, folder = trained
    said = refusal(capsys, "train", recipe, "optimizer.lr=0.5", "--out", folder, "--resume")
    assert f"the run in {folder} has optimizer.lr = " in said
    assert "this recipe has 0.5. Resume with the run's own recipe" in said


def test_a_checkpoint_of_another_stack_or_network_is_refused(trained, tmp_path, capsys):
    recipe, run = trained
    folder = tmp_path / "run"  # without recipe.yaml
    shutil.copytree(run / "checkpoints", folder / "checkpoints")
    said = refusal(capsys, "train", recipe, "strategies=[{use: minent}]", "--out", folder, "--resume")
    assert said.startswith("the checkpoint's strategies are supervised; this run's are minent. Resume with the recipe")
    said = refusal(capsys, "train", recipe, "model={use: bisenet}", "--out", folder, "--resume")
    assert said.startswith("the model of the checkpoint is another one: ")


def test_a_plan_fits_a_terminal_and_has_a_line_an_aspect_elsewhere(recipe, capsys, monkeypatch):
    flip = "{use: augment, streams: [source, target], flip: 0.5}"
    said = {}
    for width in ("", "80"):
        monkeypatch.setenv("COLUMNS", width)
        monkeypatch.setenv("FORCE_COLOR", width)
        assert run_dalib("plan", recipe, f"strategies=[{flip}, {SUPERVISED}]") == 0
        said[width] = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    assert max(map(len, said[""].splitlines())) > 80 >= max(map(len, said["80"].splitlines()))
    assert re.search(r"\n {16}target\.", said["80"]) and said["80"].split() == said[""].split()


def test_a_message_breaks_between_words_on_a_terminal(tmp_path, capsys, monkeypatch):
    said = refusal(capsys, "train", tmp_path / "none.yaml")
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 60, 0, 0))
    with open(slave, "w") as terminal, monkeypatch.context() as patch:  # noqa: PTH123
        patch.setattr("sys.stderr", terminal)
        patch.setenv("NO_COLOR", "1")
        assert run_dalib("train", tmp_path / "none.yaml") == 2
        terminal.flush()
        lines = os.read(master, 4096).decode().splitlines()
    os.close(master)
    assert " ".join(lines) == f"dalib: {said}"
    assert len(lines) > 1 and all(len(line) <= 60 or " " not in line for line in lines)


def test_a_damaged_checkpoint_is_named(trained, tmp_path, capsys):
    recipe, _ = trained
    file = tmp_path / "run" / "checkpoints" / "last.pt"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"PK damaged")
    said = refusal(capsys, "train", recipe, "--out", tmp_path / "run", "--resume")
    assert said == (
        f"checkpoint {file} cannot be read: it is damaged, such as cut short while it was copied; copy it again, or "
        "give another one that `dalib train` wrote."
    )


def test_a_run_whose_last_checkpoint_is_damaged_can_be_evaluated_as_of_the_one_before_it(trained, tmp_path, capsys):
    _, run = trained
    folder = RunFolder(tmp_path / "run")
    shutil.copytree(run / "checkpoints", folder.last.parent)
    shutil.copy(folder.last, folder.previous)
    folder.last.write_bytes(b"PK damaged")
    said = refusal(capsys, "evaluate", folder.path)
    assert said.startswith(f"checkpoint {folder.last} cannot be read: ")
    assert said.endswith(f"The one before it can be given in the folder's place: {folder.previous}.")
    assert run_dalib("evaluate", folder.previous) == 0


def test_resuming_a_finished_run_ends_well(trained, capsys):
    recipe, folder = trained
    assert run_dalib("train", recipe, "train.steps=3", "--out", folder, "--resume") == 0
    assert "at step 3" in capsys.readouterr().out


def test_evaluate_scores_a_run_and_a_checkpoint_alike(trained, tmp_path, capsys):
    _, folder = trained
    for number, run in enumerate((folder, folder / "checkpoints" / "last.pt")):
        assert run_dalib("evaluate", run, "--json", tmp_path / f"{number}.json") == 0
    first, second = (json.loads((tmp_path / f"{number}.json").read_text()) for number in range(2))
    assert first == second and first["miou"] == json.loads((folder / "results.json").read_text())["miou"]


@pytest.fixture(scope="module")
def parted(tmp_path_factory):
    """The checkpoint of a run whose student gives class 1 everywhere and whose teacher gives class 3."""
    folder = tmp_path_factory.mktemp("parted")
    (folder / "tiny.yaml").write_text(TINY)
    stack = ("strategies=[{use: supervised}, {use: dacs}]", "train.steps=1")
    assert run_dalib("train", folder / "tiny.yaml", *stack, "--out", folder / "run") == 0
    file = RunFolder(folder / "run").last
    state = checkpoint.read(file)
    for part, number in (("model", 1), ("teacher", 3)):
        state[part]["head.weight"].zero_()
        state[part]["head.bias"].zero_()[number] = 1.0
    checkpoint.write(state, file)
    return file


@pytest.mark.parametrize(("teacher", "number"), [(False, 1), (True, 3)], ids=["student", "teacher"])
def test_evaluate_predict_and_export_take_the_network_that_is_asked_for(teacher, number, parted, tmp_path):
    flag, limit = ["--teacher"] * teacher, "evaluate.limit=1"
    chosen = f"evaluate.model={'teacher' if teacher else 'student'}"
    assert run_dalib("evaluate", parted, chosen, limit, "--json", tmp_path / "scores.json") == 0
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["images"] == 1
    predicted = [i for i, iou in enumerate(scores["iou"].values()) if iou]
    assert predicted == [number]

    Image.new("RGB", (48, 32)).save(tmp_path / "a.png")
    assert run_dalib("predict", parted, tmp_path / "a.png", "--out", tmp_path / "out", *flag) == 0
    with Image.open(tmp_path / "out" / "labels" / "a.png") as label:
        assert set(label.tobytes()) == {number}

    assert run_dalib("export", parted, "--out", tmp_path / "net.pt2", "--size", 32, 64, *flag) == 0
    network = torch.export.load(tmp_path / "net.pt2").module()
    assert network(torch.zeros(1, 3, 32, 64)).argmax(1).unique().tolist() == [number]


@pytest.mark.parametrize("command", [["evaluate"], ["predict", "images", "--out", "out"]], ids=["evaluate", "predict"])
def test_a_run_that_is_none_is_named(command, tmp_path, capsys):
    name, *rest = command
    assert refusal(capsys, name, tmp_path / "none", *rest) == (
        f"{tmp_path / 'none'} does not exist; expected a run folder or a checkpoint."
    )
    assert refusal(capsys, name, tmp_path, *rest).startswith(f"{tmp_path} has no checkpoint; expected ")
    torch.save({"model": {}, "step": 1}, tmp_path / "foreign.pt")
    (tmp_path / "net.pt2").touch()
    said = refusal(capsys, name, tmp_path / "net.pt2", *rest)
    assert said.startswith(f"{tmp_path / 'net.pt2'} is an exported file; expected a run's folder or one of its check")
    said = refusal(capsys, name, tmp_path / "foreign.pt", *rest)
    assert said.startswith(f"{tmp_path / 'foreign.pt'} holds no recipe, so its model is not known;")


def test_evaluating_on_other_classes_is_refused(trained, capsys, monkeypatch):
    monkeypatch.setattr(Diorama, "classes", ("road", "car"), raising=False)
    assert f"{trained[1]} has 19 classes and data.eval has 2; they differ in" in refusal(capsys, "evaluate", trained[1])


def test_plugins_lists_names_with_their_plugin(capsys):
    assert run_dalib("plugins") == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("bundled", "dalib_plugins", "supervised", "bisenet", "diorama"))


def test_an_interrupt_ends_with_130_and_a_stopped_run_with_128_and_its_signal(recipe, monkeypatch, capsys):
    def interrupted(options):
        raise KeyboardInterrupt

    class StoppedError(DalibError):
        signal = 15

    def stopped(options):
        raise StoppedError("stopped at step 1.")

    monkeypatch.setattr("dalib.cli.commands.plan", interrupted)
    assert run_dalib("plan", recipe) == 130
    monkeypatch.setattr("dalib.cli.commands.plan", stopped)
    assert run_dalib("plan", recipe) == 143
    assert capsys.readouterr().err == "dalib: interrupted.\ndalib: stopped at step 1.\n"


def test_a_fault_of_ours_keeps_its_traceback(recipe, monkeypatch):
    def faulty(options):
        raise ZeroDivisionError

    monkeypatch.setattr("dalib.cli.commands.plan", faulty)
    with pytest.raises(ZeroDivisionError):
        run_dalib("plan", recipe)


@pytest.mark.parametrize("arguments", [[], ["trian"], ["train"], ["plan", "r.yaml", "--sede=1"], ["plan", "r", "x"]])
def test_wrong_usage_ends_with_status_2(arguments, capsys):
    status = None
    try:
        status = run_dalib(*arguments)
    except SystemExit as error:
        status = error.code
    assert status == 2 and capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [["--size", "0", "8"], ["--size", "8", "x"], ["--threads", "0"], ["--seconds", "nan"], ["--seconds", "-1"]],
)
def test_a_benchmark_of_nothing_is_wrong_usage(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["bench", "bisenet", *arguments])
    assert ended.value.code == 2 and arguments[0] in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["predict", "run", "images", "--out", "o", "--size", "0", "5"],
        ["predict", "run", "images", "--out", "o", "--size", "5", "x"],
        ["export", "run", "--out", "o.onnx", "--size", "0", "5"],
        ["doctor", "recipe", "--sample", "-1"],
        ["doctor", "recipe", "--sample", "0"],
    ],
)
def test_sizes_and_numbers_of_images_start_at_1(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2 and "expected a whole number of at least 1, got" in capsys.readouterr().err


def test_a_place_that_cannot_hold_the_json_is_refused_before_the_work(trained, tmp_path, monkeypatch, capsys):
    def work(*_, **__):
        raise AssertionError("worked for nothing")

    recipe, run = trained
    for name in ("dalib.deploy.bench.measure", "dalib.cli.commands.examine_new", "dalib.core.engine.Engine.evaluate"):
        monkeypatch.setattr(name, work)
    for command in (["bench", "bisenet", "--device", "cpu"], ["evaluate", run], ["doctor", recipe]):
        assert refusal(capsys, *command, "--json", tmp_path).startswith(f"{tmp_path} is a folder; expected the path")


def test_a_benchmark_takes_options_of_networks(tmp_path, capsys):
    network, size = "timm backbone=mobilenetv3_small_050", ["--size", "32", "64", "--seconds", "0", "--device", "cpu"]
    assert run_dalib("bench", network, *size, "--variants", "eager", "--json", tmp_path / "b.json") == 0
    assert [row["model"] for row in json.loads((tmp_path / "b.json").read_text())["rows"]] == [network]
    assert refusal(capsys, "bench", "timm backbon=x").endswith("Did you mean 'backbone'?")


def test_a_benchmark_takes_runs(trained, tmp_path):
    options = ["--size", "32", "64", "--seconds", "0", "--device", "cpu", "--variants", "eager"]
    assert run_dalib("bench", trained[1], *options, "--json", tmp_path / "b.json") == 0
    (row,) = json.loads((tmp_path / "b.json").read_text())["rows"]
    model = load_run(trained[1], device="cpu").engine.model
    assert row["model"] == str(trained[1]) and row["parameters"] == sum(p.numel() for p in model.parameters())


def test_a_network_that_is_too_deep_for_an_image_is_named_with_its_size(capsys):
    options = ["--size", "32", "64", "--seconds", "0", "--device", "cpu", "--variants", "eager"]
    said = refusal(capsys, "bench", "timm backbone=inception_v3", *options).splitlines()[-1]
    assert said.startswith("timm backbone=inception_v3 fails on an image of 32x64 (HxW): ")
    assert said.endswith(". Give another --size.")


def test_what_a_benchmark_has_measured_is_kept_when_the_next_form_fails(tmp_path, monkeypatch, capsys):
    def fails(*_):
        raise DalibError("no compiler")

    monkeypatch.setattr("dalib.deploy.bench.compiled", fails)
    size = ["--size", "32", "64", "--seconds", "0", "--device", "cpu"]
    assert run_dalib("bench", "bisenet", *size, "--variants", "eager", "compiled", "--json", tmp_path / "b.json") == 2
    printed = capsys.readouterr()
    assert "12.1, 12.1" in printed.out and "dalib: no compiler" in printed.err
    assert [row["variant"] for row in json.loads((tmp_path / "b.json").read_text())["rows"]] == ["eager"]


@pytest.mark.parametrize(
    ("command", "does"),
    {
        "train": "train what a recipe says",
        "evaluate": "score a run",
        "predict": "segment images",
        "plan": "check a recipe's stack",
        "plugins": "list the installed plugins",
        "doctor": "examine a recipe's data",
        "bench": "measure networks",
        "export": "write a run's model",
    }.items(),
)
def test_every_command_has_help_that_says_what_it_does(command, does, capsys):
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    said = capsys.readouterr().out
    assert ended.value.code == 0 and said.startswith(f"usage: dalib {command} ") and f"\n\n{does}" in said


def test_help_and_version_need_no_torch():
    code = (
        "import sys\nfrom dalib.cli import main\ntry: main(['--version'])\n"
        "except SystemExit as e: sys.exit(e.code or ('torch' in sys.modules))"
    )
    environment = {"PYTHONPATH": ":".join(sys.path)}
    ended = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert ended.returncode == 0 and ended.stdout.strip() == f"dalib {__version__}"


def test_a_users_error_leaves_a_real_process_with_status_2_and_one_line(tmp_path):
    environment = {"PYTHONPATH": ":".join(sys.path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "dalib", "train", str(tmp_path / "none.yaml")]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (2, f"dalib: {tmp_path / 'none.yaml'} does not exist.\n")


def test_train_warns_in_one_line_without_the_place_in_the_code(recipe, tmp_path):
    environment = {"PYTHONPATH": ":".join(sys.path), "OMP_NUM_THREADS": "1"}
    command = [
        sys.executable,
        "-m",
        "dalib",
        "train",
        str(recipe),
        f"strategies=[{FDA}, {SUPERVISED}]",
        "train.steps=1",
    ]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path)
    warned = [line for line in ended.stderr.splitlines() if "fda" in line or "arn" in line]
    assert ended.returncode == 0 and len(warned) == 1
    assert warned[0].startswith(
        "warning: strategy 'fda': with beta 0.01, images of 32x64 (H x W) have a window of b = "
    )


def test_export_says_that_the_file_predicts_without_what_is_around_predictions(recipe, tmp_path, capsys):
    strategies = "strategies=[{use: supervised}, {use: crf, cell: 4, reach: 2}]"
    assert run_dalib("train", recipe, "--out", tmp_path / "run", "train.steps=1", strategies) == 0
    capsys.readouterr()
    assert run_dalib("export", tmp_path / "run", "--out", tmp_path / "net.pt2", "--size", 32, 64) == 0
    assert "the run predicts through crf; the file is of the network alone" in capsys.readouterr().err


def test_bench_tells_each_row_as_it_comes(capsys):
    arguments = ("--size", 32, 32, "--seconds", 0, "--variants", "eager", "fused")
    assert run_dalib("bench", "bisenet", *arguments) == 0
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("bisenet, ")]
    assert [line.split(":")[0] for line in told] == ["bisenet, eager", "bisenet, fused"]
