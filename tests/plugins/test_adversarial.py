"""Discriminators against the official one, and the engine's adversarial steps against a hand-written loop."""

import copy
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dalib import Engine
from dalib.errors import StackError
from dalib_plugins.adversarial import Adversarial, OutputDiscriminator, SeedDiscriminator, domain_loss
from dalib_plugins.minent import self_information
from dalib_plugins.supervised import Supervised
from tests.tiny import TinyModel, tiny_batch, tiny_model

SIZE = (32, 40)


def make_engine(strategies, model=None, **options) -> Engine:
    sgd = lambda parameters: torch.optim.SGD(parameters, lr=0.1)  # noqa: E731
    return Engine(model or tiny_model(), strategies, optimizer=sgd, device="cpu", **options)


def test_equals_the_official_discriminator(shared: Path):
    spec = importlib.util.spec_from_file_location("fill", shared / "golden" / "fill.py")
    fill = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fill)
    shapes = json.loads((shared / "golden" / "discriminator_adaptsegnet.keys.json").read_text())
    golden = np.load(shared / "golden" / "discriminator_adaptsegnet.out.npz")
    discriminator = OutputDiscriminator(19)
    discriminator.load_state_dict({key: torch.from_numpy(value) for key, value in fill.fill(shapes).items()})
    with torch.no_grad():
        found = discriminator(torch.from_numpy(fill.image(0, 1, 19, 64, 96)).softmax(1)).numpy()
    assert sum(p.numel() for p in discriminator.parameters()) == 2_781_121
    assert np.abs(found - golden["out0"]).max() < 1e-4 * golden["out0"].std()


def test_the_seeds_variant_judges_at_full_size_with_a_second_sigmoid():
    discriminator = SeedDiscriminator(5, channels=4)
    prediction = discriminator(torch.rand(1, 5, 64, 96))
    assert prediction.shape == (1, 1, 64, 96)
    assert prediction.min() > 0 and prediction.max() < 1
    assert domain_loss(prediction, 0.0, "bce") > 0.693 and domain_loss(prediction, 1.0, "bce") > 0.313


def test_the_seeds_variant_upsamples_bilinearly_between_pixel_centres():
    torch.manual_seed(0)
    seed, plain, x = SeedDiscriminator(5, channels=4), OutputDiscriminator(5, channels=4), torch.rand(1, 5, 64, 96)
    plain.load_state_dict(seed.state_dict())
    torch.testing.assert_close(seed(x), F.interpolate(plain(x), (64, 96), mode="bilinear").sigmoid())


@pytest.mark.parametrize(("variant", "expected"), [("adaptsegnet", OutputDiscriminator), ("seed", SeedDiscriminator)])
def test_a_variant_names_its_discriminator(variant, expected):
    critic = make_engine([Adversarial(variant=variant)]).modules["adversarial/logits"]
    assert type(critic.module) is expected


def test_maps_too_small_for_five_strides_are_refused_with_their_size():
    with pytest.raises(StackError, match=r"maps of at least 32 x 32 pixels, got \(31, 40\)"):
        OutputDiscriminator(5)(torch.rand(1, 5, 31, 40))


@pytest.mark.parametrize(("objective", "expected"), [("bce", np.log1p(np.exp(-2.0))), ("ls", 1.0)])
def test_objectives_compare_logits_with_the_domain(objective, expected):
    assert domain_loss(torch.full((1, 1, 2, 2), 2.0), 1.0, objective).item() == pytest.approx(expected, rel=1e-6)


class Loop:
    """AdaptSegNet's order of operations written out: source, fooling term, then the discriminator's two halves."""

    def __init__(self, model: torch.nn.Module, discriminator: torch.nn.Module, weight: float, see) -> None:
        # In the engine's memory format: Adam would magnify the rounding of another order of sums.
        self.model = copy.deepcopy(model).train().to(memory_format=torch.channels_last)
        self.discriminator = copy.deepcopy(discriminator)
        self.weight, self.see = weight, see
        self.sgd = torch.optim.SGD(self.model.parameters(), lr=0.1)
        self.adam = torch.optim.Adam(self.discriminator.parameters(), lr=1e-4, betas=(0.9, 0.99))

    def judge(self, logits: Tensor, domain: float) -> Tensor:
        verdict = self.discriminator(self.see(logits))
        return F.binary_cross_entropy_with_logits(verdict, torch.full_like(verdict, domain))

    def step(self, batch) -> tuple[float, float, float]:
        source, target = batch["source"], batch["target"]
        self.sgd.zero_grad()
        self.discriminator.requires_grad_(False)
        ours = self.model(source.image)
        F.cross_entropy(ours, source.label, ignore_index=255).backward()
        theirs = self.model(target.image)
        fooling = self.judge(theirs, 0.0)
        (self.weight * fooling).backward()
        self.discriminator.requires_grad_(True)
        self.adam.zero_grad()
        halves = [self.judge(logits.detach(), domain) / 2 for logits, domain in ((ours, 0.0), (theirs, 1.0))]
        for half in halves:
            half.backward()
        self.sgd.step()
        self.adam.step()
        return fooling.item(), halves[0].item(), halves[1].item()


