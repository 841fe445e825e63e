"""What a model gives in training, and layers that are tapped."""

import copy
import re
from pathlib import Path

import pytest
import torch
from torch import nn

from dalib import Engine, StackError, Strategy, create_model, hookimpl, wrap_model
from dalib.models.outputs import tap, training_outputs
from tests.equal import assert_same
from tests.tiny import tiny_batch


class Net(nn.Module):
    """A stem, a body used twice, a layer whose output is changed in place, one that is not called, and a head."""

    def __init__(self, classes=5):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.twice = nn.Conv2d(6, 6, 1)
        self.changed = nn.Conv2d(6, 7, 1)
        self.act = nn.ReLU(inplace=True)
        self.pair = Pair()
        self.idle = nn.Conv2d(6, 6, 1)
        self.logits = nn.Conv2d(7, classes, 1)

    def forward(self, x):
        x = self.twice(self.twice(self.norm(self.stem(x))))
        logits = self.logits(self.pair(self.act(self.changed(x)))[0])
        return {"logits": logits, **({"aux.1": logits} if self.training else {})}


class Pair(nn.Module):
    def forward(self, x):
        return x, x


class Reads(Strategy):
    """Reads a tapped layer of student and teacher."""

    path: str = "norm"
    outputs = frozenset({"target.norm", "target.logits"})

    @hookimpl
    def setup(self, ctx):
        ctx.teacher()
        self.channels = ctx.tap(self.path)

    @hookimpl
    def loss(self, step):
        self.mine = step.output("target", self.path)
        self.theirs = step.output("target", self.path, teacher=True)
        return {"distance": (self.mine - self.theirs + 1).pow(2).mean()}


def test_a_tap_says_its_channels_and_reads_both_networks_at_the_layer_that_is_named():
    torch.manual_seed(0)
    model, reads, batch = wrap_model(Net(), 5), Reads(), tiny_batch()
    engine = Engine(model, [reads], device="cpu")
    seen = []
    for network in (engine.model, engine.teacher.module):
        network.network.norm.register_forward_hook(lambda module, inputs, output: seen.append(output))
    engine.step(batch)
    assert reads.channels == 6
    mine, theirs = (output for output in seen if output.device.type == "cpu")  # a trial on the meta device came first
    assert torch.equal(mine, reads.mine) and reads.mine.requires_grad
    assert torch.equal(theirs, reads.theirs) and not reads.theirs.requires_grad
    assert engine.model.network.stem.weight.grad.abs().sum() > 0


def test_a_copy_of_a_tapped_model_reads_its_own_layer():
    model = wrap_model(Net(), 5)
    images = torch.rand(2, 3, 8, 8)
    model(images, outputs=["norm"])
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.network.norm.bias.fill_(3.0)
    assert not torch.equal(other(images, outputs=["norm"])["norm"], model(images, outputs=["norm"])["norm"])
    assert "norm" in model(images, outputs=True)
    assert isinstance(model(images), torch.Tensor)
    assert other.state_dict().keys() == wrap_model(Net(), 5).state_dict().keys()


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nrom", r"Net has no layer 'nrom'\. Did you mean 'norm'"),
        ("", "Net has no layer ''"),
        ("idle", r"'idle' cannot be tapped: a forward calls it 0 times"),
        ("twice", r"'twice' cannot be tapped: a forward calls it 2 times; name a layer that is called once"),
        ("pair", r"'pair' cannot be tapped: it gives tuple, not a tensor"),
        ("changed", r"'changed' cannot be tapped: the layers after it change its output in place"),
        ("logits", r"'logits' cannot be tapped: the model has an output of that name"),
    ],
)
def test_a_layer_that_cannot_be_tapped_is_named_when_the_engine_is_built(path, message):
    with pytest.raises(StackError, match=message):
        Engine(wrap_model(Net(), 5), [Reads(path=path)], device="cpu")


def test_the_trial_leaves_weights_statistics_modes_and_generators_as_they_were():
    model = wrap_model(Net(), 5).eval()
    model.network.stem.train()
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    outputs = training_outputs(model)
    assert {name: (value.device.type, value.shape[1]) for name, value in outputs.items()} == {
        "logits": ("meta", 5),
        "aux.1": ("meta", 5),
    }
    assert_same(model.state_dict(), before)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.network.stem.training and not model.network.norm.training


class OffMeta(Net):
    """Cannot run on the meta device: it looks at a value."""

    def forward(self, x):
        x = x + torch.rand(1)
        return super().forward(x * (2 if float(x.sum()) > 1 else 1))


def test_a_network_that_cannot_run_on_the_meta_device_runs_on_its_own():
    model = wrap_model(OffMeta(), 5)
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    assert tap(model, "norm") == 6
    assert_same(model.state_dict(), before)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("name", "path", "channels"),
    [("bisenet", "backbone.body.layer4", 512), ("deeplabv2", "backbone.body.layer3", 1024)],
)
def test_bundled_networks_are_tapped_by_the_paths_of_their_layers(name, path, channels):
    with torch.device("meta"):
        model = create_model(name, 19)

    assert tap(model, path) == channels


def test_the_table_of_outputs_in_the_docs_is_what_the_networks_give():
    page = (Path(__file__).parents[2] / "docs" / "models.md").read_text().partition("## Outputs")[2]
    lines = [line.strip("|").split("|") for line in page.splitlines() if line.startswith("|")]
    checked = []
    for names, always, training, taps in ([cell.strip() for cell in line] for line in lines[2:]):
        for name in names.split(", ") if names != "timm" else ():  # which depends on the backbone
            options = {"multi_level": True} if "multi_level" in training else {}
            with torch.device("meta"):
                model = create_model(name, 21, **options)
            given = {}
            for output, value in training_outputs(model, (512, 512)).items():
                given[output] = (value.shape[1], round(512 / value.shape[-1]))
            promised = {"logits": (21, 1)}
            for output, channels, part in re.findall(r"`([\w.]+)` (K|\d+) at 1/(\d+)", always + training):
                promised[output] = (21 if channels == "K" else int(channels), int(part))
            assert given == promised, name
            model.eval()
            assert {"logits", *re.findall(r"`([a-z_]+)`(?= [K\d])", always)} == set(
                model(torch.zeros(1, 3, 64, 64, device="meta"), outputs=True)
            )
            for path in re.findall(r"`([\w.]+)`", taps):
                assert tap(model, path) > 0
            checked.append(name)
    assert checked == ["bisenet", "bisenet_v1", "deeplabv2", "pidnet_s", "pidnet_m", "pidnet_l"]


def test_a_compiled_model_is_tapped_and_called_on_images_of_ones_own_alike():
    class ReadsAndCalls(Reads):
        @hookimpl
        def loss(self, step):
            own = step.student(step.batch["source"].image)
            return super().loss(step) | {"own": own.pow(2).mean()}

    def trained(compiled):
        torch.manual_seed(0)
        model = wrap_model(Net(), 5)
        model = torch.compile(model, backend="eager") if compiled else model
        engine, reads = Engine(model, [reads := ReadsAndCalls()], device="cpu"), reads
        for index in range(2):
            engine.step(tiny_batch(index))
        return {"mine": reads.mine, "theirs": reads.theirs} | engine.state_dict()["model"]

    assert_same(trained(True), trained(False))
