"""Every network under every kind of strategy, with nothing changed but its name."""

import pytest
import torch

from dalib import Engine, create_dataset, create_model, create_strategy, list_models
from dalib.core.precision import PrecisionName

SIZE = (47, 65)


@pytest.mark.parametrize(("name", "precision"), [*((name, "fp32") for name in list_models()), ("pidnet_s", "bf16")])
def test_trains_two_steps_with_fda_adversarial_and_dacs_at_an_odd_size_and_batch_one(
    name: str, precision: PrecisionName
) -> None:
    torch.manual_seed(0)
    source, target = (create_dataset("diorama", domain=domain, size=SIZE, length=2) for domain in ("source", "target"))
    stack = [create_strategy("fda", beta=0.05)]
    stack += [create_strategy(strategy) for strategy in ("supervised", "adversarial", "dacs")]
    engine = Engine(create_model(name, 19), stack, device="cpu", precision=precision)
    steps = list(engine.iterate(source, target, steps=2, batch_size=1))
    for terms in steps:
        assert {"supervised/source", "adversarial/adversarial", "adversarial/source", "dacs/mixed"} <= terms.keys()
        assert all(value.isfinite() for value in terms.values())
    assert steps[0]["supervised/source"] != steps[1]["supervised/source"]
    assert engine.predict(target[0][0][None]).shape == (1, *SIZE)
    assert all(p.isfinite().all() for p in engine.model.parameters())


@pytest.mark.parametrize(
    "name", [name if name == "timm" else pytest.param(name, marks=pytest.mark.slow) for name in list_models()]
)
def test_a_compiled_model_takes_images_of_another_size(name: str) -> None:
    torch.manual_seed(0)
    model = create_model(name, 5).eval()
    compiled = torch.compile(model, backend="aot_eager")
    with torch.no_grad():
        for size in ((64, 96), (97, 66)):
            image = torch.rand(1, 3, *size)
            expected = model(image)
            torch.testing.assert_close(compiled(image), expected, rtol=0, atol=1e-4 * float(expected.std()))
