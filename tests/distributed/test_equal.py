"""Several ranks train as one process does with the same batch, and end with the same bits."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dalib import Batch, Engine, SegmentationLoss, Stream, create_model, hookimpl, ranks
from dalib.models.batchnorm import synchronised
from dalib_plugins.adversarial import Adversarial
from dalib_plugins.minent import MinEnt
from dalib_plugins.supervised import Supervised
from tests.distributed.launch import on_ranks

CLASSES, IMAGES, SIZE, STEPS = 5, 8, (32, 64), 3


def batch_norm_of_all_ranks(self, x):
    """SyncBatchNorm's forward on a CPU, for which torch has none, by sums over the ranks."""
    if not self.training:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
    count = ranks.world() * x.numel() // x.shape[1]
    mean = ranks.total(x.sum((0, 2, 3))) / count
    centred = x - mean.view(-1, 1, 1)
    variance = ranks.total(centred.square().sum((0, 2, 3))) / count
    with torch.no_grad():
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance * count / (count - 1), self.momentum)
    scale = self.weight * (variance + self.eps).rsqrt()
    return centred * scale.view(-1, 1, 1) + self.bias.view(-1, 1, 1)


class Consistency(MinEnt):
    """The student's mixed predictions towards the teacher's on the target, weighted by the confident share."""

    requires = frozenset({"target.image", "mixed.image"})
    outputs = frozenset({"mixed.logits", "target.logits"})

    @hookimpl
    def setup(self, ctx):
        ctx.teacher(decay=0.9)
        ctx.module("reference", lambda: copy.deepcopy(ctx.model), trains=None)

    @hookimpl
    def loss(self, step):
        truth = step.teacher_logits("target").argmax(1)
        values = F.cross_entropy(step.logits("mixed"), truth, reduction="none")
        confident = step.teacher_logits("target").softmax(1).amax(1) > 0.25
        step.log("confident", step.across.sum(confident) / step.across.sum(torch.ones_like(confident)))
        return {"consistency": step.mean(values, confident)}


def streams(index, micro, images):
    """Return the streams of one micro-batch after pre_batch: each image with more ignored pixels than the last."""
    generator = torch.Generator().manual_seed(100 * index + micro)
    image = torch.rand(3, images, 3, *SIZE, generator=generator)
    label = torch.randint(CLASSES, (2, images, *SIZE), generator=generator)
    for i in range(images):
        label[:, i, : i * SIZE[0] // (images - 1)] = 255
    weight = torch.rand(images, *SIZE, generator=generator)
    return {
        "source": Stream(image[0], label[0]),
        "target": Stream(image[1]),
        "mixed": Stream(image[2], label[1], weight),
    }


def own_part(stream):
    """Return this rank's images of a stream."""
    part = slice(*(len(stream.image) // ranks.world() * (ranks.rank() + end) for end in (0, 1)))
    fields = (None if field is None else field[part] for field in (stream.image, stream.label, stream.weight))
    return Stream(*fields)


def train(accumulate=1, sync=True, images=IMAGES):
    """Return each step's terms, and the state of networks and optimisers after the first step and the last."""
    nn.SyncBatchNorm.forward = batch_norm_of_all_ranks
    torch.manual_seed(ranks.rank())  # the ranks' networks differ before the engine
    network = create_model("bisenet", CLASSES)
    stack = [
        Supervised(streams=["source", "mixed"]),
        MinEnt(weight=0.1),
        Consistency(weight=0.5),
        Adversarial(weight=0.01),
    ]
    with pytest.MonkeyPatch.context() as patch:
        for module in ("engine", "context"):
            patch.setattr(
                f"dalib.core.{module}.synchronised", lambda network, _: synchronised(network, torch.device("meta"))
            )
        engine = Engine(
            network,
            stack,
            optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.01, momentum=0.9, weight_decay=5e-4),
            loss=SegmentationLoss(ohem=0.3, min_kept=3_000),
            clip=1.0,
            sync_batch_norm=sync,
            device="cpu",
        )
    terms, states = [], []
    for index in range(STEPS):
        micro = [Batch({n: own_part(s) for n, s in streams(index, m, images).items()}) for m in range(accumulate)]
        terms.append({name: value.clone() for name, value in engine.step(*micro).items()})
        states.append(copy.deepcopy(engine.networks.state_dict()))
    return {"terms": terms, "first": states[0], "last": states[-1]}


def tensors(value, path=""):
    """Yield the tensors of nested containers with their places."""
    if isinstance(value, torch.Tensor):
        yield path, value
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value if isinstance(value, list) else ()):
        yield from tensors(inner, f"{path}/{key}")


def differences(one, other):
    """Return the greatest difference of each float tensor by its place, relative to the greatest value or 1."""
    pairs = zip(tensors(one), tensors(other), strict=True)
    floats = [(path, a, b) for (path, a), (_, b) in pairs if a.is_floating_point()]
    return {path: float((a - b).abs().max() / b.abs().max().clamp(min=1)) for path, a, b in floats}


def assert_same_bits(one, *others):
    for other in others:
        assert one["first"]["modules"]["consistency/reference"] == other["first"]["modules"]["consistency/reference"]
        assert all(torch.equal(a, b) for (_, a), (_, b) in zip(tensors(one), tensors(other), strict=True))


@pytest.mark.distributed
@pytest.mark.parametrize(("world", "accumulate"), [(2, 2), (4, 1)])
def test_ranks_train_as_one_process_with_the_same_batch(world, accumulate, tmp_path):
    alone = train(accumulate=accumulate)
    found = on_ranks(world, train, tmp_path, accumulate=accumulate)
    for path, difference in differences(alone, found[0]).items():
        if "/optimizer" in path:
            continue
        # Adam moves a weight by its rate, 1e-4, to the side that rounding decides where a gradient is close to 0.
        steps = 1 if path.startswith("/first") else STEPS
        assert difference < (2e-4 * steps if "/modules" in path else 1e-5), path
    first, of_ranks = (
        state["first"]["modules"]["adversarial/logits"]["optimizer"]["state"] for state in (alone, found[0])
    )
    for number, state in first.items():  # rounding turns one LeakyReLU in 512 here, below the last layer's two tensors
        gradient, its = state["exp_avg"], of_ranks[number]["exp_avg"]
        assert (gradient - its).norm() < (1e-4 if number >= len(first) - 2 else 5e-3) * gradient.norm()
    assert_same_bits(*found)


@pytest.mark.distributed
def test_with_batch_norm_of_its_own_each_rank_still_ends_with_the_same_bits(tmp_path):
    assert_same_bits(*on_ranks(3, train, tmp_path, sync=False, images=9))
