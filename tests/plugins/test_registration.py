"""The package as dalib meets it: by name, with options from a recipe, without a word to the device's host."""

import subprocess
import sys
import tempfile

import pytest
import torch

import dalib_plugins
from dalib import Engine, Registry, Strategy
from dalib.discovery import default_registry, load_module
from dalib.errors import RecipeError
from dalib.options import check_options
from tests.tiny import tappable_model, tiny_batch, tiny_model

load_module(default_registry(), "tests.tiny_plugin")
FOLDER = tempfile.TemporaryDirectory(prefix="dalib-teacher-")  # gone with the process


def teacher(num_classes: int) -> dict[str, str]:
    """Return a teacher for ``distill`` of so many classes, as a recipe names it."""
    file = f"{FOLDER.name}/{num_classes}.pt"
    torch.save(tiny_model(seed=7, num_classes=num_classes).state_dict(), file)
    return {"use": "tiny", "weights": file}


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
    "feature_distance": {"layer": "body", "things": ["1", "3"], "ratio": 0.5},
    "masked_consistency": {"block": 16, "complementary": True},
    "minent": {"weight": 0.001, "eta": 2},
    "rare_class_sampling": {"temperature": 0.1, "min_pixels": 100},
    "crf": {"iterations": 2, "cell": 8},
    "distill": {"teachers": [teacher(5)], "temperature": 2},
    "bn_adapt": {"alpha": 0.3},  # tent is not here: one strategy of a stack adapts at prediction
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
        engine = Engine(tappable_model(), stack, device="cpu", precision=precision)
        for index, batch in enumerate((2, 1)):
            terms = engine.step(tiny_batch(index, (41, 50), batch))
            assert all(value.isfinite() for value in terms.values())


def test_strategies_that_read_other_streams_share_no_graph():
    names = ("supervised", "fda", "adversarial", "dacs", "minent", "crf", "feature_distance", "rare_class_sampling")
    engine = Engine(tappable_model(), [make(name, OPTIONS[name]) for name in names], device="cpu")
    groups = [{strategy.name for strategy in group} for group in engine.stack.groups]
    assert groups == [{"supervised", "feature_distance"}, {"adversarial", "minent"}, {"dacs"}]


def test_a_plan_sets_all_of_them_up_on_the_meta_device():
    options = {**OPTIONS, "augment": {**OPTIONS["augment"], "kornia": [{"use": "RandomRotation", "degrees": 10.0}]}}
    with torch.device("meta"):
        stack = [make(name, values) for name, values in options.items()]
        engine = Engine(tappable_model(), stack, device="meta", purpose="plan")
    assert engine.teacher is not None and len(engine.modules) == 4


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


DEFAULTS = {  # as docs/methods.md has them
    "augment": {
        "streams": ["source"],
        "crop": None,
        "scale": (1.0, 1.0),
        "flip": 0.0,
        "color_jitter": None,
        "jitter_p": 1.0,
        "blur": None,
        "kornia": [],
    },
    "fda": {"beta": 0.01, "window": "symmetric"},
    "feature_distance": {"weight": 0.005, "layer": None, "reference": None, "things": None, "ratio": 0.75},
    "rare_class_sampling": {
        "stream": "source",
        "temperature": 0.01,
        "min_pixels": 3000,
        "crop": None,
        "crop_share": 0.5,
        "tries": 10,
    },
    "supervised": {
        "streams": ["source"],
        "class_weights": None,
        "logit_adjustment": None,
        "ohem": None,
        "min_kept": None,
        "auxiliary": None,
    },
    "adversarial": {
        "input": "softmax",
        "objective": "bce",
        "variant": "adaptsegnet",
        "levels": {"logits": 1.0},
        "lr": 1e-4,
        "betas": (0.9, 0.99),
    },
    "dacs": {
        "mask": "classmix",
        "area": None,
        "sigma": (4.0, 16.0),
        "confident_classes": None,
        "threshold": 0.968,
        "confidence": "batch",
        "classes": "image",
        "ignore_is_class": False,
        "jitter": 0.25,
        "jitter_p": 0.8,
        "blur": (0.15, 1.15),
        "blur_p": 0.5,
        "ema": None,
        "teacher_batch_norm": None,
        "teacher_start": None,
    },
    "masked_consistency": {
        "into": "masked",
        "ratio": None,
        "block": None,
        "complementary": False,
        "consistency": 0.01,
        "threshold": 0.968,
        "confidence": "batch",
        "jitter": 0.2,
        "jitter_p": 0.8,
        "blur": (0.15, 1.15),
        "blur_p": 0.5,
        "ema": None,
        "teacher_batch_norm": None,
        "teacher_start": None,
    },
    "minent": {"eta": None, "output": "logits"},
    "crf": {
        "iterations": 5,
        "appearance_weight": 4.0,
        "appearance_position": 67.0,
        "appearance_color": 3.0,
        "smoothness_weight": 3.0,
        "smoothness_position": 3.0,
        "cell": 8,
        "reach": 12,
        "heard": 256,
    },
    "distill": {
        "streams": ["source", "target"],
        "temperature": 1.0,
        "layers": {},
        "feature_weight": 1.0,
        "grid": (16, 32),
        "feature_steps": 0,
        "freeze": [],
    },
    "bn_adapt": {"alpha": 0.1, "carry": False},
    "tent": {"lr": 2.5e-4, "momentum": 0.9, "weight_decay": 5e-4},
}
REQUIRED = {"distill": {"teachers": ["run"]}}


