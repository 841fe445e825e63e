"""Activation checkpointing saves memory, and changes neither a number nor a name."""

import copy
from contextlib import contextmanager

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn.utils.parametrizations import spectral_norm

from dalib import Engine, StackError, Strategy, create_model, create_strategy, hookimpl
from dalib.models import checkpoint_activations, freeze, wrap_model
from dalib.models.activation_checkpointing import blocks
from tests.equal import assert_equal
from tests.tiny import tiny_batch, tiny_model

NETWORKS = {
    "bisenet": {},
    "bisenet_v1": {},
    "deeplabv2": {"backbone": "resnet26", "multi_level": True},
    "pidnet_s": {},
    "pidnet_m": {},
    "pidnet_l": {},
    "timm": {"head": "daformer"},
    "timm efficientnet": {"backbone": "efficientnet_b0"},
    "timm densenet": {"backbone": "densenet121"},
    "timm vit": {"backbone": "vit_tiny_patch16_224"},
    "timm swin": {"backbone": "swin_tiny_patch4_window7_224"},
}
QUICK = ("pidnet_s", "timm vit", "timm efficientnet")  # in seconds


class Block(nn.Module):
    """What a recomputed forward could get wrong: statistics, power iterations, dropout, a BatchNorm of one value."""

    def __init__(self):
        super().__init__()
        self.first = spectral_norm(nn.Conv2d(6, 6, 3, padding=1))
        self.norm = nn.BatchNorm2d(6)
        self.dropout = nn.Dropout(0.3)
        self.second = nn.Conv2d(6, 6, 3, padding=1)
        self.gate = nn.BatchNorm2d(6)

    def forward(self, x):
        y = self.second(self.dropout(self.norm(self.first(x)).relu()))
        return x + y * self.gate(y.mean((2, 3), keepdim=True)).sigmoid()


class Net(nn.Module):
    def __init__(self, block=Block):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU())
        self.body = nn.Sequential(block(), block(), block())
        self.head = nn.Conv2d(6, 5, 1)

    def forward(self, x):
        features = self.body(self.stem(x))
        return {"logits": self.head(features), "features": features}


class Everything(Strategy):
    """Reads two streams, a layer inside a block, the teacher, and the student on images of its own."""

    outputs = frozenset({"source.logits", "target.body.1.norm", "target.features"})

    @hookimpl
    def setup(self, ctx):
        ctx.teacher()
        ctx.tap("body.1.norm")

    @hookimpl
    def loss(self, step):
        inner = step.output("target", "body.1.norm")
        distance = step.output("target", "features") - step.output("target", "features", teacher=True)
        return {
            "source": step.segmentation_loss("source"),
            "inner": inner.float().pow(2).mean(),
            "distance": distance.float().pow(2).mean(),
            "apart": step.student(step.batch["source"].image.flip(-1)).float().pow(2).mean(),
        }


class Again(Strategy):
    """Another group: what the first one read is computed anew."""

    outputs = frozenset({"source.logits"})

    @hookimpl
    def loss(self, step):
        return {"again": step.logits("source").float().sin().mean()}


def pair(make, seed=0):
    """Return two equal models, the second with activation checkpointing."""
    torch.manual_seed(seed)
    plain = make()
    checkpointed = copy.deepcopy(plain)
    checkpoint_activations(checkpointed)
    return plain, checkpointed


def own():
    return wrap_model(Net(), 5)


def assert_trains_alike(models, stack, batches, **options):
    """Compare terms, weights, buffers and optimisers after a step of each tuple of micro-batches."""
    engines = [Engine(model, stack(), device="cpu", **options) for model in models]
    for micro_batches in batches:
        terms = [engine.step(*micro_batches) for engine in engines]
        assert_equal(*terms)
    assert_equal(*(engine.state_dict() for engine in engines))
    grads = [{name: p.grad for name, p in model.named_parameters()} for model in models]
    assert_equal(*grads)
    return engines


def saved_bytes(model, images):
    """Return the bytes that autograd keeps of one forward, weights and buffers apart."""
    own = {tensor.untyped_storage().data_ptr() for tensor in model.state_dict().values()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        outputs = model(images, outputs=True)
    return sum(kept.values()), outputs


@contextmanager
def counting(module):
    """Give a list that grows with each forward of a module's inside, recomputed ones included."""
    calls = []
    handle = module.register_forward_hook(lambda *forward: calls.append(torch.is_grad_enabled()))
    yield calls
    handle.remove()


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in NETWORKS]
)
def test_bundled_networks_train_bit_for_bit_as_without(name):
    models = pair(lambda: create_model(name.split()[0], 5, **NETWORKS[name]))
    batches = [(tiny_batch(seed, (33, 47)),) for seed in range(2)]
    names = ["supervised", "adversarial", "dacs"]
    assert_trains_alike(models, lambda: [create_strategy(name) for name in names], batches)


