"""PIDNet: the reference numbers of its three sizes, and its training heads."""

import copy

import pytest
import torch
from torch import Tensor

from dalib.models import PIDNet, load_weights, pidnet_l, pidnet_m, pidnet_s, wrap_model
from tests.golden import Golden

SIZES = {
    "pidnet_s": (pidnet_s, 7_720_935, 7_625_715),
    "pidnet_m": (pidnet_m, 28_763_111, 28_538_515),
    "pidnet_l": (pidnet_l, 37_314_311, 36_939_571),
}
# In float32, of the spread. PIDNet-L magnifies rounding: its official code lies up to 3e-3 from itself in float64.
TOLERANCES = {"pidnet_s": 1e-4, "pidnet_m": 1e-4, "pidnet_l": 5e-3}


@pytest.fixture(scope="module")
def networks() -> dict[str, PIDNet]:
    return {name: factory(19) for name, (factory, _, _) in SIZES.items()}


@pytest.mark.parametrize("name", SIZES)
def test_official_weights_give_the_official_logits(name: str, networks: dict[str, PIDNet], golden: Golden) -> None:
    network = copy.deepcopy(networks[name])
    report = load_weights(network, golden.state(name))
    assert (report.layout, report.missing, report.unexpected) == ("pidnet", (), ())
    assert {key.split(".")[0] for key in report.heads} == {"head_p", "head_d"}
    with torch.inference_mode():
        for dtype, tolerance in ((torch.float32, TOLERANCES[name]), (torch.float64, 1e-9)):
            logits = network.to(dtype).eval()(golden.image().to(dtype))["logits"]
            golden.check(name, {"out0": logits}, tolerance)


def test_official_training_weights_give_the_heads_of_three_branches(golden: Golden) -> None:
    network = pidnet_s(19).double().eval()
    report = load_weights(network, golden.state("pidnet_s_train"))
    assert (report.missing, report.unexpected, report.heads) == ((), (), ())
    network.training = True  # the heads run, while every BatchNorm keeps to its running statistics
    with torch.inference_mode():
        outputs = network(golden.image().double())
    heads = {"out0": outputs["aux.p"], "out1": outputs["logits"], "out2": outputs["boundary"]}
    golden.check("pidnet_s_train", heads, 1e-9)


@pytest.mark.parametrize("name", SIZES)
def test_has_the_published_parameters_with_and_without_training_heads(name: str, networks: dict[str, PIDNet]) -> None:
    _, training, inference = SIZES[name]
    sizes = {key: p.numel() for key, p in networks[name].named_parameters()}
    assert sum(sizes.values()) == training
    assert sum(size for key, size in sizes.items() if not key.startswith(("head_p.", "head_d."))) == inference


@pytest.mark.parametrize("name", ["pidnet_s", "pidnet_l"])
def test_a_batch_of_one_of_an_odd_size_trains_every_parameter(name: str, networks: dict[str, PIDNet]) -> None:
    model = wrap_model(networks[name], 19).train()
    outputs: dict[str, Tensor] = model(torch.rand(1, 3, 47, 65), outputs=True)
    sizes = {name: tuple(output.shape[1:]) for name, output in outputs.items()}
    assert sizes.pop("features")[1:] == (6, 9)
    assert sizes == {"logits": (19, 47, 65), "low_res": (19, 6, 9), "aux.p": (19, 6, 9), "boundary": (1, 6, 9)}
    sum(outputs[name].square().mean() for name in ("logits", "aux.p", "boundary")).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []
