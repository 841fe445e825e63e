"""Files appear whole or not at all."""

import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from dalib.errors import DalibError
from dalib.files import append_line, check_writable, remove_temporaries, replaced, write_atomically, write_json


def test_writes_into_new_folders_and_replaces(tmp_path):
    path = tmp_path / "a" / "b.bin"
    write_atomically(path, b"one")
    write_atomically(path, b"two")
    assert path.read_bytes() == b"two"
    assert [p.name for p in path.parent.iterdir()] == ["b.bin"]


def test_the_old_file_goes_where_it_is_told(tmp_path):
    path, previous = tmp_path / "last", tmp_path / "previous"
    for data in (b"one", b"two", b"three"):
        with replaced(path, previous) as file:
            file.write(data)
    assert path.read_bytes() == b"three" and previous.read_bytes() == b"two" and len(list(tmp_path.iterdir())) == 2


def test_the_disk_has_the_bytes_before_the_name_and_the_name_before_the_end(tmp_path, monkeypatch):
    calls = []
    fsync, rename = os.fsync, Path.replace

    def flushed(descriptor):
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        calls.append(("flush", path.stat().st_size if path.is_file() else path))
        fsync(descriptor)

    def renamed(path, target):
        calls.append(("rename", target))
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(Path, "replace", renamed)
    write_atomically(tmp_path / "a", b"123")
    assert calls == [("flush", 3), ("rename", tmp_path / "a"), ("flush", tmp_path)]


def refuse(number):
    def refused(*_):
        raise OSError(number, os.strerror(number))

    return refused


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_keeps_the_old_file_leaves_no_temporary_and_is_said(call, tmp_path, monkeypatch):
    path = tmp_path / "kept.bin"
    write_atomically(path, bytes(3_000_000))
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1_200_000))
    monkeypatch.setattr(*{"fsync": (os, "fsync"), "replace": (Path, "replace")}[call], refuse(28))
    with pytest.raises(DalibError) as caught:
        write_atomically(path, b"new")
    assert str(caught.value) == (
        f"{path} cannot be written: No space left on device; it takes 3.0 MB or more, 1.2 MB are free. The file that "
        "stands there is whole. Make room and go on, with --resume if it was a training run."
    )
    assert path.read_bytes() == bytes(3_000_000) and list(tmp_path.iterdir()) == [path]


def test_a_place_that_cannot_be_written_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "open", refuse(13))
    with pytest.raises(DalibError) as caught:
        write_atomically(tmp_path / "new.bin", b"new")
    assert str(caught.value) == (
        f"{tmp_path / 'new.bin'} cannot be written: Permission denied. Nothing is left of it; other files are as "
        "they were. Choose a place that can be written."
    )


def test_any_other_error_leaves_as_it_is_and_the_old_file_too(tmp_path):
    path = tmp_path / "kept.bin"
    write_atomically(path, b"old")
    with pytest.raises(KeyboardInterrupt), replaced(path) as file:
        file.write(b"new")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_lines_are_added_and_a_full_disk_is_said(tmp_path):
    append_line(tmp_path / "lines", "one")
    append_line(tmp_path / "lines", "two")
    assert (tmp_path / "lines").read_text() == "one\ntwo\n"
    with pytest.raises(DalibError, match="/dev/full cannot be written: No space left on device"):
        append_line(Path("/dev/full"), "line")


def test_a_place_that_could_be_written_later_is_known_before(tmp_path):
    check_writable(tmp_path / "new" / "file")
    assert list((tmp_path / "new").iterdir()) == []
    (tmp_path / "new" / "file").write_text("old")
    check_writable(tmp_path / "new" / "file")
    assert (tmp_path / "new" / "file").read_text() == "old"
    with pytest.raises(DalibError, match="new is a folder; expected the path of a file to write"):
        check_writable(tmp_path / "new")
    with pytest.raises(DalibError, match=r"below cannot be written \(.*file: File exists\)\. Choose a place"):
        check_writable(tmp_path / "new" / "file" / "below")


def test_only_the_temporary_files_of_these_functions_are_removed(tmp_path):
    for name in (".last.pt.123.tmp", ".mine.tmp", "notes.123.tmp", "last.pt"):
        (tmp_path / name).touch()
    remove_temporaries(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".mine.tmp", "last.pt", "notes.123.tmp"]


def test_json_has_a_list_of_numbers_on_one_line_and_texts_as_they_are(tmp_path):
    value = {"rows": [[1, 2], [3, 4]], "text": "x [\n 1, 2 ] y", "small": [0.1, -2e-05], "mixed": ["a", 1], "none": []}
    write_json(tmp_path / "a.json", value)
    text = (tmp_path / "a.json").read_text()
    assert json.loads(text) == value
    assert "    [1, 2],\n    [3, 4]\n" in text and '"small": [0.1, -2e-05]' in text
