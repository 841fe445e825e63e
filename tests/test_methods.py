"""Methods of the field as a plugin package: the maths of each, and all of them in one stack with the bundled ones."""

import ast
import copy
import itertools
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections import OrderedDict
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import dalib
from dalib import (
    Batch,
    Engine,
    StackError,
    Strategy,
    Stream,
    create_model,
    create_strategy,
    hookimpl,
    load_recipe,
    resize,
    run,
    wrap_model,
)
from dalib.discovery import default_registry, load_module
from tests.command import run_dalib
from tests.equal import assert_equal
from tests.methods_plugin.cycada import looks
from tests.methods_plugin.masked import block_mask
from tests.methods_plugin.prototypes import class_sums, contrast
from tests.plugins.probe import Probe, prepared
from tests.tiny import Supervised, TinyModel, tiny_batch, tiny_model

PACKAGE = Path(__file__).parent / "methods_plugin"
BACKBONE = "test_efficientnet"


@pytest.fixture(autouse=True, scope="module")
def plugins():
    for module in ("tests.methods_plugin", "tests.tiny_plugin"):
        load_module(default_registry(), module)


def engine_of(*strategies, model=None, **options):
    if model is None:
        torch.manual_seed(0)
        model = wrap_model(TinyModel(), 5)
    return Engine(model, list(strategies), device="cpu", **options)


# -------------------------------------------------------------------------------------------------- the package


@pytest.mark.parametrize("file", sorted(PACKAGE.glob("*.py")), ids=lambda file: file.name)
def test_it_imports_public_names_of_dalib_alone(file):
    imports = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Import | ast.ImportFrom)]
    for node in imports:
        modules = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
        for module in modules:
            if module == "dalib":
                assert {alias.name for alias in node.names} <= set(dalib.__all__)
            elif module != "dalib.options":
                ours = module.startswith("tests.methods_plugin")
                assert ours or module.split(".")[0] in (*sys.stdlib_module_names, "torch", "kornia", "pydantic")


# ------------------------------------------------------------------------------------------- masked consistency


@pytest.mark.parametrize(("ratio", "share"), [(0.0, 1.0), (1.0, 0.0), (0.7, 0.3)])
def test_blocks_go_whole_and_as_often_as_the_ratio_says(ratio, share):
    mask = block_mask(torch.Size((8, 3, 70, 130)), 4, ratio, torch.device("cpu"))
    assert mask.shape == (8, 1, 70, 130)
    blocks = mask[..., :68, :128].unfold(2, 4, 4).unfold(3, 4, 4).flatten(4)
    assert torch.equal(blocks.amin(-1), blocks.amax(-1))
    assert blocks.mean().item() == pytest.approx(share, abs=0.03)


def test_masked_images_have_the_teachers_labels_of_the_whole_ones_and_its_confidence_as_weight():
    batch = tiny_batch()
    target = Stream(batch["target"].image, weight=torch.rand(2, 12, 16))
    strategy = create_strategy("field_masked", block=4, ratio=0.5, threshold=0.25)
    masked = prepared([strategy], Batch({"source": batch["source"], "target": target}))["masked"]
    probability, label = tiny_model()(target.image).softmax(1).max(1)
    sure = (probability >= 0.25).float().mean((1, 2))
    assert sure.min() > 0 and sure.max() < 1
    assert torch.equal(masked.label, label)
    torch.testing.assert_close(masked.weight, sure[:, None, None] * target.weight)
    gone = masked.image.sum(1) == 0
    assert 0.2 < gone.float().mean() < 0.8
    assert torch.equal(masked.image, target.image * ~gone[:, None])


# --------------------------------------------------------------------------------------------- feature distance


def test_the_distance_is_that_of_a_tapped_layer_to_the_references_on_pixels_full_of_things():
    strategy = create_strategy(
        "field_feature_distance", layer="body", reference={"use": "tiny"}, things=["1", "3"], share=0.5
    )
    engine = engine_of(strategy)
    reference = engine.modules["field_feature_distance/reference"].module
    model, source = copy.deepcopy(engine.model).train(), tiny_batch()["source"]
    mine, its = (network(source.image, ["body"])["body"] for network in (model, reference))
    things = (source.label == 1) | (source.label == 3)
    expected = (mine - its).square().sum(1).sqrt()[things].mean()
    torch.testing.assert_close(engine.step(tiny_batch())["field_feature_distance/distance"], expected.detach())


