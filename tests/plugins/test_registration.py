"""The package as dalib meets it: by name, with options from a recipe, without a word to the device's host."""

import subprocess
import sys

import pytest
import torch

import dalib_plugins
from dalib import Engine, Registry, Strategy
from dalib.errors import RecipeError
from dalib.options import check_options
from tests.tiny import TinyModel, tiny_batch, tiny_model

OPTIONS = {
    "augment": {
        "streams": ["source", "target"],
        "crop": [40, 48],
        "scale": [0.5, 2.0],
        "flip": 0.5,
        "color_jitter": [0.5, 0.5, 0.5, 0.05],
        "blur": {"kernel": 3, "sigma": [0.2, 0.8]},
    },
    "fda": {"beta": [0.03, 0.05]},
    "supervised": {"ohem": 0.7, "min_kept": 16},
    "adversarial": {"weight": 0.001, "levels": {"logits": 1, "aux.1": 0.2}},
    "dacs": {"threshold": 0.9, "ema": 0.99, "teacher_batch_norm": "train"},
    "minent": {"weight": 0.001, "eta": 2},
    "crf": {"iterations": 2, "cell": 8},
}


def make(name: str, options: dict[str, object]) -> Strategy:
    registry = Registry()
    registry.load("bundled", dalib_plugins)
    factory = registry.get("strategy", name)
    return factory(**check_options(factory, options, "strategies[0]"))


def test_all_bundled_strategies_stack_from_recipe_options():
    assert {name: make(name, options).name for name, options in OPTIONS.items()} == {name: name for name in OPTIONS}
    for precision in ("fp32", "bf16"):
        stack = [make(name, options) for name, options in OPTIONS.items()]
        engine = Engine(tiny_model(), stack, device="cpu", precision=precision)
        for index, batch in enumerate((2, 1)):
            terms = engine.step(tiny_batch(index, (41, 50), batch))
            assert all(value.isfinite() for value in terms.values())


def test_a_plan_sets_all_of_them_up_on_the_meta_device():
    options = {**OPTIONS, "augment": {**OPTIONS["augment"], "kornia": [{"use": "RandomRotation", "degrees": 10.0}]}}
    with torch.device("meta"):
        engine = Engine(TinyModel(), [make(name, values) for name, values in options.items()], device="meta")
    assert engine.teacher is not None and len(engine.critics) == 2


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("fda", {"beta": [1, "a"]}, r"strategies\[0\]\.beta"),
        ("augment", {"blur": {"kernl": 3}}, r"strategies\[0\]\.blur\.kernl: unknown option"),
        ("dacs", {"confidence": "pixel"}, "'batch' or 'image'"),
        ("dacs", {"treshold": 0.9}, "Did you mean 'threshold'"),
    ],
)
def test_options_are_checked_to_the_last_level(name, options, message):
    with pytest.raises(RecipeError, match=message):
        make(name, options)


def test_importing_the_package_does_not_import_kornia():
    code = "import sys, dalib_plugins; sys.exit('kornia' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": ":".join(sys.path)}).returncode == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_no_hook_waits_for_the_device():
    stack = [make(name, options) for name, options in OPTIONS.items()]
    engine = Engine(tiny_model(), stack, device="cuda")
    first, again = (tiny_batch(index, (41, 50)).to(engine.device) for index in range(2))
    engine.step(first)
    torch.cuda.set_sync_debug_mode("error")
    try:
        engine.step(again)
    finally:
        torch.cuda.set_sync_debug_mode("default")