@pytest.mark.parametrize("name", DEFAULTS)
def test_defaults_are_those_of_the_docs(name):
    made = vars(make(name, REQUIRED.get(name, {})))
    assert {option: made[option] for option in DEFAULTS[name]} == DEFAULTS[name]
    assert made["weight"] == DEFAULTS[name].get("weight", 1.0)


def test_the_defaults_of_a_blur():
    blur = make("augment", {"blur": {}}).blur
    assert (blur.kernel, blur.sigma, blur.p) == (3, (0.2, 0.8), 1.0)


# Values that are just allowed, and those just outside, by option.
EDGES = [
    ("dacs", "threshold", [0, 1], [-0.01, 1.01]),
    ("dacs", "jitter", [0, 0.5], [-0.01, 0.51]),
    ("dacs", "blur", [[0.1, 0.1], [0.1, 0.2]], [[0, 0.1], [0.2, 0.1]]),
    ("dacs", "confidence", ["batch", "image"], ["", "pixel"]),
    ("dacs", "teacher_batch_norm", ["train", "eval", None], ["eva"]),
    ("dacs", "teacher_start", [0, None], [-1]),
    ("dacs", "mask", ["classmix", "cutmix", "cowmask"], ["boxes"]),
    ("dacs", "area", [[0.1, 1], None], [[0, 0.5], [0.1, 1.01], [0.2, 0.1]]),
    ("dacs", "sigma", [[1, 1]], [[0, 1], [2, 1]]),
    ("dacs", "confident_classes", [0, 1, None], [1.01]),
    ("masked_consistency", "ratio", [0, 1, None], [-0.1, 1.1]),
    ("masked_consistency", "block", [1, None], [0]),
    ("masked_consistency", "consistency", [0], [-0.1]),
    ("augment", "streams", [["source"], ["source", "target"]], [[]]),
    ("augment", "blur", [{"kernel": 1}, {"kernel": 5}], [{"kernel": 4}, {"kernel": -1}]),
    ("augment", "crop", [[1, 1], None], [[0, 1]]),
    ("fda", "beta", [0, 0.5, [0, 0.5]], [-0.01, 0.51, []]),
    ("fda", "window", ["symmetric", "corner"], ["round"]),
    ("feature_distance", "ratio", [0, 1], [-0.01, 1.01]),
    ("rare_class_sampling", "temperature", [1e-3], [0]),
    ("rare_class_sampling", "min_pixels", [0], [-1]),
    ("rare_class_sampling", "crop", [[1, 1], None], [[0, 1]]),
    ("rare_class_sampling", "crop_share", [0, 2.0], [-0.1]),
    ("rare_class_sampling", "tries", [1], [0]),
    ("supervised", "class_weights", ["enet", "median_frequency", [1, 2]], ["inverse", [-1]]),
    ("supervised", "logit_adjustment", [0, 1], [-1]),
    ("supervised", "ohem", [0.01, 1, None], [0, 1.01]),
    ("supervised", "min_kept", [0], [-1]),
    ("adversarial", "betas", [[0, 0.99]], [[0, 1], [-0.1, 0.9]]),
    ("adversarial", "lr", [1e-9], [0]),
    ("adversarial", "levels", [{"logits": 0}], [{}, {"logits": -0.1}]),
    ("adversarial", "input", ["softmax", "self_information"], ["logits"]),
    ("adversarial", "objective", ["bce", "ls"], ["wgan"]),
    ("adversarial", "variant", ["adaptsegnet", "seed"], ["pixel"]),
    ("minent", "eta", [0.01, None], [0]),
    ("crf", "reach", [0], [-1]),
    ("bn_adapt", "alpha", [0, 1], [-0.01, 1.01]),
    ("distill", "teachers", [["run"], ["run", {"use": "bisenet", "weights": "file.pt"}]], [[], "run", [1]]),
    ("distill", "temperature", [0.01], [0]),
    ("distill", "grid", [[1, 1]], [[0, 1], [4]]),
    ("distill", "feature_steps", [0], [-1]),
    ("tent", "lr", [1e-9], [0]),
    ("tent", "momentum", [0], [1]),
    ("tent", "weight_decay", [0], [-0.1]),
]


@pytest.mark.parametrize(("name", "option", "allowed", "outside"), EDGES, ids=[f"{n}.{o}" for n, o, *_ in EDGES])
def test_options_end_where_they_should(name, option, allowed, outside):
    needed = REQUIRED.get(name, {})
    for value in allowed:
        make(name, {**needed, option: value})
    for value in outside:
        with pytest.raises(RecipeError, match=rf"strategies\[0\]\.{option}"):
            make(name, {**needed, option: value})


def test_importing_the_package_does_not_import_kornia():
    code = "import sys, dalib_plugins; sys.exit('kornia' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": ":".join(sys.path)}).returncode == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_no_hook_waits_for_the_device():
    stack = [make(name, options) for name, options in OPTIONS.items()]
    engine = Engine(tappable_model(), stack, device="cuda")
    first, again = (tiny_batch(index, (41, 50)).to(engine.device) for index in range(2))
    engine.step(first)
    torch.cuda.set_sync_debug_mode("error")
    try:
        engine.step(again)
    finally:
        torch.cuda.set_sync_debug_mode("default")
