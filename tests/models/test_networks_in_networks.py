"""A network around another keeps what the inner one brings: heads, loss, parameter groups, weights."""

import pytest
import torch
from torch import nn

from dalib import Engine, create_model, make_recipe, run
from dalib.deploy.bench import inference_parameters
from dalib.deploy.export import export
from dalib.deploy.fuse import fuse
from dalib.discovery import default_registry, load_module
from dalib.errors import DalibError
from dalib.models import load_weights
from dalib.models.pidnet_loss import PIDNetLoss
from dalib.models.wrapper import network_of, own_loss, training_heads
from dalib.runs.loading import load_run
from dalib.yaml import dump_yaml, parse_yaml
from tests.command import RECIPE, run_dalib
from tests.tiny import Supervised, TinyModel, tiny_batch


@pytest.fixture(autouse=True)
def _plugin():
    load_module(default_registry(), "tests.wrapper_plugin")


def two_scales(inner="bisenet", **options):
    torch.manual_seed(0)
    return create_model("two_scales", 5, inner={"use": inner, **options})


def test_the_model_normalises_once_as_the_inner_network_wants():
    inner = create_model("timm", 5, backbone="vit_tiny_patch16_224")
    outer = two_scales("timm", backbone="vit_tiny_patch16_224")
    assert torch.equal(outer.mean, inner.mean) and torch.equal(outer.std, inner.std)
    assert inner.mean.tolist() != create_model("bisenet", 5).mean.tolist()
    assert type(network_of(outer).inner) is type(inner.network)


def test_training_heads_inside_are_found_dropped_and_not_missed():
    outer, inner = two_scales(), create_model("bisenet", 5)
    assert training_heads(network_of(outer)) == ("unused", "inner.head16", "inner.head32")
    fused = fuse(outer)
    assert network_of(fused).inner.head16 is None and network_of(fused).unused is None
    assert inference_parameters(outer) == inference_parameters(inner) + 6  # the attention
    state = network_of(outer).state_dict()
    kept = {key: value for key, value in state.items() if "head" not in key and "unused" not in key}
    report = load_weights(two_scales(), kept)
    assert not report.missing and {key.rpartition(".")[0] for key in report.heads} == {
        "inner.head16",
        "inner.head32",
        "unused",
    }


def test_the_inner_networks_loss_is_the_runs_unless_the_outer_has_its_own():
    outer = two_scales("pidnet_s", loss={"ohem": 0.7})
    engine = Engine(outer, [Supervised()], device="cpu")
    assert isinstance(engine.segmentation_loss, PIDNetLoss) and engine.segmentation_loss.ohem == 0.7
    assert engine.step(tiny_batch(size=(32, 64)))["supervised/loss"].isfinite()
    network_of(outer).segmentation_loss = own = PIDNetLoss()
    assert own_loss(network_of(outer)) is own


def test_two_losses_inside_are_refused_with_what_to_do():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.other = (create_model("pidnet_s", 5).network for _ in range(2))

    with pytest.raises(DalibError, match="PIDNet and PIDNet inside Both each bring a segmentation_loss; give Both"):
        own_loss(Both())


def test_a_network_without_a_loss_anywhere_has_none():
    assert own_loss(TinyModel()) is None


def recipe(**model):
    value = parse_yaml(RECIPE)
    value["model"] = {"use": "two_scales", **model}
    return value | {"plugins": ["tests.wrapper_plugin"]}


@pytest.mark.parametrize("key", ["weights", "backbone_weights"])
def test_files_of_a_nested_model_are_not_wanted_again(key, tmp_path):
    file = tmp_path / "start.pt"
    start = create_model("bisenet", 19).network
    torch.save((start if key == "weights" else start.backbone).state_dict(), file)
    run(make_recipe(recipe(inner={"use": "bisenet", key: str(file)})), tmp_path / "run")
    file.unlink()
    loaded = load_run(tmp_path / "run")
    assert loaded.recipe.model["inner"][key] is None
    assert run_dalib("evaluate", tmp_path / "run") == 0
    written = dump_yaml(recipe(inner={"use": "bisenet", key: str(file), "pretrained": True}))
    (tmp_path / "recipe.yaml").write_text(written)
    assert run_dalib("plan", tmp_path / "recipe.yaml") == 0  # without the file and without a download


def test_it_exports_with_the_models_classes(tmp_path):
    pytest.importorskip("onnxruntime")
    written = export(two_scales().eval(), tmp_path / "net.pt2", (64, 96))
    assert min(written.agreement.values()) > 0.999
