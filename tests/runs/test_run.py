"""A run from a recipe to its folder, on small streets."""

import io
import json
import os
import shutil
import signal
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from rich.console import Console

import dalib.data.diorama as diorama
import dalib.runs.run
from dalib import DalibError, Engine, create_dataset, make_recipe, run
from dalib.errors import DataError
from dalib.evaluation.result import Result
from dalib.runs.loading import load_run
from dalib.runs.signals import InterruptedRunError
from dalib.yaml import parse_yaml
from tests.command import TINY

STEP = Engine.step
STACK = """\
strategies:
  - {use: augment, streams: [source], flip: 0.5, color_jitter: [0.5, 0.5, 0.5, 0.05]}
  - {use: fda, beta: 0.05}
  - {use: supervised}
  - {use: dacs, threshold: 0.5}
"""


def recipe(**train):
    value = parse_yaml(TINY.replace("strategies:\n  - {use: supervised}\n", STACK))
    value["train"] |= {"steps": 4, **train}
    return make_recipe(value)


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def final_state(folder):
    state = torch.load(folder / "checkpoints" / "last.pt", weights_only=True)
    return {f"{part}/{key}": value for part in ("model", "teacher") for key, value in (state[part] or {}).items()}


def assert_same_run(one, other):
    """Compare what a run came to, apart from how long it took."""
    ours, theirs = final_state(one), final_state(other)
    assert all(torch.equal(value, theirs[key]) for key, value in ours.items())
    timeless = [
        [{k: v for k, v in line.items() if k not in ("seconds", "images_per_second")} for line in metrics(folder)]
        for folder in (one, other)
    ]
    assert timeless[0] == timeless[1]
    results = [json.loads((folder / "results.json").read_text()) for folder in (one, other)]
    assert all(results[0][key] == results[1][key] for key in ("miou", "iou", "steps"))
    panels = [{p.name: p.read_bytes() for p in (folder / "panels").iterdir()} for folder in (one, other)]
    assert panels[0] == panels[1]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    return folder, run(recipe(eval_every=2), folder)


def test_a_run_leaves_everything_in_its_folder(whole):
    folder, result = whole
    results = json.loads((folder / "results.json").read_text())
    assert results["miou"] == pytest.approx(result.miou) and results["steps"] == 4 and results["seconds"] > 0
    assert list(results["iou"]) == list(result.classes)
    assert [line["step"] for line in metrics(folder)] == [1, 2, 3, 4]
    assert [line["step"] for line in metrics(folder) if "eval/miou" in line] == [2, 4]
    assert metrics(folder)[-1]["eval/miou"] == results["miou"] and "supervised/source" in metrics(folder)[-1]
    assert {"supervised/source", "dacs/mixed", "dacs/confident", "lr", "seconds"} <= metrics(folder)[0].keys()
    assert {p.name for p in (folder / "checkpoints").iterdir()} == {"last.pt", "best.pt"}
    assert "src=" in (folder / "report.html").read_text() and "http://" not in (folder / "report.html").read_text()
    assert len(list((folder / "panels").glob("*.png"))) == 2
    assert json.loads((folder / "environment.json").read_text())["packages"]["torch"].startswith("2.")


def test_its_resolved_recipe_trains_the_same_again(whole, tmp_path):
    folder, _ = whole
    run(make_recipe(parse_yaml((folder / "recipe.yaml").read_text())), tmp_path / "again")
    assert_same_run(folder, tmp_path / "again")


class StoppedError(Exception):
    pass


@contextmanager
def broken_off(at):
    """Let the body's run break off before the step with this index."""

    def breaks(self, *batches):
        if self.index == at:
            raise StoppedError
        return STEP(self, *batches)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(StoppedError):
        patch.setattr(Engine, "step", breaks)
        yield


@pytest.mark.parametrize("at", [0, 1, 3])
def test_a_run_that_was_broken_off_resumes_to_the_same_end(at, whole, tmp_path):
    folder, _ = whole
    with broken_off(at):
        run(recipe(eval_every=2, checkpoint_every=2), tmp_path / "broken")
    run(recipe(eval_every=2, checkpoint_every=2), tmp_path / "broken", resume=True)
    assert_same_run(folder, tmp_path / "broken")


