"""One's own data: folder, lists and splits."""

import numpy as np
import pytest
import torch
from PIL import Image

from dalib.data.dataset import SegmentationDataset, classes_of, item_name, palette_of
from dalib.data.doctor import examine_new
from dalib.data.folder import folder
from dalib.errors import DataError


@pytest.fixture
def root(save, rgb, ids, tmp_path):
    for name in ["one", "two", "sub/three"]:
        save(f"images/{name}.jpg", rgb)
        save(f"labels/{name}.png", ids)
    return tmp_path


def test_images_and_labels_match_by_path_without_suffix(root, ids):
    dataset = folder(root=str(root))
    assert isinstance(dataset, SegmentationDataset)
    assert [item_name(dataset, i) for i in range(3)] == [
        str(root / f"images/{n}.jpg") for n in ("one", "sub/three", "two")
    ]
    assert torch.equal(dataset[1][1], torch.from_numpy(ids))


def test_list_chooses_and_orders_and_may_stand_in_root(root, monkeypatch):
    (root / "lists").mkdir()
    (root / "lists" / "train.txt").write_text("two.jpg\n\nsub/three\n", encoding="utf-8-sig")
    monkeypatch.chdir(root.parent)
    for name in ("lists/train.txt", f"{root.name}/lists/train.txt", str(root / "lists/train.txt")):
        assert [n[1].name for n in folder(root=str(root), list=name).files] == ["two.png", "three.png"]
    assert len(folder(root=str(root), list="lists/{split}.txt", split="train")) == 2


def test_split_names_a_folder_below_both(root, save, rgb, ids):
    save("images/val/x.png", rgb)
    save("labels/val/x.png", ids)
    assert [file.name for file, _ in folder(root=str(root), split="val").files] == ["x.png"]


def test_without_labels_everything_is_ignored_but_a_named_folder_must_be_there(save, rgb, tmp_path):
    save("images/a.png", rgb)
    assert folder(root=str(tmp_path))[0][1].unique().tolist() == [255]
    with pytest.raises(DataError, match=r"masks: expected a folder of labels, found nothing"):
        folder(root=str(tmp_path), labels="masks")


def test_label_map_brings_classes_and_colours(root):
    (root / "map.yaml").write_text("{classes: [even, odd], ids: {0: even, 1: odd, 2: even}, unknown: ignore}")
    dataset = folder(root=str(root), label_map="map.yaml")
    assert classes_of(dataset) == ("even", "odd")
    assert len(palette_of(dataset)) == 2
    assert dataset[0][1].unique().tolist() == [0, 1, 255]


def test_strays_are_errors_unless_a_list_leaves_them_out(root, save, rgb):
    save("images/stray.png", rgb)
    with pytest.raises(DataError, match=r"stray\.png: image without label"):
        folder(root=str(root))
    (root / "list.txt").write_text("one")
    assert len(folder(root=str(root), list="list.txt")) == 1


WRONG = {
    "missing root": ({"root": "nowhere"}, "nowhere: expected a folder of images and labels, found nothing"),
    "root is a file": ({"root": "images/one.jpg"}, "one.jpg: expected a folder of images and labels, found a file"),
    "missing images": ({"images": "imgs"}, "imgs: expected a folder of images, found nothing; check `root`"),
    "missing list": ({"list": "no.txt"}, "no.txt: expected a file in the current folder or in "),
    "missing map": ({"label_map": "no.yaml"}, "no.yaml: expected a file in the current folder or in "),
    "unknown name": ({"list": "typo.txt"}, "found 'twoo', which is not there. Did you mean 'two'?"),
    "twice": ({"list": "twice.txt"}, "expected each image once, found 'one.jpg' twice"),
    "empty list": ({"list": "empty.txt"}, "expected names of images, one per line, found none"),
    "binary list": ({"list": "images/one.jpg"}, "expected a list of images in UTF-8"),
    "split without list": ({"split": "val"}, "this format has no splits of its own; give `list: FILE`"),
    "one list": ({"split": "val", "list": "empty.txt"}, "the list empty.txt is the same for every split"),
}


@pytest.mark.parametrize(("options", "text"), WRONG.values(), ids=WRONG)
def test_wrong_folder_is_an_error_that_says_what_to_do(root, monkeypatch, options, text):
    for name, content in {"typo": "twoo", "twice": "one\none.jpg", "empty": "\n"}.items():
        (root / f"{name}.txt").write_text(content)
    monkeypatch.chdir(root)
    with pytest.raises(DataError) as caught:
        folder(**{"root": str(root), **options})
    assert text in str(caught.value)


