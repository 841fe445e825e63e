"""The feature distance against its formula in float64, its layer, its reference and its mask."""

import copy

import pytest
import torch
from torch import nn

from dalib import Batch, Engine, StackError, Stream, create_model, create_strategy, wrap_model
from dalib_plugins.feature_distance import THINGS, full_cells
from tests.tiny import Supervised, TinyModel, tiny_batch, tiny_model

BACKBONE = "test_resnet"
CITYSCAPES_THINGS = (6, 7, 11, 12, 13, 14, 15, 16, 17, 18)  # as DAFormer lists them
SIZE = (64, 96)


def network(seed=0, backbone=BACKBONE):
    torch.manual_seed(seed)
    return create_model("bisenet", 19, backbone=backbone)


def batch(seed=1):
    """Return images whose labels are blocks of 32x32, each of one class but for a share of its pixels."""
    generator = torch.Generator().manual_seed(seed)
    blocks = torch.tensor([[[13, 18, 11], [0, 6, 5]], [[11, 4, 17], [12, 10, 7]]])
    label = blocks.repeat_interleave(32, 1).repeat_interleave(32, 2)
    spoilt = torch.rand(label.shape, generator=generator) < torch.linspace(0, 0.45, SIZE[1])
    return Batch({"source": Stream(torch.rand(2, 3, *SIZE, generator=generator), label.masked_fill(spoilt, 0))})


def of_cells(label, things, grid, ratio):
    """The mask by a loop over cells."""
    height, width = (side // cells for side, cells in zip(label.shape[1:], grid, strict=True))
    mask = torch.zeros(len(label), *grid, dtype=torch.bool)
    for image, row, column in mask.new_ones(mask.shape).nonzero().tolist():
        cell = label[image, row * height : (row + 1) * height, column * width : (column + 1) * width]
        mask[image, row, column] = any((cell == thing).double().mean() >= ratio for thing in things)
    return mask


def test_a_cell_is_full_from_the_ratio_on_of_one_thing_and_not_of_several_together():
    label = torch.zeros(1, 4, 16, dtype=torch.long)
    label[:, :3, :4] = 13  # 12 of 16
    label[:, :3, 4:8], label[:, 2, 7] = 13, 0  # 11 of 16
    label[:, :2, 8:12], label[:, 2:, 8:12] = 13, 14  # 16 of 16, of two
    label[:, :3, 12:], label[:, 3, 12:] = 11, 255  # ignored pixels fill nothing
    things = torch.tensor(CITYSCAPES_THINGS)
    assert full_cells(label, things, (1, 4), 0.75).tolist() == [[[True, False, False, True]]]
    assert torch.equal(full_cells(label, things, (1, 4), 0.75), of_cells(label, CITYSCAPES_THINGS, (1, 4), 0.75))


def test_the_distance_is_the_mean_over_full_cells_of_the_l2_norm_to_the_start():
    start, given = network(), batch()
    student, reference = copy.deepcopy(start).train(), copy.deepcopy(start).eval()
    strategy = create_strategy("feature_distance")
    engine = Engine(copy.deepcopy(start), [strategy], device="cpu")
    mine, its = (model(given["source"].image, outputs=["backbone.body.layer4"]) for model in (student, reference))
    difference = (mine["backbone.body.layer4"].double() - its["backbone.body.layer4"].double()).square().sum(1).sqrt()
    cells = of_cells(given["source"].label, CITYSCAPES_THINGS, (2, 3), 0.75)
    assert 1 < cells.sum() < 6
    expected = difference[cells].mean().item()
    assert engine.step(given)["feature_distance/distance"].item() == pytest.approx(expected, rel=1e-5)


def test_its_defaults_are_the_published_ones():
    strategy = create_strategy("feature_distance", layer="0")
    assert (strategy.weight, strategy.ratio) == (0.005, 0.75)
    Engine(pixelwise(), [strategy], device="cpu")
    assert strategy._things.tolist() == list(CITYSCAPES_THINGS) and len(THINGS) == 10


@pytest.mark.parametrize(
    ("model", "backbone", "layer"),
    [
        ("bisenet", "resnet18", "backbone.body.layer4"),
        ("timm", "convnext_atto", "backbone.body.stages_3"),
        ("timm", "test_efficientnet", "backbone.body.blocks.4"),
        ("deeplabv2", "test_resnet", "backbone.body.layer4"),
    ],
)
def test_the_layer_is_the_backbones_deepest_of_any_network(model, backbone, layer):
    with torch.device("meta"):
        model = create_model(model, 19, backbone=backbone)
        engine = Engine(model, [create_strategy("feature_distance")], device="meta", purpose="plan")
    assert list(engine._taps) == [layer]


def test_the_reference_stays_at_the_start_while_the_student_moves_away():
    engine = Engine(network(), [Supervised(), create_strategy("feature_distance")], device="cpu")
    reference = engine.modules["feature_distance/reference"].module
    before = copy.deepcopy(reference.state_dict())
    for index in range(2):
        engine.step(batch(index))
    assert all(torch.equal(value, before[key]) for key, value in reference.state_dict().items())
    assert not torch.equal(engine.model.state_dict()["network.classifier.weight"], before["network.classifier.weight"])


def pixelwise():
    torch.manual_seed(0)
    return wrap_model(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 19, 1)), 19)