def test_an_evaluation_on_the_way_that_was_broken_off_is_made_up_for(whole, tmp_path, monkeypatch):
    def breaks(self, *arguments, **options):
        raise StoppedError

    with monkeypatch.context() as patch, pytest.raises(StoppedError):
        patch.setattr(Engine, "evaluate", breaks)
        run(recipe(eval_every=2), tmp_path / "broken")
    run(recipe(eval_every=2), tmp_path / "broken", resume=True)
    assert_same_run(whole[0], tmp_path / "broken")
    best = [torch.load(at / "checkpoints" / "best.pt", weights_only=True) for at in (whole[0], tmp_path / "broken")]
    assert best[0]["step"] == best[1]["step"]


def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one_to_the_same_end(whole, tmp_path, caplog):
    folder = tmp_path / "run"
    with broken_off(3):
        run(recipe(eval_every=2, checkpoint_every=1), folder)
    last = folder / "checkpoints" / "last.pt"
    data = last.read_bytes()
    last.write_bytes(data[:1000] + bytes([data[1000] ^ 1]) + data[1001:])
    assert metrics(folder)[-1]["step"] == 3
    run(recipe(eval_every=2, checkpoint_every=1), folder, resume=True)
    assert f"checkpoint {last} cannot be read" in caplog.text and "previous.pt, of step 2, is whole" in caplog.text
    assert_same_run(whole[0], folder)


def test_checkpoints_are_kept_as_the_recipe_says_and_what_was_killed_half_written_goes(tmp_path):
    folder = tmp_path / "run"
    with broken_off(3):
        run(recipe(keep_every=2, eval_every=3, checkpoint_every=3), folder)
    leftovers = [
        folder / ".recipe.yaml.1.tmp",
        folder / "checkpoints" / ".last.pt.1.tmp",
        folder / "panels" / ".a.2.tmp",
    ]
    leftovers[2].parent.mkdir()
    for path in leftovers:
        path.touch()
    run(recipe(keep_every=2, eval_every=3, checkpoint_every=3), folder, resume=True)
    steps = {p.name: torch.load(p, weights_only=True)["step"] for p in (folder / "checkpoints").iterdir()}
    assert steps == {"last.pt": 4, "previous.pt": 3, "best.pt": 4, "step_000002.pt": 2, "step_000004.pt": 4}
    assert not any(path.exists() for path in leftovers)


def test_resuming_for_more_steps_says_that_the_schedule_changes(tmp_path):
    said = io.StringIO()
    run(recipe(steps=1), tmp_path / "run")
    for again in (1, 2):
        run(recipe(steps=again), tmp_path / "run", resume=True, console=Console(file=said))
        told = "train.steps was 1 and is 2: learning rates follow the new schedule." in said.getvalue()
        assert told == (again == 2)


@pytest.mark.parametrize(("last", "step"), [(0.5, 2), (0.9, 5)])
def test_the_best_checkpoint_is_that_of_the_highest_score_the_last_included_across_a_resume(
    last, step, tmp_path, monkeypatch
):
    scores = iter([0.2, 0.6, 0.4, 0.5, last, 0.7])  # after steps 1 to 4, at the end, and at that of one step more

    def scored(self, dataset, **options):
        miou = next(scores)
        right, wrong = int(100 * miou), 100 - int(100 * miou)  # of two classes, one absent
        return Result(confusion=torch.tensor([[right, wrong], [0, 0]]), classes=("a", "b"), counted=(0,))

    monkeypatch.setattr(Engine, "evaluate", scored)
    options = {"steps": 5, "eval_every": 1, "checkpoint_every": 1}
    judged = recipe(**options)
    judged.evaluate.validators = []
    with broken_off(3):
        run(judged, tmp_path / "run")
    console = Console(file=io.StringIO(), width=200)
    run(judged, tmp_path / "run", resume=True, console=console)
    best = torch.load(tmp_path / "run" / "checkpoints" / "best.pt", weights_only=True)
    score = max(0.6, last)
    assert (best["step"], best["candidates"]["mious"][-1]) == (step, pytest.approx(score))
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["best"] == {"miou": pytest.approx(score), "step": step}
    assert f"best: mIoU {100 * score:.1f} % at step {step}, " in console.file.getvalue()
    assert f"best at step {step}" in (tmp_path / "run" / "report.html").read_text()
    judged.train.steps = 6
    run(judged, tmp_path / "run", resume=True)
    assert torch.load(tmp_path / "run" / "checkpoints" / "best.pt", weights_only=True)["step"] == (
        5 if last > 0.7 else 6
    )


