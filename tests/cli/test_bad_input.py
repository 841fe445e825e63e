"""Bad data of every kind: one message that names the thing, status 2, and nothing half-written."""

import numpy as np
import pytest
import torch
from PIL import Image

from tests.command import refusal, run_dalib
from tests.streets import (
    LABEL,
    PHOTO,
    Break,
    content,
    cut,
    emptied,
    folder_for_a_label,
    huge,
    image,
    jpeg_cut,
    label,
    label_map,
    link,
    lists,
    make_streets,
    remove,
    save,
    write_recipe,
)

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
        "images/train: expected images (.bmp, .jpeg, .jpg, .png, .tif, .tiff, .webp), found none that fit",
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
        "images/train/a.png: expected a whole .bmp, .jpeg, .jpg, .png, .tif, .tiff, .webp file, found ",
    ),
    "truncated jpeg": (
        jpeg_cut,
        [],
        "images/train/a.jpg: expected a whole .bmp, .jpeg, .jpg, .png, .tif, .tiff, .webp file, found ",
    ),
    "truncated label": (
        cut("labels/train/a.png"),
        [],
        "labels/train/a.png: expected a whole .bmp, .jpeg, .jpg, .png, .tif, .tiff, .webp file, found ",
    ),
    "broken evaluation image": (
        cut("images/val/d.png"),
        [],
        "images/val/d.png: expected a whole .bmp, .jpeg, .jpg, .png, .tif, .tiff, .webp file, found ",
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
        "images/train/a.png: expected a whole .bmp, .jpeg, .jpg, .png, .tif, .tiff, .webp file, found 5 bytes",
    ),
    "a size that nobody has": (
        huge,
        [],
        "images/train/a.png: Image size (810000000000 pixels) exceeds limit of 178956970 pixels; scale it down.",
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
        lambda root: (label(PHOTO)(root), label_map("{classes: [x, y], colors: {'1,2,3': x}}")(root)),
        ["data={source: {use: folder, root: ROOT, split: train, label_map: map.yaml}, batch_size: 2}"],
        "labels/train/a.png: expected only colours that the label map names; found ",
    ),
    "ids where colours are expected": (
        label_map("{classes: [x, y], colors: {'1,2,3': x}}"),
        ["data={source: {use: folder, root: ROOT, split: train, label_map: map.yaml}, batch_size: 2}"],
        "labels/train/a.png: expected classes painted in 8-bit RGB colours, found one channel of 8 bits",
    ),
    "two images of one name": (
        image(PHOTO, "train/a.jpg"),
        [],
        "images/train/a.png: expected one file of this name, found ROOT/images/train/a.jpg as well; where one is",
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
    "empty list": (lists(list="\n"), [LIST], "list.txt: expected names of images, one per line, found none."),
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
    "classes of source and eval differ": (
        label_map("{classes: [road, car], unknown: ignore}"),
        [MAP],
        "data.source has 2 classes and data.eval has 19; they differ in bicycle, ",
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
    "missing weights": (
        None,
        ["model.weights=no.pt"],
        "no.pt is not a file; give the path of a file of weights (.pt, .pth or .safetensors).",
    ),
    "weights that are none": (
        content("w.pt", b"hello"),
        ["model.weights=ROOT/w.pt"],
        "w.pt is not a file of weights, or is damaged",
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


@pytest.fixture
def root(tmp_path):
    return make_streets(tmp_path)


@pytest.mark.parametrize(("breaks", "overrides", "message"), DATA.values(), ids=DATA)
def test_bad_data_is_refused_before_a_run_begins(breaks, overrides, message, root, capsys):
    recipe = write_recipe(root)
    if breaks:
        breaks(root)
    out = root.parent / "run"
    said = refusal(capsys, "train", recipe, *(o.replace("ROOT", str(root)) for o in overrides), "--out", out)
    assert message.replace("ROOT", str(root)) in said
    assert not out.exists()


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


def test_doctor_ends_with_2_and_says_each_fault_once(root, capsys):
    recipe = write_recipe(root)
    assert run_dalib("doctor", recipe) == 0
    assert capsys.readouterr().out.rstrip().endswith("no faults")
    cut("images/train/a.png")(root)
    remove("labels/train/b.png")(root)
    capsys.readouterr()
    assert run_dalib("doctor", recipe, "--json", root.parent / "faults.json") == 2
    said = capsys.readouterr().out
    assert said.count("that do not decode") == said.count("images/train/a.png") == said.count("images/train/b.png") == 1
    assert said.rstrip().endswith("2 faults") and "1 fault, 1 listed above" in said
    assert '"faults": 2' in (root.parent / "faults.json").read_text()
