"""Lists of images, alone and with their labels."""

import numpy as np
import pytest

from dalib.data.faults import collecting
from dalib.data.folder import folder
from dalib.errors import DataError


@pytest.fixture
def listed(save, rgb, ids, tmp_path):
    for name in ("a", "b", "deep/c d"):
        save(f"images/{name}.jpg", rgb)
        save(f"labels/{name}.png", ids)
    save("masks/odd.png", np.zeros_like(ids))
    save("elsewhere/far.png", rgb)
    save("../outside.jpg", rgb), save("../outside.png", ids)

    def read(text, **options):
        (tmp_path / "list.txt").write_text(text)
        dataset = folder(root=str(tmp_path), list="list.txt", **options)
        return [(image.name, label and label.name) for image, label in dataset.files]

    return read


def test_comments_and_empty_lines_are_left_out(listed):
    assert listed("# the first drive\n\na.jpg  # blurred\n  # none\nb\n") == [("a.jpg", "a.png"), ("b.jpg", "b.png")]


def test_a_line_may_be_a_path_below_root_or_an_absolute_one(listed, tmp_path):
    lines = f"images/a.jpg\n{tmp_path}/images/deep/c d.jpg\n"
    assert listed(lines) == [("a.jpg", "a.png"), ("c d.jpg", "c d.png")]


@pytest.mark.parametrize("between", [" ", "   ", "\t", ",", ", "])
def test_a_line_may_name_the_label_too(listed, tmp_path, between):
    lines = [f"images/a.jpg{between}masks/odd.png", f"{tmp_path}/elsewhere/far.png{between}{tmp_path}/labels/b.png"]
    assert listed("\n".join(lines)) == [("a.jpg", "odd.png"), ("far.png", "b.png")]
    assert listed("\n".join(lines), labels=None) == [("a.jpg", None), ("far.png", None)]


def test_labels_of_a_list_need_no_folder_of_labels(listed, tmp_path):
    (tmp_path / "labels").rename(tmp_path / "elsewhere/labels")
    assert listed("a.jpg elsewhere/labels/a.png") == [("a.jpg", "a.png")]
    assert listed("a.jpg") == [("a.jpg", None)]


def test_names_with_blanks_take_a_tab_or_comma_before_the_label(listed):
    assert listed("deep/c d.jpg\tmasks/odd.png") == [("c d.jpg", "odd.png")]


def test_what_is_not_there_is_named(listed):
    for line, said in {
        "a.jpg masks/none.png": "expected the label of an image, found 'masks/none.png', which is not there",
        "nothing.jpg masks/odd.png": "found 'nothing.jpg masks/odd.png', which is not there",
        "../outside.jpg masks/odd.png": "which is not there",
        "a ../outside.png": r"expected the label of an image, found '\.\./outside\.png', which is not there",
        "a b c": "found 'a b c', which is not there",
        "list.txt": "found 'list.txt', which is not there",
    }.items():
        with pytest.raises(DataError, match=said):
            listed(line)
    with collecting() as faults:
        assert listed("a\nnothing\nb masks/none.png\n") == [("a.jpg", "a.png")]
    assert len(faults) == 2