def test_a_reference_of_another_architecture_and_an_unknown_class_are_named():
    options = {"layer": "refine32", "reference": {"use": "bisenet", "backbone": "test_resnet"}}
    with pytest.raises(StackError, match="things: there is no class 'lorry'"):
        engine_of(create_strategy("field_feature_distance", **options, things=["lorry"]))
    model = create_model("bisenet", 5, backbone=BACKBONE)
    engine = engine_of(create_strategy("field_feature_distance", **options, things=["1"]), model=model)
    with pytest.raises(
        StackError, match=r"'refine32' gives features \(2, .*\) in the network and \(2, .*\) in the ref"
    ):
        engine.step(tiny_batch(size=(32, 64)))


# --------------------------------------------------------------------------------------------------- prototypes


def test_sums_of_features_by_class_leave_ignored_pixels_out():
    features = torch.tensor([[[[1.0, 2.0, 4.0, 8.0]], [[0.0, 1.0, 0.0, 1.0]]]])
    sums, counts = class_sums(features, torch.tensor([[[0, 2, 2, 255]]]), 3)
    assert sums.tolist() == [[1, 0], [0, 0], [6, 1]] and counts.tolist() == [1, 0, 2]


def test_the_contrast_is_the_cross_entropy_of_cosines_among_known_prototypes():
    prototypes = torch.tensor([[2.0, 0.0], [0.0, 0.0], [0.0, 0.5]])
    features = torch.tensor([3.0, 4.0]).view(1, 2, 1, 1).expand(1, 2, 1, 3)
    values, valid = contrast(features, torch.tensor([[[2, 1, 255]]]), prototypes, 0.5)
    expected = -math.log(math.exp(1.6) / (math.exp(1.2) + math.exp(1.6)))  # cosines 0.6 and 0.8
    assert values[0, 0].tolist() == pytest.approx([expected, 0, 0]) and valid[0, 0].tolist() == [True, False, False]


class Poisoned(Strategy):
    """Gives NaN at step 1, from the source's images on."""

    writes = frozenset({"source.image"})

    @hookimpl
    def pre_batch(self, step):
        if step.index == 1:
            step.batch.write("source", image=torch.full_like(step.batch["source"].image, torch.nan))


def test_prototypes_are_moving_averages_of_the_teachers_features_also_at_weight_0_but_not_of_a_skipped_step():
    strategy = create_strategy("field_prototypes", layer="body", dimensions=4, momentum=0.6, weight=0.0)
    engine = engine_of(Poisoned(), Supervised(), strategy, on_non_finite="skip")
    head = engine.modules["field_prototypes/head"]
    expected = torch.zeros(5, 4)
    for index in range(3):
        nn.init.normal_(head.module[0].weight)  # as if it had been trained, so that its average differs
        source = tiny_batch(index, num_classes=4)["source"]
        features = copy.deepcopy(engine.teacher.module)(source.image, ["body"])["body"]
        sums, counts = class_sums(F.normalize(head.teacher(features), dim=1), source.label, 5)
        engine.step(tiny_batch(index, num_classes=4))
        if index != 1:
            means = sums[:4] / counts[:4, None]
            expected[:4] = means if index == 0 else 0.6 * expected[:4] + 0.4 * means
        torch.testing.assert_close(strategy.state_dict()["prototypes"], expected)


def test_micro_batches_count_as_one_batch_for_the_prototypes():
    found = []
    for parts in (1, 2):
        torch.manual_seed(0)
        model = wrap_model(nn.Sequential(OrderedDict(head=nn.Conv2d(3, 5, 1))), 5)  # no BatchNorm
        strategy = create_strategy("field_prototypes", layer="head", dimensions=4, weight=0.0)
        whole = {name: stream.fields() for name, stream in tiny_batch(batch=4).items()}
        parted = [
            Batch({name: Stream(**{k: v[part::parts] for k, v in fields.items()}) for name, fields in whole.items()})
            for part in range(parts)
        ]
        engine_of(strategy, model=model).step(*parted)
        found.append(strategy.state_dict()["prototypes"])
    torch.testing.assert_close(*found)


def test_the_contrast_trains_network_and_head():
    strategy = create_strategy("field_prototypes", layer="body", dimensions=4, threshold=0.0)
    engine = engine_of(strategy, optimizer=partial(torch.optim.SGD, lr=0.1))
    engine.step(tiny_batch())
    before = copy.deepcopy((engine.model.network.body, engine.modules["field_prototypes/head"].module))
    terms = engine.step(tiny_batch())
    assert terms["field_prototypes/source"] > 0 and terms["field_prototypes/target"] > 0
    for old, new in zip(
        before, (engine.model.network.body, engine.modules["field_prototypes/head"].module), strict=True
    ):
        assert not torch.equal(old[0].weight, new[0].weight)


