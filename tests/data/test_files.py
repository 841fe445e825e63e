"""Finding files."""

import pytest

from dalib.data.decode import LABEL_SUFFIXES
from dalib.data.files import expanded, find_files, find_images, find_labels
from dalib.errors import DataError


def test_files_are_found_at_any_depth_sorted_with_odd_names(save, rgb, tmp_path):
    for name in ["b.PNG", "deep er/ñandú 1.jpg", "a.v2.jpeg", "notes.txt"]:
        (save(name, rgb) if name != "notes.txt" else (tmp_path / name).write_text(""))
    assert list(find_images(tmp_path)) == ["a.v2", "b", "deep er/ñandú 1"]


def test_two_images_of_one_name_are_refused(save, rgb, tmp_path):
    save("a.png", rgb), save("a.jpg", rgb)
    with pytest.raises(DataError, match=r"a\.png: expected one file of this name, found .*a\.jpg as well"):
        find_images(tmp_path)


def test_links_are_followed_and_a_loop_is_named(save, rgb, tmp_path):
    save("disk/a.png", rgb)
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "linked").symlink_to(tmp_path / "disk")
    assert list(find_images(tmp_path / "set")) == ["linked/a"]
    (tmp_path / "disk" / "loop").symlink_to(tmp_path / "set")
    with pytest.raises(
        DataError, match=r"set/linked/loop: expected a folder, found a symbolic link to .*set, which contains it"
    ):
        find_images(tmp_path / "set")


def test_folder_without_images_is_an_error_that_says_what_counts_as_one(tmp_path):
    (tmp_path / "a.heic").write_text("")
    with pytest.raises(
        DataError, match=r"expected images \(\.bmp, \.jpeg, \.jpg, \.png, \.tif, \.tiff, \.webp\), found none"
    ):
        find_images(tmp_path)
    assert find_files(tmp_path, LABEL_SUFFIXES) == {}


def test_names_with_a_leading_dot_are_left_out(save, rgb, tmp_path, caplog):
    for name in ("IMG.jpg", "._IMG.jpg", ".ipynb_checkpoints/IMG-checkpoint.jpg", ".DS_Store.png"):
        save(name, rgb)
    assert list(find_images(tmp_path)) == ["IMG"] and not caplog.messages


def test_bitmaps_and_tiff_are_images_and_what_is_passed_over_is_counted_and_told(save, rgb, tmp_path, caplog):
    for name in ("a.png", "b.tif", "c.TIFF", "d.bmp", "e.gif"):
        save(name, rgb)
    (tmp_path / "f.heic").write_text("")
    (tmp_path / "g.heic").write_text("")
    assert list(find_images(tmp_path)) == ["a", "b", "c", "d"]
    assert "4 images; passed over: 1 .gif, 2 .heic (images are .bmp, " in caplog.text


def test_what_is_passed_over_is_told_once_until_it_changes(save, rgb, tmp_path, caplog):
    for name in ("a.png", "b.gif"):
        save(name, rgb)
    for _ in range(2):  # a target that is evaluated, too, is read by several data sets
        find_images(tmp_path)
    assert len(caplog.messages) == 1
    save("c.gif", rgb)
    find_images(tmp_path)
    assert "passed over: 2 .gif" in caplog.messages[1]


def test_an_ending_tells_images_from_labels_beside_them(save, rgb, ids, tmp_path):
    save("x.jpg", rgb), save("x.png", ids), save("y_rgb.png", rgb), save("y_label.PNG", ids)
    assert list(find_images(tmp_path, ending=".jpg")) == ["x"]
    assert list(find_images(tmp_path, ending="_rgb.png")) == ["y"] == list(find_labels(tmp_path, ending="_label.png"))
    with pytest.raises(DataError, match=r"expected images \(_left\.png\), found none that fit"):
        find_images(tmp_path, ending="_left.png")
    with pytest.raises(DataError, match=r"expected labels, \*_ids\.png, found none"):
        find_labels(tmp_path, ending="_ids.png")


def test_a_label_that_is_no_png_is_named_instead_of_missing(save, ids, tmp_path):
    save("a.png", ids), save("a.jpg", ids), save("b.jpg", ids)  # a.jpg is a picture of a.png
    with pytest.raises(DataError, match=r"b\.jpg: expected a PNG label, found another format; lossy formats blur"):
        find_labels(tmp_path)
    (tmp_path / "b.jpg").unlink()
    assert list(find_labels(tmp_path)) == ["a"]


def test_home_and_variables_are_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DISK", "/data")
    assert [str(expanded(p)) for p in ("~/x", "$DISK/x", "${DISK}2/x", "$NO_SUCH/x", "~nobody-here/x", "x")] == [
        *(f"{tmp_path}/x", "/data/x", "/data2/x", "$NO_SUCH/x", "~nobody-here/x", "x")
    ]
