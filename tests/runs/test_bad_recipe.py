"""Bad recipes through the command: one message with the path to the entry, status 2, and no run folder."""

import pytest

from tests.command import refusal
from tests.streets import make_streets, write_recipe

DEEP = "a: " + "[" * 1000 + "]" * 1000
ALIASES = "\n".join(["a0: &a0 [1, 2]", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30))])

# The bytes of the recipe, and the message after its path.
RECIPES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", ": a recipe is a mapping with the keys model, data, strategies, train; got None."),
    "a list": (b"- 1", ": a recipe is a mapping with the keys model, data, strategies, train; got [1]."),
    "a picture": (b"\x89PNG\r\n\x1a\n\xff", " is not a text in UTF-8; expected a YAML file."),
    "UTF-16": ("model: {use: tiny}".encode("utf-16"), " is not a text in UTF-8; expected a YAML file."),
    "10 MB": (b"#" * 10_000_000, ": 10,000,000 bytes long; a recipe has at most 1,000,000."),
    "a thousand levels": (DEEP.encode(), ": nested deeper than 50 levels on line 1."),
    "aliases that explode": (ALIASES.encode(), ": its aliases unfold to more than 100,000 values."),
    "an alias of itself": (b"a: &a [*a]", ": its aliases unfold to more than 100,000 values."),
    "code": (
        b"model: !!python/object/apply:os.system [true]",
        ": not YAML on line 1: could not determine a constructor",
    ),
    "a key that is a list": (b"? [1]\n: 2", ": line 1: a key must be text, got [1]."),
    "open quotes": (b"model: 'x", ": not YAML on line 1: found unexpected end of stream."),
    "tabs": (b"model:\n\tuse: x", ": not YAML on line 2: found character '\\t' that cannot start any token."),
    "a key twice": (
        b"model: {use: tiny}\nmodel: {use: tiny}",
        ": line 2: the key 'model' stands twice; it stands first",
    ),
}

# Overrides of a good recipe, and the message after its path.
MISTAKES: dict[str, str] = {
    "train.stepps=3": "train.stepps: unknown option. Did you mean 'steps'?",
    "train.steps=-3": "train.steps: expected at least 1, got -3.",
    "train.steps=many": 'train.steps: expected a whole number, got "many".',
    "train.steps=1e400": "train.steps: expected a finite number, got inf.",
    "train.clip=-1": "train.clip: expected a norm above 0, got -1.0.",
    "data.batch_size=0": "data.batch_size: expected at least 1, got 0.",
    "data.batch_size=1.5": "data.batch_size: expected a whole number, got 1.5.",
    "data.on_bad_item=ignore": "data.on_bad_item: input should be 'stop' or 'skip', got \"ignore\".",
    "data.max_bad_items=0": "data.max_bad_items: expected at least 1, got 0.",
    "optimizer.lr=.nan": "optimizer.lr: expected a finite number, got nan.",
    "optimizer.lr=-.inf": "optimizer.lr: expected a finite number, got -inf.",
    "optimizer.lr=-1": "optimizer.lr: expected a rate above 0, got -1.",
    "optimizer.lr=true": "optimizer.lr: expected a number, got true.",
    "optimizer={lr: 0.1}": "optimizer.use: expected one of sgd, adam, adamw, got None. Without this section a run uses "
    "{use: sgd, lr: 0.00025}; write it whole, such as optimizer={use: sgd, lr: 0.1}.",
    "strategies=[{use: dacs2}]": "strategies[0].use: there is no strategy 'dacs2'. Did you mean 'dacs'? What another "
    "package registers is there once that package is installed with pip, or its module named under `plugins:`",
    "strategies=[{use: augment, flip: 3}]": "strategies[0].flip: expected at most 1, got 3.",
    "strategies=[{use: augment, jitter_p: -0.1}]": "strategies[0].jitter_p: expected at least 0, got -0.1.",
    "strategies=[{use: augment, scale: [2, 1]}]": "strategies[0].scale: expected the least value first, then the "
    "greatest, got [2, 1].",
    "strategies=[{use: augment, scale: [0, 1]}]": "strategies[0].scale[0]: expected more than 0, got 0.",
    "strategies=[{use: augment, crop: [0, 8]}]": "strategies[0].crop[0]: expected at least 1, got 0.",
    "strategies=[{use: augment, streams: []}]": "strategies[0].streams: expected more values, got [].",
    "strategies=[{use: augment, color_jitter: [1, 1, 1, 1]}]": "strategies[0].color_jitter[3]: expected at most 0.5,",
    "strategies=[{use: augment, blur: {kernel: 4}}]": "strategies[0].blur.kernel: expected an odd number, got 4.",
    "strategies=[{use: augment, blur: {p: 2}}]": "strategies[0].blur.p: expected at most 1, got 2.",
    "strategies=[{use: fda, beta: 0.9}]": "strategies[0].beta: expected at most 0.5 or a list, got 0.9.",
    "strategies=[{use: fda, entropy: {eta: 0}}]": "strategies[0].entropy.eta: expected more than 0, got 0.",
    "strategies=[{use: dacs, threshold: 1.5}]": "strategies[0].threshold: expected at most 1, got 1.5.",
    "strategies=[{use: dacs, ema: 2}]": "strategies[0].ema: expected at most 1, got 2.",
    "strategies=[{use: dacs, blur: [1, 0.5]}]": "strategies[0].blur: expected the least value first, then the",
    "strategies=[{use: adversarial, lr: 0}]": "strategies[0].lr: expected more than 0, got 0.",
    "strategies=[{use: adversarial, betas: [0.9, 1]}]": "strategies[0].betas[1]: expected less than 1, got 1.",
    "strategies=[{use: adversarial, levels: {}}]": "strategies[0].levels: expected more values, got {}.",
    "strategies=[{use: supervised, ohem: 0}]": "strategies[0].ohem: expected more than 0, got 0.",
    "strategies=[{use: crf, cell: 0}]": "strategies[0].cell: expected at least 1, got 0.",
    "loss={ohem: 2}": "loss.ohem: expected at most 1, got 2.",
}


@pytest.fixture
def root(tmp_path):
    return make_streets(tmp_path)


@pytest.mark.parametrize(("data", "message"), RECIPES.values(), ids=RECIPES)
def test_a_file_that_is_no_recipe_is_refused(data, message, tmp_path, capsys):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_bytes(data)
    assert refusal(capsys, "train", recipe, "--out", tmp_path / "run").startswith(f"{recipe}{message}")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("override", "message"), MISTAKES.items(), ids=MISTAKES)
def test_a_mistake_in_a_recipe_is_refused(override, message, root, capsys):
    recipe = write_recipe(root)
    said = refusal(capsys, "train", recipe, override, "--out", root.parent / "run")
    assert said.startswith(f"{recipe}: {message}")
    assert not (root.parent / "run").exists()


def test_a_recipe_that_is_no_file_is_named(tmp_path, capsys):
    assert refusal(capsys, "train", tmp_path / "no.yaml") == f"{tmp_path}/no.yaml does not exist."
    assert refusal(capsys, "train", tmp_path) == f"{tmp_path} cannot be read: Is a directory."
    assert refusal(capsys, "train", "x" * 5000).endswith("cannot be read: File name too long.")