@pytest.mark.parametrize("name", NETWORKS)
def test_bundled_networks_keep_less_than_half_of_their_activations(name):
    models = pair(lambda: create_model(name.split()[0], 5, **NETWORKS[name]).train())
    bytes_kept = [saved_bytes(model, torch.rand(2, 3, 64, 64))[0] for model in models]
    assert bytes_kept[1] < 0.5 * bytes_kept[0]


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("size", [1, 2])  # of one image BatchNorm sees a single value per channel
def test_own_networks_train_bit_for_bit_as_without(precision, size):
    batches = [(tiny_batch(seed, batch=size), tiny_batch(seed + 9, batch=size)) for seed in range(3)]
    plain, engine = assert_trains_alike(pair(own), lambda: [Everything(), Again()], batches, precision=precision)
    for of in (plain, engine):
        assert all(module.training for module in of.model.modules())
        torch.manual_seed(1)
        of.model(tiny_batch()["source"].image)  # no block was left in another mode
    assert_equal(plain.model.state_dict(), engine.model.state_dict())


def test_a_network_computed_again_without_care_would_move_its_statistics_twice():
    torch.manual_seed(0)
    block, images = Block(), torch.rand(2, 6, 8, 8)
    torch.utils.checkpoint.checkpoint(block, images, use_reentrant=False).sum().backward()
    assert block.norm.num_batches_tracked == 2  # as naive checkpointing does
    _, checkpointed = pair(own)
    checkpointed(torch.rand(2, 3, 8, 8)).sum().backward()
    assert checkpointed.network.body[0].norm.num_batches_tracked == 1


def test_a_batch_norm_of_one_value_that_ends_a_block_trains_on():
    class Pooled(nn.Sequential):
        def __init__(self):
            super().__init__(nn.AdaptiveAvgPool2d(1), nn.Conv2d(6, 6, 1), nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6))

    _, checkpointed = pair(lambda: wrap_model(Net(Pooled), 5))
    checkpointed(torch.rand(1, 3, 8, 8)).sum().backward()
    assert all(module.training for module in checkpointed.modules())


def test_two_gradients_of_one_forward_are_computed_from_the_same_buffers():
    plain, checkpointed = pair(own)
    images, found = torch.rand(2, 3, 8, 8), []
    for model in (plain, checkpointed):
        torch.manual_seed(1)
        total = model(images).pow(2).sum()
        model(images)  # power iterations and running statistics go on
        weights = list(model.parameters())
        found.append([torch.autograd.grad(total, weights, retain_graph=True) for _ in range(2)])
    for ours, theirs in zip(*found, strict=True):
        assert all(torch.equal(mine, its) for mine, its in zip(ours, theirs, strict=True))


def test_gradients_belong_to_the_weights_that_a_functional_call_brought():
    plain, checkpointed = pair(own)
    images, found = torch.rand(2, 3, 8, 8), []
    brought = {name: (weight * 1.5).detach() for name, weight in plain.named_parameters()}
    for model in (plain, checkpointed):
        weights = {name: weight.clone().requires_grad_() for name, weight in brought.items()}
        torch.manual_seed(1)
        total = functional_call(model, weights, (images,)).pow(2).sum()
        found.append(torch.autograd.grad(total, list(weights.values())))
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*found, strict=True))


def test_blocks_are_computed_again_in_training_alone():
    _, checkpointed = pair(own)
    engine = Engine(checkpointed, [Everything()], device="cpu")
    image = tiny_batch()["source"].image
    engine.step(tiny_batch())  # the first one looks at what the network gives
    with (
        counting(engine.teacher.module.network.body[0].norm) as of_teacher,
        counting(engine.model.network.body[0].norm) as of_student,
    ):
        engine.step(tiny_batch())
        assert len(of_teacher) == 1 and len(of_student) == 6  # two streams and images apart, each of them twice
        of_student.clear()
        engine.predict((image * 255).byte())
        engine.model.eval()(image).sum().backward()
        assert len(of_student) == 2


