"""BiSeNet V1: the reference numbers, and its auxiliary heads."""

import pytest
import torch
from torch import Tensor

from dalib.models import BiSeNetV1, load_weights, wrap_model
from tests.golden import Golden


@pytest.fixture(scope="module")
def network() -> BiSeNetV1:
    return BiSeNetV1(19)


def test_official_weights_give_the_official_logits(golden: Golden) -> None:
    network = BiSeNetV1(19)
    report = load_weights(network, golden.state("bisenetv1_coincheung"))
    assert (report.layout, report.missing, report.unexpected) == ("bisenetv1_coincheung", (), ())
    assert {key.split(".")[0] for key in report.heads} == {"head8", "head16"}
    with torch.inference_mode():
        logits = wrap_model(network, 19, mean=(0, 0, 0), std=(1, 1, 1)).eval()(golden.image())
    golden.check("bisenetv1_coincheung", {"out0": logits[:, :, ::4, ::4]})


def test_has_the_published_parameters_with_and_without_training_heads(network: BiSeNetV1) -> None:
    sizes = {name: p.numel() for name, p in network.named_parameters()}
    assert sum(sizes.values()) == 13_425_721
    assert sum(size for name, size in sizes.items() if not name.startswith(("head8.", "head16."))) == 13_275_539


def test_a_batch_of_one_of_an_odd_size_trains_every_parameter(network: BiSeNetV1) -> None:
    model = wrap_model(network, 19).train()
    outputs: dict[str, Tensor] = model(torch.rand(1, 3, 47, 65), outputs=True)
    sizes = {name: tuple(output.shape[1:]) for name, output in outputs.items()}
    assert sizes == {
        "logits": (19, 47, 65),
        "low_res": (19, 6, 9),
        "features": (256, 6, 9),
        "aux.8": (19, 6, 9),
        "aux.16": (19, 3, 5),
    }
    sum(outputs[name].square().mean() for name in ("logits", "aux.8", "aux.16")).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []
