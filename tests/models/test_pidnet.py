"""PIDNet: the reference numbers of its three sizes, and its training heads."""

import copy

import pytest
import torch
from torch import Tensor

from dalib.models import PIDNet, load_weights, pidnet_l, pidnet_m, pidnet_s, wrap_model
from tests.golden import Golden
from tests.models import published_pidnet

SIZES = {
    "pidnet_s": (pidnet_s, 7_720_935, 7_625_715),
    "pidnet_m": (pidnet_m, 28_763_111, 28_538_515),
    "pidnet_l": (pidnet_l, 37_314_311, 36_939_571),
}
# PIDNet-L magnifies rounding: its official float32 output lies 1.06e-4 from the same network in float64, and 58 float32
# evaluations (1 to 64 threads, several instruction sets) lie between 1.3e-5 and 4.3e-4 from it. A BatchNorm eps of
# 1.1e-5 instead of 1e-5 would move it by 3.9e-4.
TOLERANCES = {"pidnet_s": 1e-4, "pidnet_m": 1e-4, "pidnet_l": 1.2e-4}


@pytest.fixture(scope="module")
def networks() -> dict[str, PIDNet]:
    return {name: factory(19) for name, (factory, _, _) in SIZES.items()}


@pytest.mark.parametrize("name", SIZES)
def test_official_weights_give_the_official_logits(name: str, networks: dict[str, PIDNet], golden: Golden) -> None:
    network = networks[name]
    report = load_weights(network, golden.state(name))
    assert (report.layout, report.missing, report.unexpected) == ("pidnet", (), ())
    assert {key.split(".")[0] for key in report.heads} == {"head_p", "head_d"}
    with torch.inference_mode():
        logits = copy.deepcopy(network).double().eval()(golden.image().double())["logits"]
    golden.check(name, {"out0": logits}, TOLERANCES[name])


def test_pidnet_l_differs_from_its_official_output_only_where_rounding_moves_it(
    networks: dict[str, PIDNet], golden: Golden
) -> None:
    """Half a unit in the last place of float32, added to the weights in float64, moves the output along one direction.

    What the stored output differs by lies along it; the rest is well within the tolerance of the other networks.
    """
    network = networks["pidnet_l"]
    load_weights(network, golden.state("pidnet_l"))
    exact, nudged = (copy.deepcopy(network).double().eval() for _ in range(2))
    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode():
        for p in nudged.parameters():
            p.mul_(1 + 2**-24 * (2 * torch.rand(p.shape, generator=generator, dtype=p.dtype) - 1))
        image = golden.image().double()
        logits = exact(image)["logits"]
        moved = nudged(image)["logits"] - logits
        difference = golden.output("pidnet_l") - logits
        rest = difference - (difference * moved).sum() / moved.square().sum() * moved
    assert float(moved.abs().max() / logits.std()) > 2e-5
    assert float(rest.abs().max() / logits.std()) < 0.5e-4


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", SIZES)
def test_float32_equals_the_published_operations_in_every_bit(
    name: str, threads: int, networks: dict[str, PIDNet], golden: Golden
) -> None:
    """So what PIDNet-L's stored output differs by is the machine that it was made on: a sum in another order."""
    network, state = copy.deepcopy(networks[name]).eval(), golden.state(name)
    load_weights(network, state)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        with torch.inference_mode():
            assert torch.equal(network(golden.image())["logits"], published_pidnet.logits(state, golden.image()))
    finally:
        torch.set_num_threads(before)


def test_official_training_weights_give_the_heads_of_three_branches(golden: Golden) -> None:
    network = pidnet_s(19).eval()
    report = load_weights(network, golden.state("pidnet_s_train"))
    assert (report.missing, report.unexpected, report.heads) == ((), (), ())
    network.training = True  # the heads run, while every BatchNorm keeps to its running statistics
    with torch.inference_mode():
        outputs = network(golden.image())
    golden.check("pidnet_s_train", {"out0": outputs["aux.p"], "out1": outputs["logits"], "out2": outputs["boundary"]})


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