def test_what_is_frozen_stays_and_is_not_computed_again():
    def frozen():
        model = own()
        freeze(model.network, ["stem", "body.0"])
        return model

    models = pair(frozen)
    engines = assert_trains_alike(models, lambda: [Everything(), Again()], [(tiny_batch(s),) for s in range(2)])
    first, second = engines[1].model.network.body[:2]
    with counting(first.norm) as of_frozen, counting(second.norm) as of_trained:
        engines[1].step(tiny_batch())
    assert 2 * len(of_frozen) == len(of_trained)


def test_a_copy_computes_with_its_own_weights_also_after_a_step_with_a_tap_in_a_block():
    _, checkpointed = pair(own)
    engine = Engine(checkpointed, [Everything()], device="cpu")
    engine.step(tiny_batch())
    images, other = torch.rand(2, 3, 8, 8), copy.deepcopy(engine.model)
    engine.model.zero_grad()
    with torch.no_grad():
        for weight in other.parameters():
            weight.mul_(2)
    plain = own().to(memory_format=torch.channels_last)  # as an engine's
    plain.load_state_dict(other.state_dict())
    for model in (plain, other):
        torch.manual_seed(1)
        model(images).pow(2).sum().backward()
    assert_equal(*([weight.grad for weight in model.parameters()] for model in (plain, other)))
    assert all(weight.grad is None for weight in engine.model.parameters())


def test_weights_keep_their_names():
    plain, checkpointed = pair(own)
    assert plain.state_dict().keys() == checkpointed.state_dict().keys()
    assert dict(plain.named_modules()).keys() == dict(checkpointed.named_modules()).keys()


def test_a_block_takes_lists_that_grow_later_and_tensors_by_name():
    class Dense(nn.Module):
        def __init__(self):
            super().__init__()
            self.convs = nn.ModuleList(nn.Conv2d(6 * (i + 1), 6, 1) for i in range(2))
            self.dropout = nn.Dropout(0.5)

        def forward(self, found, *, scale):
            first = self.convs[0](found[0]) * scale
            return self.dropout(self.convs[1](torch.cat([first, found[-1]], dim=1)))

    class Growing(Net):
        def __init__(self):
            super().__init__(Dense)

        def forward(self, x):
            found = [self.stem(x)]
            for block in self.body:
                found.append(block(found, scale=found[-1].mean()))
            return self.head(found[-1])

    models = pair(lambda: wrap_model(Growing(), 5))
    assert_trains_alike(models, lambda: [create_strategy("supervised")], [(tiny_batch(),)])


def test_a_block_that_changes_its_input_in_place_is_refused():
    class InPlace(nn.Sequential):
        def __init__(self):
            super().__init__(nn.SiLU(inplace=True), nn.Conv2d(6, 6, 1), nn.Conv2d(6, 6, 1))

    _, checkpointed = pair(lambda: wrap_model(Net(InPlace), 5))
    with pytest.raises(StackError, match=r"InPlace changes its input in place, so .* inplace=False"):
        checkpointed(torch.rand(2, 3, 8, 8))


def test_weights_that_change_before_backward_are_an_error_as_without():
    for model in pair(own):
        total = model(torch.rand(2, 3, 8, 8)).sum()
        with torch.no_grad():
            model.network.body[0].second.weight.add_(1.0)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            total.backward()


def test_a_network_is_cut_at_repeated_blocks_and_the_rest_of_several_layers_stays_whole():
    def names(network):
        found = {id(block) for block in blocks(network)}
        return [name for name, module in network.named_modules() if id(module) in found]

    assert names(Net()) == ["stem", "body.0", "body.1", "body.2"]
    assert names(create_model("pidnet_s", 5).network)[:3] == ["stem", "integral1.0", "integral1.1"]
    assert "spatial" in names(create_model("bisenet", 5).network)
    assert "backbone.body.blocks.1.0" in names(create_model("timm", 5, backbone="efficientnet_b0").network)


def test_a_network_without_repeated_blocks_is_refused():
    with pytest.raises(StackError, match="TinyModel has no repeated blocks, modules of two or more convolutions"):
        checkpoint_activations(tiny_model())


@pytest.mark.parametrize("before", [True, False])
def test_a_compiled_model_is_refused(before):
    model = own()
    compiled = torch.compile(model)
    checkpoint_activations(compiled if before else model)
    with pytest.raises(StackError, match=r"does not go with torch.compile; leave one of the two out"):
        Engine(compiled, [create_strategy("supervised")], device="cpu")
