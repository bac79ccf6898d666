"""Files and folders appear whole or not at all, and nothing is left beside them."""

import os
from pathlib import Path

import pytest

from headstart.files import whole_file, whole_folder


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_a_file_takes_its_name_when_the_block_succeeds(tmp_path):
    path = tmp_path / "a.txt"
    for text in ("first", "second"):
        with whole_file(path) as temporary:
            temporary.write_text(text)
            assert not path.exists() or path.read_text() == "first"
        assert contents(tmp_path) == {"a.txt": text}


def test_what_fails_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def stop(path: Path, temporary: Path) -> None:
        with whole_file(path, temporary) as hidden:
            assert hidden == temporary
            hidden.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop(path, tmp_path / ".mine")
    assert contents(tmp_path) == {"a.txt": "old"}


def test_a_block_that_writes_nothing_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError), whole_file(tmp_path / "a.txt"):
        pass
    assert contents(tmp_path) == {}


@pytest.mark.parametrize("is_there", [False, True])
def test_a_folder_takes_its_name_when_the_block_succeeds(tmp_path, is_there):
    folder = tmp_path / "deep" / "a"
    if is_there:
        folder.mkdir(parents=True)  # an empty one gives way
    with whole_folder(folder) as new:
        (new / "x").write_text("x")
        assert folder.exists() == is_there
    assert contents(folder) == {"x": "x"}
    assert os.listdir(folder.parent) == ["a"]


@pytest.mark.parametrize(("replace", "kept"), [(False, "theirs"), (True, "mine")])
def test_a_folder_that_came_in_between_stays_unless_it_is_to_be_replaced(tmp_path, replace, kept):
    folder = tmp_path / "a"
    with whole_folder(folder, replace=replace) as new:
        (new / "x").write_text("mine")
        folder.mkdir()
        (folder / "x").write_text("theirs")
    assert contents(folder) == {"x": kept}
    assert os.listdir(tmp_path) == ["a"]


def test_what_fails_leaves_no_folder(tmp_path):
    def fail(folder: Path) -> None:
        with whole_folder(folder) as new:
            (new / "x").write_text("x")
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        fail(tmp_path / "a")
    assert os.listdir(tmp_path) == []