# ---------------------------------------------------------------------------------------------------------- VAT


def test_the_perturbation_of_a_linear_model_lies_along_the_difference_of_its_classes():
    torch.manual_seed(3)
    network = nn.Conv2d(3, 2, 1)
    model = wrap_model(network, 2, mean=(0, 0, 0), std=(1, 1, 1))
    image = torch.rand(4, 3, 1, 1)
    strategy = create_strategy("field_vat", epsilon=0.5)
    loss = engine_of(strategy, model=model).step(Batch({"target": Stream(image)}))["field_vat/divergence"]
    normal = (network.weight[1] - network.weight[0]).detach()
    step = 0.5 * math.sqrt(3) * normal / normal.norm()
    clean = model(image).log_softmax(1).detach()
    either = [
        F.kl_div(model(image + sign * step).log_softmax(1), clean, log_target=True, reduction="none")
        for sign in (-1, 1)
    ]
    possible = torch.stack(either).detach().sum(2).flatten(1)  # (sign, image)
    means = [possible[list(signs), range(4)].mean().item() for signs in itertools.product((0, 1), repeat=4)]
    assert min(abs(loss.item() - mean) for mean in means) < 1e-5


# ------------------------------------------------------------------------------------------------------- CyCADA


def test_translated_images_keep_their_labels_and_generators_that_undo_one_another_cost_nothing():
    batch, probe = tiny_batch(), Probe()
    engine = engine_of(create_strategy("field_cycada", channels=4, blocks=1), probe)
    for domain, factor in (("target", 0.5), ("source", 2.0)):
        engine.modules[f"field_cycada/to_{domain}"].module.forward = partial(torch.mul, factor)
    terms = engine.step(batch)
    assert torch.equal(probe.batch["translated"].image, 0.5 * batch["source"].image)
    assert torch.equal(probe.batch["translated"].label, batch["source"].label)
    assert terms["field_cycada/cycle"] == 0


def test_its_critics_learn_to_tell_the_domains_and_its_generators_to_deceive_them():
    torch.manual_seed(0)
    images = {"source": 0.1 * torch.rand(2, 3, 16, 16), "target": 1 - 0.1 * torch.rand(2, 3, 16, 16)}
    label = torch.zeros(2, 16, 16, dtype=torch.long)
    batch = Batch({name: Stream(image, label if name == "source" else None) for name, image in images.items()})
    engine = engine_of(create_strategy("field_cycada", channels=8, blocks=1, cycle=0.0, lr=2e-3))
    terms = [engine.step(batch) for _ in range(30)]
    assert terms[9]["field_cycada/real_target"] < 0.5 * terms[0]["field_cycada/real_target"]
    to_target = engine.modules["field_cycada/to_target"]
    assert to_target(images["source"]).mean() > 3 * images["source"].mean()


def test_a_critics_output_is_judged_by_least_squares():
    assert looks(torch.tensor([0.0, 2.0]), 1.0) == 1 and looks(torch.tensor([0.0, 2.0]), 0.0) == 2


# --------------------------------------------------------------------------------------------------- two scales


@pytest.mark.parametrize("inner", ["bisenet", "pidnet_s"])
def test_attention_decides_between_the_two_scales_around_any_network(inner):
    options = {"backbone": BACKBONE} if inner == "bisenet" else {}
    model = create_model("field_two_scales", 5, inner={"use": inner, **options})
    assert all(module.training for module in model.modules())
    model.eval()
    x = torch.rand(1, 3, 64, 96)
    attention, network = model.network.attention, model.network.inner
    nn.init.zeros_(attention.weight)
    for bias, expected in ((50, network(x)), (-50, resize(network(resize(x, (32, 48))), (64, 96)))):
        nn.init.constant_(attention.bias, bias)
        torch.testing.assert_close(model(x), expected)


def test_the_inner_networks_loss_is_the_runs():
    model = create_model("field_two_scales", 5, inner={"use": "pidnet_s"})
    engine = engine_of(Supervised(), model=model)
    assert engine.segmentation_loss is model.network.inner.network.segmentation_loss
    assert engine.step(tiny_batch(size=(64, 96)))["supervised/loss"].isfinite()


# ----------------------------------------------------------------------------------------- all of them in a stack

NOT_COMPARED = ("seconds", "images_per_second", "time")  # clocks


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """The frozen reference's file, and the override that names it."""
    file = tmp_path_factory.mktemp("reference") / "reference.pt"
    torch.manual_seed(1)
    torch.save(create_model("bisenet", 19, backbone=BACKBONE).network.state_dict(), file)
    return file, f"strategies.9.reference.inner.weights={file}"