def test_a_run_that_was_broken_off_before_its_first_checkpoint_starts_again(whole, tmp_path):
    folder = tmp_path / "run"
    with broken_off(2):
        run(recipe(log_every=3), folder)
    shutil.rmtree(folder / "checkpoints")  # as if it had been killed in between
    (folder / "environment.json").unlink()
    run(recipe(eval_every=2), folder, resume=True)
    assert_same_run(whole[0], folder)
    assert (folder / "environment.json").exists()
    assert "eval_every: 2" in (folder / "recipe.yaml").read_text()


def test_a_finished_run_is_completed_by_resuming_it(whole, tmp_path):
    first = run(recipe(), tmp_path / "run")
    before = metrics(tmp_path / "run")
    for name in ("results.json", "report.html"):
        (tmp_path / "run" / name).unlink()
    again = run(recipe(), tmp_path / "run", resume=True)
    assert torch.equal(first.confusion, again.confusion)
    assert metrics(tmp_path / "run") == before
    assert (tmp_path / "run" / "results.json").exists() and (tmp_path / "run" / "report.html").exists()


def test_resuming_without_a_checkpoint_starts_at_step_0(tmp_path):
    run(recipe(steps=1), tmp_path / "run", resume=True)
    assert [line["step"] for line in metrics(tmp_path / "run")] == [1]


@pytest.mark.parametrize(("number", "name"), [(signal.SIGTERM, "SIGTERM"), (signal.SIGINT, "Ctrl-C")])
@pytest.mark.parametrize("times", [1, 2])
def test_a_signal_ends_the_step_saves_and_says_how_to_go_on(number, name, times, whole, tmp_path, monkeypatch, capfd):
    folder = tmp_path / "run"

    def signalled(self, *batches):
        if self.index == 1 and not (folder / "checkpoints").exists():
            for _ in range(times):  # a key pressed twice
                os.kill(os.getpid(), number)
        return STEP(self, *batches)

    monkeypatch.setattr(Engine, "step", signalled)
    with pytest.raises(InterruptedRunError, match=rf"stopped at step 2 of 4 by {name}; it is saved") as caught:
        run(recipe(eval_every=3), folder)
    assert caught.value.signal == number and capfd.readouterr().err == "stopping after this step\n"
    assert torch.load(folder / "checkpoints" / "last.pt", weights_only=True)["step"] == 2
    run(recipe(eval_every=3), folder, resume=True)
    ours, theirs = final_state(whole[0]), final_state(folder)
    assert all(torch.equal(value, theirs[key]) for key, value in ours.items())