def test_prepared_real_data_opens_by_its_lists(shared):
    base = shared / "data" / "carla_camvid"
    root, lists = str(base / "source"), str(base / "lists" / "source_{split}.txt")
    assert len(folder(root=root, list=lists, split="train")) == 474
    dataset = folder(root=root, list=lists, split="val", size=(180, 240))
    assert len(dataset) == 72
    image, label = dataset[0]
    assert image.shape == (3, 180, 240)
    assert set(label.unique().tolist()) <= {0, 1, 2, 4, 5, 7, 8, 10, 11, 13, 255}


def test_a_label_map_that_lies_in_two_places_is_refused_with_both(tmp_path, monkeypatch):
    root = tmp_path / "data"
    (root / "images").mkdir(parents=True)
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(root / "images" / "a.png")
    for place in (tmp_path, root):
        (place / "map.yaml").write_text("classes: [road, car]\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"expected one file, found .*/map\.yaml and .*/data/map\.yaml; say which"):
        folder(root=str(root), label_map="map.yaml")
    assert folder(root=str(root), label_map=str(root / "map.yaml")).classes == ("road", "car")


def test_images_and_labels_side_by_side_are_told_apart_by_their_suffixes(save, rgb, ids, tmp_path):
    save("x.jpg", rgb), save("x.png", ids)
    beside = {"root": str(tmp_path), "images": ".", "labels": "."}
    with pytest.raises(DataError, match=r"x\.png: expected one file of this name.*`image_suffix` and `label_suffix`"):
        folder(**beside)
    for options in ({"image_suffix": ".jpg", "label_suffix": ".png"}, {"image_suffix": ".jpg"}):
        dataset = folder(**beside, **options)
        assert [(a.name, b.name) for a, b in dataset.files] == [("x.jpg", "x.png")]
        assert torch.equal(dataset[0][1], torch.from_numpy(ids))


def test_a_jpeg_label_is_refused_by_name_and_told_once_by_the_doctor(root, save, ids):
    (root / "labels/two.png").unlink()
    save("labels/two.jpg", ids)
    with pytest.raises(DataError, match=r"labels/two\.jpg: expected a PNG label, found another format"):
        folder(root=str(root))
    findings = examine_new(lambda: folder(root=str(root)))
    assert [fault.item for fault in findings.faults] == [str(root / "labels/two.jpg")]


def test_palette_labels_are_read_by_their_colours_where_the_map_names_colours(save, rgb, tmp_path):
    colors = [(200, 60, 60), (0, 0, 0), (60, 60, 200)]
    stored = np.arange(48, dtype=np.uint8).reshape(6, 8) % 3
    label = Image.fromarray(stored).convert("P")
    label.frombytes(stored.tobytes())
    label.putpalette([value for color in colors for value in color])
    save("images/a.png", rgb), save("labels/a.png", label)
    (tmp_path / "map.yaml").write_text(
        "classes: [car, road]\ncolors:\n  60,60,200: car\n  200,60,60: road\n  0,0,0: ignore\n"
    )
    dataset = folder(root=str(tmp_path), label_map=str(tmp_path / "map.yaml"))
    assert dataset[0][1].flatten()[:3].tolist() == [1, 255, 0]
    assert dataset.label(0).flatten()[:3].tolist() == [1, 255, 0]
    assert palette_of(dataset) == ((60, 60, 200), (200, 60, 60))


def test_root_list_and_map_follow_one_rule_with_home_and_variables(root, monkeypatch, tmp_path):
    (root / "map.yaml").write_text("{classes: [even, odd], ids: {0: even, 1: odd}, unknown: ignore}")
    (root / "list.txt").write_text("one\n")
    monkeypatch.setenv("HOME", str(root.parent))
    monkeypatch.setenv("DISK", str(root))
    for start in (f"~/{root.name}", "$DISK", "${DISK}"):
        for place in ("", f"{start}/"):  # below root, or by a path of its own
            dataset = folder(root=start, label_map=f"{place}map.yaml", list=f"{place}list.txt")
            assert len(dataset) == 1 and dataset.classes == ("even", "odd")
    with pytest.raises(DataError, match=r"^\$NOT_SET/x: expected a folder of images and labels, found nothing"):
        folder(root="$NOT_SET/x")


def test_photos_may_lie_in_the_root_itself_and_need_no_split(save, rgb, tmp_path):
    save("photos/b.png", rgb)
    save("photos/deep/a.png", rgb)
    dataset = folder(root=str(tmp_path / "photos"))
    assert len(dataset) == 2 and (dataset[0][1] == 255).all() and dataset.label(0) is None
    (tmp_path / "photos" / "labels").mkdir()
    with pytest.raises(
        DataError, match=r"expected a folder of images, found nothing; .* `images: \.` where the photographs lie in"
    ):
        folder(root=str(tmp_path / "photos"))
    save("photos/labels/b.png", rgb)  # would be taken for a photograph
    for labels in ("labels", None):
        if labels:
            save("photos/labels/deep/a.png", rgb)
        dataset = folder(root=str(tmp_path / "photos"), images=".", labels=labels)
        assert [image.relative_to(tmp_path).as_posix() for image, _ in dataset.files] == [
            *("photos/b.png", "photos/deep/a.png")
        ]


def test_two_photos_of_one_name_are_both_taken_where_labels_are_none(save, rgb, ids, tmp_path):
    for name in ("a.jpg", "a.png", "b.png"):
        save(f"photos/{name}", rgb)
    (tmp_path / "list.txt").write_text("a.png\nb\na.jpg\n")
    for options in ({}, {"labels": None}, {"list": str(tmp_path / "list.txt")}):
        dataset = folder(root=str(tmp_path / "photos"), **options)
        assert sorted(image.name for image, _ in dataset.files) == ["a.jpg", "a.png", "b.png"]
    for name in ("a", "b"):
        save(f"photos/labels/{name}.png", ids)
    with pytest.raises(DataError, match=r"a\.png: expected one file of this name"):
        folder(root=str(tmp_path / "photos"), images=".")


@pytest.mark.parametrize("kind", ["grey", "indexed"])
@pytest.mark.parametrize(("photo", "label"), [("a.jpg", "a.png"), ("a.png", "a_mask.png"), ("a_1.png", "a_1-gt.PNG")])
def test_labels_beside_photos_are_not_taken_for_photos(photo, label, kind, save, rgb, ids, tmp_path):
    stored = Image.fromarray(ids)
    save(photo, rgb), save("other.png", rgb), save(label, stored if kind == "grey" else stored.convert("P"))
    for options in ({"images": "."}, {"images": ".", "labels": None}, {}):
        with pytest.raises(
            DataError, match=rf"{label}: expected a photograph, found a picture without colour .*{photo}"
        ):
            folder(root=str(tmp_path), **options)
    findings = examine_new(lambda: folder(root=str(tmp_path)))
    assert [fault.item for fault in findings.faults] == [str(tmp_path / label)]


def test_pictures_in_colour_and_grey_ones_of_other_names_are_photos(save, rgb, ids, tmp_path):
    save("a.png", rgb), save("a_2.png", rgb), save("b.png", ids), save("ab.png", ids), save("_a.png", ids)
    save("c.png", ids), save("c_2.png", ids), save("a_3.jpg", ids), save("deep/a_4.png", ids)
    assert len(folder(root=str(tmp_path))) == 9


def test_files_that_end_as_labels_are_no_photos(save, rgb, ids, tmp_path):
    save("a.png", rgb), save("a_gt.png", np.stack([ids] * 3, -1))
    options = {"root": str(tmp_path), "images": ".", "label_suffix": "_gt.png"}
    assert [image.name for image, _ in folder(**options, labels=None).files] == ["a.png"]
    assert [(image.name, label.name) for image, label in folder(**options, labels=".").files] == [("a.png", "a_gt.png")]


def test_a_label_whose_image_is_of_a_type_that_is_not_read_says_so(root, save, rgb, ids):
    save("images/sub/x.gif", rgb), save("labels/sub/x.png", ids)
    with pytest.raises(DataError) as caught:
        folder(root=str(root))
    assert f"labels/sub/x.png: label of {root / 'images/sub/x.gif'}, which is of no type that is read (.bmp, " in str(
        caught.value
    )
    assert "label without image" not in str(caught.value)


def test_labels_null_leaves_out_labels_that_lie_there(save, rgb, ids, tmp_path):
    save("images/train/a.png", rgb)
    save("images/train/b.png", rgb)
    save("labels/train/a.png", ids)
    with pytest.raises(DataError, match="image without label"):
        folder(root=str(tmp_path))
    for split in (None, "train"):
        dataset = folder(root=str(tmp_path), labels=None, split=split)
        assert len(dataset) == 2 and dataset.label(0) is None and (dataset[0][1] == 255).all()
    with pytest.raises(DataError, match="expected a folder of labels, found nothing"):
        folder(root=str(tmp_path), labels="masks")