def test_it_pulls_features_back_to_the_start():
    strategy = create_strategy("feature_distance", layer="0", weight=1.0)
    engine = Engine(pixelwise(), [strategy], optimizer=lambda p: torch.optim.SGD(p, lr=0.1), device="cpu")
    assert engine.step(batch())["feature_distance/distance"] == 0  # of the network to itself, with a gradient of 0
    nn.init.normal_(engine.model.network[0].weight)
    found = [engine.step(batch())["feature_distance/distance"].item() for _ in range(20)]
    assert found[-1] < 0.9 * found[0]


def test_without_a_full_cell_it_is_exactly_0_and_moves_nothing():
    given = batch()
    given.write("source", label=torch.zeros_like(given["source"].label))
    engine = Engine(network(), [create_strategy("feature_distance", weight=1.0)], device="cpu")
    assert engine.step(given)["feature_distance/distance"].item() == 0.0
    gradients = [p.grad for p in engine.model.parameters() if p.grad is not None]
    assert gradients and not any(gradient.any() for gradient in gradients)


def test_a_file_of_weights_may_be_the_reference(tmp_path):
    torch.save(network(5).network.state_dict(), tmp_path / "other.pt")
    reference = {"use": "bisenet", "backbone": BACKBONE, "weights": str(tmp_path / "other.pt")}
    engine = Engine(network(), [create_strategy("feature_distance", reference=reference)], device="cpu")
    found = engine.modules["feature_distance/reference"].module.state_dict()
    assert all(torch.equal(value, found[key]) for key, value in network(5).state_dict().items())
    assert engine.step(batch())["feature_distance/distance"] > 0


def test_a_run_that_resumes_has_the_same_reference():
    def made():
        return Engine(network(), [Supervised(), create_strategy("feature_distance")], device="cpu")

    whole, first, second = made(), made(), made()
    for index in range(3):
        expected = whole.step(batch(index))
    for index in range(2):
        first.step(batch(index))
    second.load_state_dict(first.state_dict())
    assert second.step(batch(2)) == expected


def test_a_compiled_network_has_a_reference_that_is_not():
    compiled = torch.compile(pixelwise(), backend="eager")
    engine, plain = (
        Engine(model, [Supervised(), create_strategy("feature_distance", layer="0")], device="cpu")
        for model in (compiled, pixelwise())
    )
    assert type(engine.modules["feature_distance/reference"].module) is type(plain.model)
    for index in range(2):
        torch.testing.assert_close(engine.step(batch(index)), plain.step(batch(index)))


def test_what_it_cannot_tell_is_named():
    def refusal(match, model=None, classes=None, **options):
        with pytest.raises(StackError, match=match):
            Engine(model or network(), [create_strategy("feature_distance", **options)], device="cpu", classes=classes)

    refusal("there is no class 'lorry'", things=["lorry"])
    refusal("none of Cityscapes' things is among the classes 0, 1", tiny_model(), layer="body")
    refusal("which layer of PIDNet gives its deepest features; name it as `layer`", create_model("pidnet_s", 19))
    refusal("has no layer 'backbone.layr'", layer="backbone.layr")
    torch.manual_seed(0)
    other = {"use": "bisenet", "backbone": "test_efficientnet"}
    layers = {"layer": "refine32", "things": ["car", "person"]}
    engine = Engine(network(), [create_strategy("feature_distance", reference=other, **layers)], device="cpu")
    with pytest.raises(
        StackError, match=r"'refine32' gives features \(2, .*\) in the network and \(2, .*\) in the ref"
    ):
        engine.step(batch())


def test_classes_of_other_data_have_those_things_that_they_name():
    strategy = create_strategy("feature_distance", layer="body")
    Engine(wrap_model(TinyModel(), 5), [strategy], device="cpu", classes=["sky", "car", "road", "person", "wall"])
    assert strategy._things.tolist() == [3, 1]


def test_it_shares_the_forward_of_the_supervised_loss():
    strategy = create_strategy("feature_distance", layer="body", things=["1"])
    engine = Engine(wrap_model(TinyModel(), 5), [Supervised(), create_strategy("minent"), strategy], device="cpu")
    assert [{s.name for s in group} for group in engine.stack.groups] == [
        {"supervised", "feature_distance"},
        {"minent"},
    ]
    engine.step(tiny_batch())
