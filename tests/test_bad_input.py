"""Bad input of every kind: one message that names the thing, status 2, and nothing half-written."""

import errno
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.command import refusal, run_dalib

Break = Callable[[Path], object]
SIZE = (12, 16)

RECIPE = """\
model: {use: tiny}
data:
  source: {use: folder, root: ROOT, split: train}
  target: {use: folder, root: ROOT, split: train}
  eval: {use: folder, root: ROOT, split: val}
  batch_size: 2
strategies: [{use: supervised}]
optimizer: {use: sgd, lr: 1e-2}
train: {steps: 2, log_every: 1}
plugins: [tests.tiny_plugin]
"""

PHOTO = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
LABEL = (np.arange(SIZE[0] * SIZE[1], dtype=np.uint8) % 19).reshape(SIZE)


def save(path: Path, pixels: np.ndarray | Image.Image, **options: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(path, **options)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A whole data set: three images to train on, one to evaluate, labels of Cityscapes' train ids."""
    root = tmp_path / "streets"
    for name in ("train/a", "train/b", "train/c", "val/d"):
        save(root / "images" / f"{name}.png", PHOTO)
        save(root / "labels" / f"{name}.png", LABEL)
    return root


def write_recipe(root: Path, text: str = RECIPE) -> Path:
    path = root.parent / "recipe.yaml"
    path.write_text(text.replace("ROOT", f"'{root}'"), encoding="utf-8")
    return path


def image(pixels: np.ndarray | Image.Image, name: str = "train/a.png", **options: object) -> Break:
    return lambda root: save(root / "images" / name, pixels, **options)


def label(pixels: np.ndarray | Image.Image, name: str = "train/a.png") -> Break:
    return lambda root: save(root / "labels" / name, pixels)


def remove(name: str) -> Break:
    return lambda root: (root / name).unlink()


def content(name: str, data: bytes) -> Break:
    return lambda root: (root / name).write_bytes(data)


def cut(name: str) -> Break:
    return lambda root: (root / name).write_bytes((root / name).read_bytes()[:-30])


def link(name: str, to: str) -> Break:
    return lambda root: (root / name).symlink_to(root / to)


def emptied(root: Path) -> None:
    for file in (root / "images" / "train").iterdir():
        file.unlink()


def jpeg_cut(root: Path) -> None:
    save(root / "images" / "train" / "a.jpg", PHOTO)
    (root / "images" / "train" / "a.png").unlink()
    cut("images/train/a.jpg")(root)


def folder_for_a_label(root: Path) -> None:
    (root / "labels" / "train" / "a.png").unlink()
    (root / "labels" / "train" / "a.png").mkdir()


def huge(root: Path) -> None:
    file = root / "images" / "train" / "a.png"
    data = bytearray(file.read_bytes())
    data[16:24] = struct.pack(">II", 900_000, 900_000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    file.write_bytes(data)


def label_map(text: str) -> Break:
    return lambda root: (root / "map.yaml").write_text(text)


def lists(**texts: str) -> Break:
    return lambda root: [(root / f"{name}.txt").write_text(text) for name, text in texts.items()]


MAP = "data.source.label_map=map.yaml"
LIST = "data.source={use: folder, root: ROOT, list: list.txt}"

# What is done to the data, overrides, and the message.
DATA: dict[str, tuple[Break | None, list[str], str]] = {
    "missing root": (
        None,
        ["data.source.root=/no/where"],
        "/no/where: expected a folder of images and labels, found nothing; check `root`",
    ),
    "root is a file": (
        content("f", b"x"),
        ["data.source.root=ROOT/f"],
        "streets/f: expected a folder of images and labels, found a file;",
    ),
    "root too long": (
        None,
        [f"data.source.root={'x' * 5000}"],
        "expected a folder of images and labels, found what cannot be read (File name too long)",
    ),
    "missing images folder": (
        None,
        ["data.source.images=photos"],
        "photos: expected a folder of images, found nothing; check `root`",
    ),
    "missing labels folder": (
        None,
        ["data.source.labels=masks"],
        "masks/train: expected a folder of labels, found nothing; check `root`",
    ),
    "images that lead out": (
        None,
        ["data.source.images=../other"],
        "images: expected a folder below ROOT, found '../other', which leads out of it.",
    ),
    "absolute labels": (
        None,
        ["data.source.labels=/etc"],
        "labels: expected a folder below ROOT, found '/etc', which leads out of it.",
    ),
    "split that leads out": (
        None,
        ["data.source.split=../../x"],
        "split: expected a folder below ROOT/images, found '../../x', which leads",
    ),
    "empty split": (
        emptied,
        [],
        "images/train: expected images (.jpeg, .jpg, .png, .webp), found none that fit; check the split.",
    ),
    "wrong split of a folder": (
        None,
        ["data.source.split=trian"],
        "folder: split 'trian' was asked for, but this format has no splits of its own; give `list: FILE`",
    ),
    "wrong split of diorama": (
        None,
        ["data.source={use: diorama, split: trian}"],
        "diorama: split 'trian' is unknown. Did you mean 'train'?",
    ),
    "wrong split of cityscapes": (
        None,
        ["data.source={use: cityscapes, root: ROOT, split: dev}"],
        "cityscapes: expected a split of train, val, test, found 'dev'.",
    ),
    "image without label": (
        remove("labels/train/b.png"),
        [],
        "1 file has no partner: ROOT/images/train/b.png: image without label. Add what is missing",
    ),
    "label without image": (
        remove("images/train/b.png"),
        [],
        "1 file has no partner: ROOT/labels/train/b.png: label without image. Add what is missing",
    ),
    "image and label of two sizes": (
        label(LABEL[1:]),
        [],
        "labels/train/a.png: expected the size of its image, 12 x 16, found 11 x 16; image: ROOT/images/train/a.png",
    ),
    "two images of two sizes": (
        lambda root: (image(PHOTO[1:])(root), label(LABEL[1:])(root)),
        ["data.batch_size=3"],
        "is 11x16, ",
    ),
    "truncated png": (
        cut("images/train/a.png"),
        [],
        "images/train/a.png: expected a whole PNG, found it truncated or damaged at byte",
    ),
    "truncated jpeg": (jpeg_cut, [], "images/train/a.jpg: expected a whole .jpeg, .jpg, .png, .webp file, found "),
    "truncated label": (
        cut("labels/train/a.png"),
        [],
        "labels/train/a.png: expected a whole PNG, found it truncated or damaged at byte",
    ),
    "broken evaluation image": (
        cut("images/val/d.png"),
        [],
        "images/val/d.png: expected a whole PNG, found it truncated or damaged",
    ),
    "empty image": (
        content("images/train/a.png", b""),
        [],
        "images/train/a.png: expected an image, found an empty file; replace it.",
    ),
    "empty label": (
        content("labels/train/a.png", b""),
        [],
        "labels/train/a.png: expected an image, found an empty file; replace it.",
    ),
    "text called png": (
        content("images/train/a.png", b"hello"),
        [],
        "images/train/a.png: expected a whole .jpeg, .jpg, .png, .webp file, found 5 bytes that do not decode",
    ),
    "a size that nobody has": (
        huge,
        [],
        "images/train/a.png: expected at most 268435456 pixels, found 900000 x 900000; scale it down.",
    ),
    "jpeg called png for a label": (
        lambda root: save(root / "labels/train/a.png", LABEL, format="JPEG"),
        [],
        "labels/train/a.png: expected a PNG label, found another format; lossy formats blur class ids",
    ),
    "16-bit label": (
        label(LABEL.astype(np.uint16) * 300),
        [],
        "labels/train/a.png: expected a label of 8 bits, found 16 bits; use the dataset `folder` with a label map",
    ),
    "painted label": (
        label(PHOTO),
        [],
        "labels/train/a.png: expected class ids in one channel, found RGB; use the dataset `folder` with a label map",
    ),
    "painted label with alpha": (
        label(Image.fromarray(PHOTO).convert("RGBA")),
        [],
        "labels/train/a.png: expected class ids in one channel, found RGBA;",
    ),
    "ids outside the map": (
        label(LABEL + 20),
        [],
        "labels/train/a.png: expected only class ids that the label map names, or 255; found 20, 21, 22",
    ),
    "colours outside the map": (
        lambda root: (label(PHOTO)(root), label_map("{classes: [x], colors: {'1,2,3': x}}")(root)),
        ["data={source: {use: folder, root: ROOT, split: train, label_map: map.yaml}, batch_size: 2}"],
        "labels/train/a.png: expected only colours that the label map names; found ",
    ),
    "ids where colours are expected": (
        label_map("{classes: [x], colors: {'1,2,3': x}}"),
        ["data={source: {use: folder, root: ROOT, split: train, label_map: map.yaml}, batch_size: 2}"],
        "labels/train/a.png: expected classes painted in 8-bit RGB colours, found one channel of 8 bits",
    ),
    "two images of one name": (
        image(PHOTO, "train/a.jpg"),
        [],
        "images/train/a.png: expected one file of this name, found ROOT/images/train/a.jpg as well; remove one",
    ),
    "link that goes round": (
        link("images/train/loop", "images"),
        [],
        "images/train/loop: expected a folder, found a symbolic link to ROOT/images, which contains it; remove",
    ),
    "link to itself": (
        lambda root: (remove("images/train/a.png")(root), link("images/train/a.png", "images/train/a.png")(root)),
        [],
        "images/train/a.png: cannot be read (Too many levels of symbolic links); check that it exists",
    ),
    "link to nothing": (
        lambda root: (remove("images/train/a.png")(root), link("images/train/a.png", "gone")(root)),
        [],
        "images/train/a.png: cannot be read (No such file or directory); check that it exists",
    ),
    "folder for a label": (folder_for_a_label, [], "ROOT/images/train/a.png: image without label."),
    "missing list": (
        None,
        [LIST],
        "list.txt: expected a file in the current folder or in ROOT, found none; check the path.",
    ),
    "empty list": (lists(list="\n"), [LIST], "list.txt: expected names of images, one a line, found none."),
    "binary list": (
        content("list.txt", b"\xff\xfe\x00"),
        [LIST],
        "list.txt: expected a list of images in UTF-8, found a file that cannot be read",
    ),
    "list of what is not there": (
        lists(list="train/aa\n"),
        [LIST],
        "list.txt: expected names of images, found 'train/aa', which is not there. Did you mean 'train/a'?",
    ),
    "list that leads out": (
        lists(list="../../secret.png\n"),
        [LIST],
        "list.txt: expected names of images, found '../../secret.png', which is not there.",
    ),
    "list with one name twice": (
        lists(list="train/a\ntrain/a.png\n"),
        [LIST],
        "list.txt: expected each image once, found 'train/a.png' twice; remove one.",
    ),
    "classes of source and target differ": (
        label_map("{classes: [road, car], unknown: ignore}"),
        [MAP],
        "data.source has 2 classes and data.target has 19; they differ in bicycle, ",
    ),
    "label map with an unknown class": (
        label_map("{ids: {7: raod}}"),
        [MAP],
        "map.yaml: ids[7]: unknown class 'raod'. Did you mean 'road'?",
    ),
    "label map that is none": (
        label_map("[1, 2]"),
        [MAP],
        "map.yaml: the file: expected a mapping such as `ids: {7: road}`, found [1, 2].",
    ),
    "label map with an unknown key": (
        label_map("{idz: {7: road}}"),
        [MAP],
        "map.yaml: unknown key 'idz'. Did you mean 'ids'?",
    ),
    "label map twice the same key": (
        label_map("ids: {7: road, 7: car}"),
        [MAP],
        "map.yaml: line 1: the key 7 stands twice",
    ),
    "size of nothing": (None, ["data.source.size=[0, 5]"], "data.source.size[0]: expected at least 1, got 0."),
    "size of one number": (None, ["data.source.size=[5]"], "data.source.size[1]: expected a value, got [5]."),
    "size that is no whole number": (
        None,
        ["data.source.size=[5, 2.5]"],
        "data.source.size[1]: expected a whole number, got 2.5.",
    ),
    "length below nothing": (
        None,
        ["data.source={use: diorama, length: -1}"],
        "data.source.length: expected at least 1, got -1.",
    ),
    "missing weights": (
        None,
        ["model.weights=no.pt"],
        "no.pt is not a file; give the path of a file of weights (.pt, .pth or .safetensors).",
    ),
    "weights that are none": (
        content("w.pt", b"hello"),
        ["model.weights=ROOT/w.pt"],
        "w.pt is not a file of weights, is damaged, or holds objects besides tensors",
    ),
    "weights of another network": (
        lambda root: torch.save({"a.weight": torch.ones(2)}, root / "w.pt"),
        ["model.weights=ROOT/w.pt"],
        "w.pt matches 0 of the backbone's ",
    ),
    "unknown class to score": (
        None,
        ["evaluate.classes=[road, carr]"],
        "classes: the data has no class 'carr'. Did you mean 'car'?",
    ),
    "unknown set of classes": (
        None,
        ["evaluate.classes=synthia14"],
        "no set of classes is called 'synthia14'. Did you mean 'synthia1",
    ),
    "no class to score": (
        None,
        ["evaluate.classes=[]"],
        "classes: expected at least one class to average over, got an empty list.",
    ),
    "class id to score outside": (None, ["evaluate.classes=[19]"], "classes: expected ids in 0..18, got 19."),
}


@pytest.mark.parametrize(("breaks", "overrides", "message"), DATA.values(), ids=DATA)
def test_bad_data_is_refused_before_a_run_begins(breaks, overrides, message, root, capsys):
    recipe = write_recipe(root)
    if breaks:
        breaks(root)
    out = root.parent / "run"
    said = refusal(capsys, "train", recipe, *(o.replace("ROOT", str(root)) for o in overrides), "--out", out)
    assert message.replace("ROOT", str(root)) in said
    assert not out.exists()


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


# What works: names and modes that people's files have.
FINE: dict[str, Break] = {
    "spaces and other alphabets": lambda root: [
        (image(PHOTO, f"train/{name}.png")(root), label(LABEL, f"train/{name}.png")(root))
        for name in ("straße 1", "улица/дом 2", "街", "a'b\"c", "-x", "[bold]")
    ],
    "grey": image(PHOTO[..., 0]),
    "grey with alpha": image(Image.fromarray(PHOTO[..., 0]).convert("LA")),
    "16-bit grey": image(PHOTO[..., 0].astype(np.uint16) * 257),
    "colours and alpha": image(Image.fromarray(PHOTO).convert("RGBA")),
    "indexed": image(Image.fromarray(PHOTO).convert("P")),
    "black and white": image(Image.fromarray(PHOTO).convert("1")),
    "cmyk": lambda root: (
        remove("images/train/a.png")(root),
        save(root / "images/train/a.jpg", Image.fromarray(PHOTO).convert("CMYK")),
    ),
    "label with alpha": label(Image.merge("LA", [Image.fromarray(LABEL)] * 2)),
    "label that ignores all": label(np.full_like(LABEL, 255)),
}


@pytest.mark.parametrize("make", FINE.values(), ids=FINE)
def test_what_people_have_is_trained_on(make, root, capsys):
    make(root)
    recipe = write_recipe(root)
    assert run_dalib("doctor", recipe) == 0
    assert run_dalib("train", recipe, "data.batch_size=3", "--out", root.parent / "run dir é") == 0


@pytest.mark.parametrize("model", ["{use: tiny}", "{use: bisenet, pretrained: false}"])
def test_images_of_one_pixel_train(model, root):
    for name in ("train/a", "train/b", "train/c", "val/d"):
        save(root / "images" / f"{name}.png", PHOTO[:1, :1])
        save(root / "labels" / f"{name}.png", LABEL[:1, :1])
    assert run_dalib("train", write_recipe(root), f"model={model}", "--out", root.parent / "run") == 0


def denied(*arguments: object, **options: object) -> None:
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "here")


def full(*arguments: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_an_unreadable_image_is_named(root, capsys, monkeypatch):
    recipe = write_recipe(root)
    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: denied() if path.stem == "a" else read(path))
    said = refusal(capsys, "train", recipe, "--out", root.parent / "run")
    assert (
        said
        == f"{root}/images/train/a.png: cannot be read (Permission denied); check that it exists and its permissions."
    )
    assert not (root.parent / "run").exists()


def test_an_unreadable_folder_is_named(root, capsys, monkeypatch):
    recipe = write_recipe(root)
    monkeypatch.setattr(Path, "iterdir", denied)
    said = refusal(capsys, "train", recipe, "--out", root.parent / "run")
    assert said == f"{root}/images/train: cannot be read (Permission denied); check its permissions."


def test_a_folder_for_the_run_that_takes_nothing_is_named(root, capsys, monkeypatch):
    recipe = write_recipe(root)
    (root.parent / "file").write_text("")
    for out in (root.parent / "file", root.parent / "file" / "run"):
        assert refusal(capsys, "train", recipe, "--out", out).startswith(f"{out} cannot hold a run: ")
    out = root.parent / "run"
    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", denied)
        said = refusal(capsys, "train", recipe, "--out", out)
    assert said == f"{out} cannot hold a run: Permission denied. Choose another folder with --out."
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        said = refusal(capsys, "train", recipe, "--out", out)
    assert said == f"{out} cannot hold a run: No space left on device. Choose another folder with --out."
    assert not [file for file in out.rglob("*") if file.is_file()]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a run on 19 classes."""
    folder = tmp_path_factory.mktemp("trained")
    for name in ("train/a", "train/b", "val/d"):
        save(folder / "streets" / "images" / f"{name}.png", PHOTO)
        save(folder / "streets" / "labels" / f"{name}.png", LABEL)
    assert run_dalib("train", write_recipe(folder / "streets"), "--out", folder / "run") == 0
    return folder / "run"


TWO_CLASSES = "data={source: {use: folder, root: ROOT, split: train, label_map: map.yaml}, batch_size: 2}"


def test_a_checkpoint_of_other_classes_is_refused(trained, root, capsys):
    label_map("{classes: [road, car], unknown: ignore}")(root)
    data = TWO_CLASSES.replace("ROOT", str(root))
    said = refusal(capsys, "evaluate", trained, f"data.eval={{use: folder, root: {root}, label_map: map.yaml}}")
    assert said.startswith("the run has 19 classes and its evaluation data 2; evaluate on data with the classes that")
    out = root.parent / "run"
    said = refusal(capsys, "train", write_recipe(root), data, f"model.weights={trained}", "--out", out)
    assert "was trained for 19 classes and this model has 2;" in said and not out.exists()


class Payload:
    def __reduce__(self):
        return os.mkdir, ("hurt",)


def test_a_checkpoint_from_a_stranger_runs_no_code(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"model": Payload(), "step": 1}, "stranger.pt")
    for command in (["evaluate", "stranger.pt"], ["predict", "stranger.pt", "x.png", "--out", "out"]):
        assert refusal(capsys, *command).startswith("checkpoint stranger.pt cannot be read: Weights only load failed")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["stranger.pt"]


def test_what_predict_cannot_read_or_write_is_named(trained, root, capsys):
    cut("images/train/a.png")(root)
    out = root.parent / "out"
    assert refusal(capsys, "predict", trained, root / "none", "--out", out).startswith(
        f"{root}/none: expected an image"
    )
    assert "truncated or damaged" in refusal(capsys, "predict", trained, root / "images/train/a.png", "--out", out)
    (root.parent / "file").write_text("")
    said = refusal(capsys, "predict", trained, root / "images/train/b.png", "--out", root.parent / "file" / "out")
    assert said == f"{root.parent}/file/out: Not a directory; check the path, its permissions and the disk's space."


def test_doctor_ends_with_2_and_says_each_fault_once(root, capsys):
    recipe = write_recipe(root)
    assert run_dalib("doctor", recipe) == 0
    assert capsys.readouterr().out.rstrip().endswith("no faults")
    cut("images/train/a.png")(root)
    remove("labels/train/b.png")(root)
    capsys.readouterr()
    assert run_dalib("doctor", recipe, "--json", root.parent / "faults.json") == 2
    said = capsys.readouterr().out
    assert (
        said.count("truncated or damaged") == said.count("images/train/a.png") == said.count("images/train/b.png") == 1
    )
    assert said.rstrip().endswith("2 faults") and "2 faults, 2 listed above" in said
    assert '"faults": 2' in (root.parent / "faults.json").read_text()