@pytest.fixture
def gone(whole, reference, tmp_path):
    """Take the reference's file away for one test."""
    elsewhere = reference[0].rename(tmp_path / "elsewhere.pt")
    yield
    elsewhere.rename(reference[0])


@pytest.fixture(scope="module")
def whole(reference, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    return folder, run(load_recipe(PACKAGE / "recipe.yaml", [reference[1]]), folder)


def outcome(folder):
    """Return all that a run came to, without what a clock has said."""
    state = torch.load(folder / "checkpoints" / "last.pt", weights_only=True)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    results = json.loads((folder / "results.json").read_text())
    return [{k: v for k, v in values.items() if k not in NOT_COMPARED} for values in (state, results, *lines)]


def test_the_plan_of_all_names_outputs_and_backward_passes(capsys):
    assert run_dalib("plan", PACKAGE / "recipe.yaml") == 0
    said = capsys.readouterr().out
    for line in (
        "outputs     translated.logits (backward pass 1)",
        "outputs     source.context (backward pass 2)",
        "outputs     source.context, target.context, target.logits (backward pass 2)",
        "outputs     masked.logits (backward pass 4)",
        "modules     to_source (loss), to_target (loss), real_source (critic_loss), real_target (critic_loss)",
        "11. field_prototypes, weight 0 to 0.1 in steps 1 to 5",
        "sizes after source 64x96, target 64x96, translated 64x96, mixed 64x96, masked 64x96",
        "backward passes per micro-batch: 4; teacher: EMA 0.5 to 0.9 in steps 0 to 4, BatchNorm train",
        "loaded: source, target",
    ):
        assert line in said
    assert "warning" not in said


def test_all_of_them_train_together(whole):
    _, _, *lines = outcome(whole[0])
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    trained = {name.split("/")[0] for name in lines[-1] if "/" in name} - {"eval"}
    assert trained == {
        *("supervised", "adversarial", "minent", "dacs", "field_cycada", "field_masked"),
        *("field_feature_distance", "field_prototypes", "field_vat"),
    }
    assert "field_prototypes/target" in lines[2] and "field_prototypes/target" not in lines[1]  # its ramp
    assert lines[-1]["field_masked/masked"] > 0 and lines[-1]["field_feature_distance/distance"] > 0
    assert all(math.isfinite(value) for line in lines for value in line.values())


def test_a_run_of_all_that_was_broken_off_resumes_bit_for_bit(whole, reference, tmp_path, monkeypatch):
    recipe, step = load_recipe(PACKAGE / "recipe.yaml", [reference[1]]), Engine.step

    def breaks(self, *batches):
        if self.index == 3:
            raise ZeroDivisionError
        return step(self, *batches)

    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(Engine, "step", breaks)
        run(recipe, tmp_path / "run")
    run(recipe, tmp_path / "run", resume=True)
    assert_equal(outcome(whole[0]), outcome(tmp_path / "run"))


@pytest.mark.faults
@pytest.mark.parametrize("seen", [1, 3])  # before the first checkpoint, and after it
def test_a_run_of_all_that_was_killed_resumes_bit_for_bit(seen, whole, reference, tmp_path):
    folder, recipe = tmp_path / "run", PACKAGE / "recipe.yaml"
    command = [sys.executable, "-m", "dalib", "train", recipe, "--out", folder, reference[1]]
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)
    metrics = folder / "metrics.jsonl"
    while not metrics.exists() or metrics.read_text().count("\n") < seen:
        assert process.poll() is None, "it ended before it was killed"
        time.sleep(0.002)
    process.kill()
    assert process.wait(60) == -signal.SIGKILL
    assert not (folder / "results.json").exists()
    run(load_recipe(recipe, [reference[1]]), folder, resume=True)
    assert_equal(outcome(whole[0]), outcome(folder))


def test_a_trained_run_is_evaluated_without_the_references_file(whole, gone, tmp_path):
    folder, result = whole
    assert run_dalib("evaluate", folder, "--json", tmp_path / "again.json") == 0
    assert json.loads((tmp_path / "again.json").read_text())["miou"] == result.miou


def test_a_trained_run_is_exported_without_the_references_file(whole, gone, tmp_path):
    assert run_dalib("export", whole[0], "--teacher", "--out", tmp_path / "net.pt2") == 0  # it compares file and model
    assert (tmp_path / "net.pt2").is_file()