def test_ctrl_c_before_the_first_step_leaves_no_run(tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(Engine, "iterate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(recipe(), tmp_path / "run")
    monkeypatch.undo()
    run(recipe(steps=1), tmp_path / "run")  # the folder is free


def test_a_loaded_run_predicts_what_the_run_scored(whole):
    folder, result = whole
    loaded = load_run(folder)
    dataset = create_dataset("diorama", domain="target", split="val", size=[32, 64], length=2)
    assert torch.equal(loaded.engine.evaluate(dataset).confusion, result.confusion)
    assert loaded.engine.index == 4 and len(loaded.classes) == 19


@pytest.fixture
def quick_compiler(monkeypatch):
    """torch.compile without generated code, which takes a C++ compiler minutes; it lists what it compiled."""
    compiled, original = [], torch.compile

    def traced(model, **options):
        compiled.append(model)
        return original(model, backend="eager")

    monkeypatch.setattr(torch, "compile", traced)
    return compiled


def test_a_compiled_run_trains_and_writes_the_same_model(quick_compiler, tmp_path):
    result = run(recipe(compile=True), tmp_path / "compiled")
    assert [type(model).__name__ for model in quick_compiler] == ["builtin_function_or_method", "SegmentationModel"]
    assert torch.equal(result.confusion, run(recipe(), tmp_path / "plain").confusion)
    assert_same_run(tmp_path / "compiled", tmp_path / "plain")
    assert final_state(tmp_path / "compiled").keys() == final_state(tmp_path / "plain").keys()
    loaded = load_run(tmp_path / "compiled")
    assert len(quick_compiler) == 2 and loaded.engine.teacher  # what is loaded is not compiled


def test_a_compiled_run_resumes(quick_compiler, tmp_path):
    for steps, name, resume in ((2, "run", False), (4, "run", True), (4, "whole", False)):
        made = recipe(compile=True, steps=steps, eval_every=2)
        run(replace(made, schedule=None), tmp_path / name, resume=resume)
    assert_same_run(tmp_path / "run", tmp_path / "whole")


@pytest.mark.slow
def test_a_run_goes_on_with_activation_checkpointing_as_it_would_have_without(monkeypatch, tmp_path):
    made, original = [], dalib.runs.run.checkpoint_activations
    monkeypatch.setattr(dalib.runs.run, "checkpoint_activations", lambda model: (original(model), made.append(model)))
    for name, options in (
        ("run", {"steps": 1}),
        ("whole", {"steps": 2}),
        ("run", {"steps": 2, "checkpoint_activations": True}),
    ):
        pidnet = replace(recipe(**options), model={"use": "pidnet_s"}, schedule=None)
        run(pidnet, tmp_path / name, resume=(tmp_path / name).exists())
    assert_same_run(tmp_path / "run", tmp_path / "whole")
    assert len(made) == 1
    load_run(tmp_path / "run")
    assert len(made) == 1  # what is loaded keeps its forward


def test_a_compiler_that_does_not_work_is_one_message_before_the_training(monkeypatch, tmp_path):
    def broken(function, **_):
        raise RuntimeError("no compiler\nand more")

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.raises(DalibError, match=r"train\.compile needs .* failed: no compiler Install one \(Debian's"):
        run(recipe(compile=True), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_run_that_came_before_is_pictured_and_reported(whole, tmp_path):
    run(recipe(steps=1), tmp_path / "run", before=whole[0])
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["before"]["miou"] == pytest.approx(whole[1].miou)


def test_the_last_evaluation_is_one_point_however_often_a_run_is_resumed(tmp_path):
    folder = tmp_path / "run"
    for steps, limit, points in ((2, 2, [2]), (2, 1, [2]), (3, 1, [2, 3])):
        made = recipe(steps=steps, log_every=9)
        result = run(replace(made, evaluate=replace(made.evaluate, limit=limit)), folder, resume=True)
        assert [line["step"] for line in metrics(folder)] == points
        assert metrics(folder)[-1]["eval/miou"] == result.miou


def test_class_sets_that_differ_are_refused_before_the_training(tmp_path, monkeypatch):
    original = diorama.Diorama.__init__

    def fewer(self, domain, *arguments, **options):
        original(self, domain, *arguments, **options)
        if domain == "target":
            self.classes = ("road", "car")

    monkeypatch.setattr(diorama.Diorama, "__init__", fewer)
    with pytest.raises(DalibError) as caught:
        run(recipe(), tmp_path / "run")
    assert str(caught.value).startswith("data.source has 19 classes and data.eval has 2; they differ in ")
    assert not (tmp_path / "run").exists()


def breaks_images(monkeypatch, *bad):
    read = diorama.Diorama.__getitem__

    def torn(self, index):
        if self.split == "train" and index in bad:
            raise DataError(f"{self.domain} {index} is torn.")
        return read(self, index)

    monkeypatch.setattr(diorama.Diorama, "__getitem__", torn)


def with_data(**data):
    changed = recipe(checkpoint_every=2)
    return replace(changed, data=replace(changed.data, **data))


@pytest.mark.parametrize("at", [1, 3])
def test_a_run_that_skips_bad_items_says_each_once_and_resumes_to_the_same_end(at, tmp_path, monkeypatch):
    breaks_images(monkeypatch, 0, 3)  # target 3 comes before the checkpoint alone
    console = Console(file=io.StringIO(), width=200)
    whole = with_data(on_bad_item="skip")
    run(whole, tmp_path / "whole", console=console)
    said = console.file.getvalue()
    assert [said.count(f"skipping a bad item: {d} {i} is torn.") for d in ("source", "target") for i in (0, 3)] == [
        1
    ] * 4
    listed = said.partition("skipped, 4 items in all:\n")[2]
    assert all(f"  {d} {i} is torn.\n" in listed for d in ("source", "target") for i in (0, 3))
    results = json.loads((tmp_path / "whole" / "results.json").read_text())
    assert sorted(results["bad_items"].values()) == [f"{d} {i} is torn." for d in ("source", "target") for i in (0, 3)]
    assert metrics(tmp_path / "whole")[-1]["bad_items"] == 4

    def stops(self, *batches):
        if self.index == at:
            raise StoppedError
        return STEP(self, *batches)

    with monkeypatch.context() as patch:
        patch.setattr(Engine, "step", stops)
        with pytest.raises(StoppedError):
            run(with_data(on_bad_item="skip", workers=1), tmp_path / "broken")
    run(with_data(on_bad_item="skip"), tmp_path / "broken", resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "broken")
    assert json.loads((tmp_path / "broken" / "results.json").read_text())["bad_items"] == results["bad_items"]


def test_a_run_over_its_bound_of_bad_items_goes_on_with_a_larger_one(tmp_path, monkeypatch):
    breaks_images(monkeypatch, 0, 2)
    with pytest.raises(
        DalibError, match=r"is torn. It is one more than the 2 unreadable items that data.max_bad_items"
    ):
        run(with_data(on_bad_item="skip", max_bad_items=2), tmp_path / "run")
    run(with_data(on_bad_item="skip", max_bad_items=4), tmp_path / "run", resume=True)
    run(with_data(on_bad_item="skip"), tmp_path / "whole")
    assert_same_run(tmp_path / "whole", tmp_path / "run")


MAPS = """\
import torch
from dalib import Strategy, hookimpl
from tests.tiny import TinyData


class Depths(TinyData):
    def __getitem__(self, index):
        image, label = super().__getitem__(index)
        return image, label, {"depth": image[0] / 255}


class Uses(Strategy):
    requires = frozenset({"source.depth", "few.label", "few.image"})
    outputs = frozenset({"few.logits"})

    @hookimpl
    def loss(self, step):
        assert torch.equal(step.batch["source"].extra["depth"], step.batch["source"].image[:, 0])
        return {"few": step.segmentation_loss("few")}


@hookimpl
def dalib_register(registry):
    registry.dataset("depths", Depths)
    registry.strategy("uses", Uses)
"""


@pytest.fixture
def maps(tmp_path, monkeypatch):
    """A module of plugins with a data set that has depth, and a strategy that wants it and a stream ``few``."""
    (tmp_path / "maps.py").write_text(MAPS)
    monkeypatch.syspath_prepend(str(tmp_path))
    return {
        "model": {"use": "tiny"},
        "data": {
            "source": [{"use": "depths", "length": 4, "share": 0.9}, {"use": "depths", "seed": 5, "share": 0.1}],
            "target": {"use": "tiny", "length": 3},
            "streams": {"few": {"use": "tiny", "length": 3}},
            "eval": [{"use": "tiny", "length": 2}, {"use": "tiny", "length": 3}],
            "batch_size": 2,
        },
        "strategies": [{"use": "supervised"}, {"use": "uses"}],
        "train": {"steps": 4, "log_every": 1, "checkpoint_every": 2},
        "plugins": ["tests.tiny_plugin", "maps"],
    }


def test_a_run_on_joined_sources_a_further_stream_and_maps_resumes_to_the_same_end(maps, tmp_path, monkeypatch):
    result = run(make_recipe(maps), tmp_path / "whole")
    assert result.images == 5 and metrics(tmp_path / "whole")[-1]["uses/few"] > 0

    def stops(self, *batches):
        if self.index == 3:
            raise StoppedError
        return STEP(self, *batches)

    with monkeypatch.context() as patch:
        patch.setattr(Engine, "step", stops)
        with pytest.raises(StoppedError):
            run(make_recipe(maps), tmp_path / "broken")
    run(make_recipe(maps), tmp_path / "broken", resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "broken")


def test_a_map_or_a_label_that_the_data_lack_is_told_before_the_first_step(maps, tmp_path):
    maps["data"]["source"] = {"use": "tiny"}
    with pytest.raises(DalibError, match=r"'uses' needs source.depth. Nothing provides it; the stack has few.image, "):
        run(make_recipe(maps), tmp_path / "run")
    del maps["data"]["streams"], maps["data"]["source"]
    with pytest.raises(DalibError, match=r"'supervised' needs source.image. There is no source data; name it under"):
        run(make_recipe(maps), tmp_path / "run")


def test_a_stack_that_reads_no_source_runs_without_one(tmp_path):
    text = {
        "model": {"use": "tiny"},
        "data": {"target": {"use": "tiny"}, "eval": {"use": "tiny", "length": 2}, "batch_size": 2},
        "strategies": [{"use": "minent"}],
        "train": {"steps": 1},
        "plugins": ["tests.tiny_plugin"],
    }
    run(make_recipe(text), tmp_path / "run")
    assert (tmp_path / "run" / "results.json").exists()


def test_the_logged_rate_is_the_schedules_without_the_factors_of_groups(tmp_path):
    grouped = recipe(steps=2)
    grouped.optimizer["groups"] = {"body": 0.1}
    run(grouped, tmp_path / "grouped")
    run(recipe(steps=2), tmp_path / "plain")
    rates = [[line["lr"] for line in metrics(tmp_path / name)] for name in ("grouped", "plain")]
    assert rates[0] == rates[1] and rates[0][0] > rates[0][1]
