"""Files and folders appear whole or not at all, and nothing is left beside them."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import BaseFileLock

from headstart import files, locks
from headstart.files import remove_leftovers, whole_file, whole_files, whole_folder, write_atomic


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_a_file_takes_its_name_when_the_block_succeeds(tmp_path):
    path = tmp_path / "a.txt"
    for text in ("first", "second"):
        with whole_file(path) as temporary:
            temporary.write_text(text)
            assert not path.exists() or path.read_text() == "first"
        assert contents(tmp_path) == {"a.txt": text}


def test_several_files_take_their_places_when_the_block_succeeds_and_none_where_it_fails(tmp_path):
    (tmp_path / "a.txt").write_text("old")
    (tmp_path / "other.txt").write_text("other")

    def write(ends: bool) -> None:
        with whole_files(tmp_path) as place:
            (place / "a.txt").write_text("new")
            (place / "b.txt").write_text("new")
            if not ends:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(ends=False)
    assert contents(tmp_path) == {"a.txt": "old", "other.txt": "other"}
    write(ends=True)
    assert contents(tmp_path) == {"a.txt": "new", "b.txt": "new", "other.txt": "other"}


def test_what_fails_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def stop(path: Path) -> None:
        with whole_file(path) as hidden:
            assert hidden.name == path.name  # its suffix may say the format
            hidden.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop(path)
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


@pytest.mark.parametrize(("if_there", "kept"), [("keep", "theirs"), ("replace", "mine")])
def test_a_folder_that_came_in_between_stays_unless_it_is_to_be_replaced(tmp_path, if_there, kept):
    folder = tmp_path / "a"
    with whole_folder(folder, if_there=if_there) as new:
        (new / "x").write_text("mine")
        folder.mkdir()
        (folder / "x").write_text("theirs")
    assert contents(folder) == {"x": kept}
    assert os.listdir(tmp_path) == ["a"]


def test_a_folder_that_came_in_between_can_be_refused(tmp_path):
    folder = tmp_path / "a"

    def write(folder: Path) -> None:
        with whole_folder(folder, if_there="refuse") as new:
            (new / "x").write_text("mine")
            folder.mkdir()
            (folder / "x").write_text("theirs")

    with pytest.raises(FileExistsError):
        write(folder)
    assert contents(folder) == {"x": "theirs"}
    assert os.listdir(tmp_path) == ["a"]


def test_what_fails_leaves_no_folder(tmp_path):
    def fail(folder: Path) -> None:
        with whole_folder(folder) as new:
            (new / "x").write_text("x")
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        fail(tmp_path / "a")
    assert os.listdir(tmp_path) == []


def start_writing(folder: Path) -> subprocess.Popen[str]:
    """Return a process that is in the middle of writing a file and a folder."""
    script = """
import sys, pathlib
from headstart.files import whole_file, whole_folder
folder = pathlib.Path(sys.argv[1])
with whole_file(folder / "model.safetensors") as file, whole_folder(folder / "run") as new:
    file.write_text("half a model")
    (new / "x").write_text("half a run")
    print("writing", flush=True)
    sys.stdin.read()
"""
    command = [sys.executable, "-c", script, str(folder)]
    writer = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    assert writer.stdout.readline() == "writing\n"
    return writer


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path):
    killed = start_writing(tmp_path)
    killed.kill()
    killed.communicate()
    left = set(os.listdir(tmp_path))
    alive = start_writing(tmp_path)
    (tmp_path / ".headstart-notes123").mkdir()
    (tmp_path / ".headstart-notes123" / "mine.txt").write_text("")  # of somebody with the same taste in names
    assert len(left) == 2

    write_atomic(tmp_path / "a", "")
    written = set(os.listdir(tmp_path)) - {"a", ".headstart-notes123"}
    assert len(written) == 2
    assert not written & left

    alive.communicate("")
    assert sorted(os.listdir(tmp_path)) == [".headstart-notes123", "a", "model.safetensors", "run"]


@pytest.mark.parametrize("error", [FileNotFoundError(errno.ENOENT, ""), FileExistsError(errno.EEXIST, "")])
def test_a_folder_that_another_process_removes_before_it_is_locked_is_made_anew(tmp_path, monkeypatch, error):
    taken = []

    def try_lock(file: Path) -> BaseFileLock | None:
        if not taken:
            taken.append(file)
            file.parent.rmdir()
            raise error
        return locks.try_lock(file)

    monkeypatch.setattr(files, "try_lock", try_lock)
    write_atomic(tmp_path / "a", "text")
    assert len(taken) == 1
    assert contents(tmp_path) == {"a": "text"}


def test_a_folder_whose_replacement_was_killed_is_put_back(tmp_path):
    hidden = tmp_path / ".headstart-0123abcd"
    for name in ("old", "new"):
        (hidden / name / "run").mkdir(parents=True)
        (hidden / name / "run" / "x").write_text(name)
    remove_leftovers(tmp_path)
    assert contents(tmp_path / "run") == {"x": "old"}
    assert os.listdir(tmp_path) == ["run"]