@pytest.mark.parametrize(
    ("seen", "see"), [("softmax", lambda logits: logits.softmax(1)), ("self_information", self_information)]
)
def test_steps_equal_a_hand_written_loop(seen, see):
    model = tiny_model()
    loop_model = copy.deepcopy(model)
    engine = make_engine([Supervised(auxiliary=0.0), Adversarial(weight=0.5, input=seen)], model)
    critic = engine.modules["adversarial/logits"].module
    loop = Loop(loop_model, critic, 0.5, see)
    for index in range(3):
        batch = tiny_batch(index, SIZE)
        terms = engine.step(batch)
        found = [terms[f"adversarial/{name}"].item() for name in ("adversarial", "source", "target")]
        assert found == pytest.approx(loop.step(batch), abs=1e-6)
    for ours, theirs in ((engine.model, loop.model), (critic, loop.discriminator)):
        for name, value in theirs.state_dict().items():
            assert (ours.state_dict()[name] - value).abs().max() < 1e-6, name


def test_every_level_has_its_own_discriminator_and_factor():
    strategy = Adversarial(levels={"logits": 1.0, "aux.1": 0.25})
    engine = make_engine([strategy])
    terms = engine.step(tiny_batch(0, SIZE))
    assert set(engine.modules) == {"adversarial/logits", "adversarial/aux.1"}
    assert terms["adversarial/adversarial.aux.1"].item() == pytest.approx(0.25 * np.log(2), rel=0.1)
    assert terms["adversarial/adversarial"].item() == pytest.approx(np.log(2), rel=0.1)


class Coarse(TinyModel):
    """Gives an output at a sixteenth of the size, too."""

    def forward(self, x: Tensor, outputs: bool = False):
        found = super().forward(x, outputs)
        return {**found, "aux.16": F.avg_pool2d(found["logits"], 16)} if outputs else found


def test_each_level_is_judged_by_its_own_discriminator():
    """Terms of the first step are those of the discriminator that carries the level's name."""
    engine = make_engine([Adversarial(levels={"logits": 1.0, "aux.1": 1.0})])
    critics = {level: copy.deepcopy(engine.modules[f"adversarial/{level}"].module) for level in ("logits", "aux.1")}
    outputs = tiny_model().train()(tiny_batch(0, SIZE)["target"].image, outputs=True)
    terms = engine.step(tiny_batch(0, SIZE))
    expected = {level: domain_loss(c(outputs[level].softmax(1)), 0.0, "bce").item() for level, c in critics.items()}
    assert terms["adversarial/adversarial"].item() == pytest.approx(expected["logits"], abs=1e-6)
    assert terms["adversarial/adversarial.aux.1"].item() == pytest.approx(expected["aux.1"], abs=1e-6)
    swapped = domain_loss(critics["logits"](outputs["aux.1"].softmax(1)), 0.0, "bce").item()
    assert swapped != pytest.approx(expected["aux.1"], abs=1e-4)  # so that one for all would be told


@pytest.mark.parametrize("size", [(32, 40), (64, 96), (70, 33)])
def test_predictions_are_judged_at_the_size_of_their_image(size):
    """Whatever the size of the image or of the output: the fully convolutional discriminator sees the whole of it."""
    engine = make_engine([Adversarial(levels={"logits": 1.0, "aux.16": 1.0})], Coarse())
    seen = {"logits": set(), "aux.16": set()}
    for level, shapes in seen.items():
        module = engine.modules[f"adversarial/{level}"].module
        module.register_forward_pre_hook(lambda _, inputs, shapes=shapes: shapes.add(tuple(inputs[0].shape)))
    batch = tiny_batch(0, size)
    batch.write("source", image=torch.rand(2, 3, 48, 56), label=torch.zeros(2, 48, 56, dtype=torch.int64))
    engine.step(batch)
    assert seen == {level: {(2, 5, *size), (2, 5, 48, 56)} for level in seen}


def test_an_output_smaller_than_the_image_is_resized_bilinearly():
    torch.manual_seed(0)
    model = Coarse()
    engine = make_engine([Adversarial(levels={"aux.16": 1.0})], copy.deepcopy(model))
    critic = copy.deepcopy(engine.modules["adversarial/aux.16"].module)
    batch = tiny_batch(0, SIZE)
    coarse = model.train()(batch["target"].image, outputs=True)["aux.16"]
    resized = F.interpolate(coarse, SIZE, mode="bilinear", align_corners=False)
    expected = domain_loss(critic(resized.softmax(1)), 0.0, "bce").item()
    assert engine.step(batch)["adversarial/adversarial.aux.16"].item() == pytest.approx(expected, abs=1e-6)


def test_an_output_that_the_model_lacks_is_named():
    expected = r"'adversarial' reads the output source\.aux\.32, which this model does not give"
    with pytest.raises(StackError, match=expected):
        make_engine([Adversarial(levels={"aux.32": 1.0})]).step(tiny_batch(0, SIZE))


def test_the_critics_rate_follows_the_runs_schedule():
    engine = make_engine([Adversarial(lr=2e-4)], schedule=lambda index: 0.5)
    engine.step(tiny_batch(0, SIZE))
    assert engine.modules["adversarial/logits"].optimizer.param_groups[0]["lr"] == 1e-4
