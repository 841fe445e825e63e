"""The YAML label map: what it can say, and what it refuses."""

import pytest
import torch

from dalib.data.label_map import default_palette, read_label_map
from dalib.errors import DalibError, DataError
from dalib.labels import CITYSCAPES_CLASSES, CITYSCAPES_PALETTE


@pytest.fixture
def scheme(tmp_path):
    file = tmp_path / "map.yaml"

    def read(text):
        file.write_text(text)
        return read_label_map(file)

    return read


def test_ids_by_name_by_train_id_and_ignored(scheme, tmp_path):
    result = scheme("classes: [ground, thing]\nids: {1: ground, 2: 1, 3: ignore, 4: 255, 200: thing}")
    stored = torch.tensor([[[1, 2, 3, 4, 200, 255]]], dtype=torch.uint8)
    assert result.label_map(stored, tmp_path).tolist() == [[0, 1, 255, 255, 1, 255]]
    assert result.classes == ("ground", "thing")
    assert len(set(result.palette)) == 2


def test_colours_channel_bits_and_unknown(scheme, tmp_path):
    painted = torch.tensor([128, 64, 128], dtype=torch.uint8)[:, None, None]
    assert scheme('colors: {"128, 64,128": car}').label_map(painted, tmp_path).tolist() == [[13]]
    deep = torch.tensor([3, 0, 0]).to(torch.uint16)[:, None, None]
    synthia_like = scheme("{channel: red, bits: 16, unknown: ignore, ids: {3: road}}")
    assert synthia_like.label_map(deep, tmp_path).tolist() == [[0]]
    assert synthia_like.label_map(deep[[1, 0, 0]], tmp_path).tolist() == [[255]]


def test_without_ids_files_store_train_ids(scheme, tmp_path):
    result = scheme("{classes: [a, b], palette: [[1, 2, 3], [4, 5, 6]]}")
    assert result.palette == ((1, 2, 3), (4, 5, 6))
    assert result.label_map(torch.tensor([[[0, 1, 255]]], dtype=torch.uint8), tmp_path).tolist() == [[0, 1, 255]]


def test_default_palette_keeps_known_colours_and_tells_classes_apart():
    assert default_palette(CITYSCAPES_CLASSES) == CITYSCAPES_PALETTE
    assert default_palette(("crane", "car"))[1] == (0, 0, 142)
    assert len(set(default_palette(tuple(f"class {i}" for i in range(60))))) == 60


REFUSED = {
    "no mapping": ("[1, 2]", "the file: expected a mapping such as `ids: {7: road}`, found [1, 2]"),
    "no yaml": ("ids: {1: road", "not YAML on line 1"),
    "unknown key": ("idz: {1: road}", "unknown key 'idz'. Did you mean 'ids'?"),
    "both": ("{ids: {1: road}, colors: {}}", "expected `ids` or `colors`, found both"),
    "id twice": ("ids: {1: road, 1: car}", "the key 1 stands twice"),
    "id too large": ("ids: {256: road}", "ids: expected stored ids in 0..255 as keys, found 256"),
    "id below zero": ("ids: {-1: road}", "ids: expected stored ids in 0..255 as keys, found -1"),
    "id too large for 16 bits": ("{bits: 16, ids: {65536: road}}", "expected stored ids in 0..65535 as keys"),
    "id is text": ("ids: {one: road}", "ids: expected stored ids in 0..255 as keys, found one"),
    "id is true": ("ids: {true: road}", "expected stored ids in 0..255 as keys, found True"),
    "unknown class": ("ids: {1: rode}", "ids[1]: unknown class 'rode'. Did you mean 'road'?"),
    "names of others": (
        "ids: {1: crack}",
        "These are Cityscapes', as the file has no `classes:`; list your own, `classes: [...]`.",
    ),
    "own classes": ("{classes: [a, crack], ids: {1: b}}", "unknown class 'b'."),
    "train id too large": ("{classes: [a, b], ids: {1: 2}}", "a train id in 0..1 or `ignore`, found 2"),
    "train id is a list": ("ids: {1: [road]}", "ids[1]: expected a class name, a train id in 0..18 or `ignore`"),
    "empty ids": ("ids: {}", "ids: expected a mapping to classes, found {}"),
    "colour of two": ('colors: {"1,2": road}', "colors: expected red, green and blue in 0..255, found [1, 2]"),
    "colour too large": ('colors: {"1,2,256": road}', "colors: expected red, green and blue in 0..255"),
    "colour twice": ('colors: {"1,2,3": road, "1, 2, 3": car}', "'1,2,3' and '1, 2, 3' are the same; keep one"),
    "class twice": ("classes: [a, b, a]", "classes[2]: expected each class once, found a"),
    "class is a number": ("classes: [1]", "classes[0]: expected a name (text, not `ignore`), found 1"),
    "no classes": ("classes: []", "classes: expected a list of 1 to 255 names, found []"),
    "short palette": ("{classes: [a, b], palette: [[1, 2, 3]]}", "expected a list of 2 colours, one per class"),
    "bad palette": ("{classes: [a], palette: [red]}", "palette[0]: expected red, green and blue in 0..255, found red"),
    "bad channel": ("channel: alpha", "channel: expected one of red, green, blue, found alpha"),
    "bad bits": ("bits: 12", "bits: expected one of 8, 16, found 12"),
    "bad unknown": ("unknown: maybe", "unknown: expected one of error, ignore, found maybe"),
}


@pytest.mark.parametrize(("text", "message"), REFUSED.values(), ids=REFUSED)
def test_wrong_label_map_is_refused(scheme, text, message):
    with pytest.raises(DalibError) as caught:
        scheme(text)
    assert "map.yaml" in str(caught.value)
    assert message in str(caught.value)


def test_message_about_a_huge_value_stays_short(scheme):
    with pytest.raises(DataError) as caught:
        scheme(f"classes: {{a: {'x' * 10_000}}}")
    assert len(str(caught.value)) < 400


def test_painted_classes_are_shown_in_their_first_colour_unless_a_palette_says_otherwise(scheme):
    colors = "colors:\n  200,60,60: road\n  1,2,3: ignore\n  9,9,9: road\n"
    assert scheme(colors).palette[:2] == ((200, 60, 60), CITYSCAPES_PALETTE[1])
    assert scheme("classes: [hut, road]\n" + colors).palette[1] == (200, 60, 60)
    assert scheme("classes: [road]\npalette: [[4, 5, 6]]\n" + colors).palette == ((4, 5, 6),)
