"""PIDNet: the reference numbers of its three sizes, and its training heads."""

import copy
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dalib.models import PIDNet, load_weights, pidnet_l, pidnet_m, pidnet_s, wrap_model
from tests.compiler import COMPILER, needs_compiler
from tests.golden import Golden

SIZES = {
    "pidnet_s": (pidnet_s, 7_720_935, 7_625_715),
    "pidnet_m": (pidnet_m, 28_763_111, 28_538_515),
    "pidnet_l": (pidnet_l, 37_314_311, 36_939_571),
}
# PIDNet-L magnifies rounding: its official float32 output lies 1.06e-4 from the same network in float64.
TOLERANCES = {"pidnet_s": 1e-4, "pidnet_m": 1e-4, "pidnet_l": 1.2e-4}
# Prints each size's largest difference from its official output, in standard deviations of that, on two threads.
FLOAT32 = """
import sys
from pathlib import Path
import torch
from dalib.models import load_weights, pidnet_l, pidnet_m, pidnet_s
from tests.golden import read_golden
torch.set_num_threads(2)
golden = read_golden(Path(sys.argv[1]))
for factory in (pidnet_s, pidnet_m, pidnet_l):
    network, official = factory(19).eval(), golden.output(factory.__name__)
    load_weights(network, golden.state(factory.__name__))
    with torch.inference_mode():
        logits = network(golden.image())["logits"]
    print(float((logits - official).abs().max() / official.std()))
"""


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


def float32_differences(golden: Golden, **environment: str) -> list[float]:
    """Return how far the three sizes lie from their official outputs in a new process with these variables."""
    if torch.backends.cpu.get_cpu_capability() != "AVX512":
        pytest.skip("needs a processor with AVX-512, which the official outputs were made on")
    process = subprocess.run(
        [sys.executable, "-c", FLOAT32, str(golden.folder)],
        env={**os.environ, **environment},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    if process.returncode == 77:
        pytest.skip("needs a processor that lets CPUID trap")
    assert process.returncode == 0, process.stderr
    return [float(line) for line in process.stdout.splitlines()]


def test_float32_gives_the_official_logits_where_products_are_the_same_on_any_processor(golden: Golden) -> None:
    """Intel's library, which multiplies matrices, sums otherwise on AMD's processors, where the official code ran."""
    differences = float32_differences(golden, MKL_CBWR="COMPATIBLE")
    assert len(differences) == 3
    assert max(differences) < 1e-4


@pytest.mark.slow
@needs_compiler
def test_float32_gives_the_official_logits_in_every_bit_on_the_make_of_processor_they_were_made_on(
    golden: Golden, tmp_path: Path
) -> None:
    library, source = tmp_path / "amd_processor.so", Path(__file__).with_name("amd_processor.cpp")
    subprocess.run([*shlex.split(COMPILER), "-O1", "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
    is_amd = "AuthenticAMD" in Path("/proc/cpuinfo").read_text()
    assert float32_differences(golden, **({} if is_amd else {"LD_PRELOAD": str(library)})) == [0, 0, 0]


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
