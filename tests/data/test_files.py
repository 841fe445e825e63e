"""Finding files."""

import pytest

from dalib.data.decode import LABEL_SUFFIXES
from dalib.data.files import find_files, find_images
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
