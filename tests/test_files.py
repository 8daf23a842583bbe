"""A file is whole or not there, whatever happens while it is written."""

import json
import os
import stat
import threading
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pytest

from aiinfra.errors import LoadError
from aiinfra.files import read_json, replace_folder, replace_whole, save_json, write_json, write_text


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_write_that_breaks_leaves_the_old_content_and_nothing_beside_it(tmp_path) -> None:
    path = tmp_path / "progress.json"
    write_text(path, "old")

    def breaks(temporary: Path) -> None:
        temporary.write_text("half of the n")
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        replace_whole(path, breaks)
    assert path.read_text() == "old" and names(tmp_path) == ["progress.json"]


def test_a_first_write_that_breaks_leaves_nothing(tmp_path) -> None:
    with pytest.raises(ZeroDivisionError):
        replace_whole(tmp_path / "new.bin", lambda temporary: 1 / 0)
    assert names(tmp_path) == []


def test_a_folder_that_does_not_exist_is_made(tmp_path) -> None:
    path = tmp_path / "a" / "b" / "c.txt"
    write_text(path, "é\n")
    assert path.read_bytes() == "é\n".encode() and names(path.parent) == ["c.txt"]


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(OSError):
        write_text(tmp_path / "file" / "x.txt", "x")


def test_two_writers_never_share_a_temporary_file(tmp_path) -> None:
    """Both are in the middle of writing at the same time; each sees its own file, and one whole content
    remains."""
    path, both_inside, seen = tmp_path / "shared.txt", threading.Barrier(2), []

    def write(content: str) -> None:
        def slowly(temporary: Path) -> None:
            temporary.write_text(content[:5])
            seen.append(temporary)
            both_inside.wait(timeout=10)
            assert temporary.read_text() == content[:5]
            temporary.write_text(content)
        replace_whole(path, slowly)
    contents = ["aaaaaaaaaa", "bbbbbbbbbb"]
    writers = [threading.Thread(target=write, args=(content,)) for content in contents]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert len(set(seen)) == 2 and path.read_text() in contents and names(tmp_path) == ["shared.txt"]


def test_a_reader_never_sees_a_part(tmp_path) -> None:
    path = tmp_path / "large.txt"
    write_text(path, "0" * 100_000)
    found, done = set(), threading.Event()

    def read() -> None:
        while not done.is_set():
            text = path.read_text()
            found.add((len(text), len(set(text))))
    reader = threading.Thread(target=read)
    reader.start()
    for digit in "123456789":
        write_text(path, digit * 100_000)
    done.set()
    reader.join()
    assert found <= {(100_000, 1)}


def _rename_that_fails_at(place: int, error: BaseException, monkeypatch) -> None:
    """Let the `place`-th renaming of a folder, counted from 1, raise `error`."""
    calls = count(1)

    def rename(self: Path, target: Path) -> Path:
        if next(calls) == place:
            raise error
        return Path(os.rename(self, target) or target)
    monkeypatch.setattr(Path, "rename", rename)


def write_folder(path: Path, content: str) -> None:
    replace_folder(path, lambda folder: (folder / "content").write_text(content))


@pytest.mark.parametrize("error", [OSError("the disk is gone"), KeyboardInterrupt()])
@pytest.mark.parametrize("place", [1, 2])
def test_a_folder_that_cannot_be_moved_in_leaves_the_old_one(place: int, error: BaseException, tmp_path,
                                                             monkeypatch) -> None:
    path = tmp_path / "step-1"
    write_folder(path, "old")
    with monkeypatch.context() as patch, pytest.raises(type(error)):
        _rename_that_fails_at(place, error, patch)
        write_folder(path, "new")
    assert (path / "content").read_text() == "old" and names(tmp_path) == ["step-1"]


def test_what_was_moved_aside_by_a_killed_process_comes_back_at_the_next_call(tmp_path) -> None:
    """It was killed between the two moves: neither folder stands at its place, and both are whole."""
    path = tmp_path / "step-1"
    for name in (".step-1.abcdefgh.part", ".step-1.abcdefgh.old.part"):
        (tmp_path / name).mkdir()
    (tmp_path / ".step-1.abcdefgh.old.part" / "content").write_text("old")

    def breaks(folder: Path) -> None:
        assert (path / "content").read_text() == "old"
        raise ZeroDivisionError
    with pytest.raises(ZeroDivisionError):
        replace_folder(path, breaks)
    assert (path / "content").read_text() == "old" and names(tmp_path) == ["step-1"]


def test_what_a_killed_process_left_is_removed_and_no_other_folder(tmp_path) -> None:
    for name in (".step-1.abcdefgh.part", ".step-1.abcdefgh.old.part", ".step-10.abcdefgh.part"):
        (tmp_path / name).mkdir()
    write_folder(tmp_path / "step-1", "old")
    (tmp_path / ".step-1.abcdefgh.old.part").mkdir()
    write_folder(tmp_path / "step-1", "new")
    assert names(tmp_path) == [".step-10.abcdefgh.part", "step-1"]
    assert (tmp_path / "step-1" / "content").read_text() == "new"


@pytest.mark.skipif(os.name != "posix", reason="rights are another thing elsewhere")
@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_rights_are_those_of_any_new_file(mask: int, tmp_path) -> None:
    before = os.umask(mask)
    try:
        write_text(tmp_path / "ours", "x")
        (tmp_path / "usual").write_text("x")
        assert os.umask(mask) == mask
    finally:
        os.umask(before)
    ours, usual = (stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("ours", "usual"))
    assert ours == usual == 0o666 & ~mask


def test_json_is_read_as_it_was_written(tmp_path) -> None:
    content = {"name": "é", "sizes": [1, 2], "none": None}
    write_json(tmp_path / "x.json", content)
    assert read_json(tmp_path / "x.json") == content
    assert "é" in (tmp_path / "x.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("content, message", [
    (None, "has no x.json"), (b"{", "x.json is not valid JSON"), (b"\xff", "not valid JSON in UTF-8"),
    (b"[1]", "x.json holds a list; an object is expected"),
])
def test_json_that_cannot_be_read_names_the_file(content: bytes | None, message: str, tmp_path) -> None:
    if content is not None:
        (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(LoadError, match=message):
        read_json(tmp_path / "x.json")


def test_saving_rows_is_whole_or_not_at_all(tmp_path) -> None:
    @dataclass
    class Row:
        value: object
    path = tmp_path / "folder" / "rows.json"
    save_json([Row(1.5)], {"device": "x"}, path)
    before = path.read_text()
    assert json.loads(before) == {"settings": {"device": "x"}, "rows": [{"value": 1.5}]}
    with pytest.raises(TypeError):
        save_json([Row(object())], {}, path)
    assert path.read_text() == before and list(path.parent.iterdir()) == [path]
