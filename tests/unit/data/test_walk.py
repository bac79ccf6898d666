"""The one way in which folders are seen: what is followed, what is left out, what cannot be read."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from headstart.data.folders import list_folder
from headstart.data.walk import walk
from headstart.errors import DataError
from headstart.inference.inputs import expand_inputs


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def trained_on(folder: Path) -> list[str]:
    return sorted(path for path, *_ in list_folder(folder).images)


def predicted(folder: Path) -> list[str]:
    return sorted(map(str, expand_inputs([str(folder)])))


@pytest.fixture(params=[trained_on, predicted])
def images_of(request: pytest.FixtureRequest) -> Callable[[Path], list[str]]:
    """Both ways in which a folder is read: for training, and for prediction."""
    return request.param


def test_links_to_folders_are_followed_and_links_back_are_not(
    tmp_path: Path, images_of: Callable[[Path], list[str]]
) -> None:
    touch(tmp_path, "store/1.jpg", "data/b/2.jpg")
    (tmp_path / "data/a").symlink_to(tmp_path / "store", target_is_directory=True)
    (tmp_path / "data/b/up").symlink_to(tmp_path / "data", target_is_directory=True)
    (tmp_path / "data/b/itself").symlink_to(tmp_path / "data/b", target_is_directory=True)
    assert images_of(tmp_path / "data") == [str(tmp_path / "data/a/1.jpg"), str(tmp_path / "data/b/2.jpg")]


def test_what_systems_leave_is_left_out(tmp_path: Path, images_of: Callable[[Path], list[str]]) -> None:
    touch(tmp_path, "a/1.jpg", "b/2.jpg", ".git/3.jpg", "a/._1.jpg", "a/.ipynb_checkpoints/1.jpg")
    junk = ["#recycle", "@tmp", "@eaDir", "__pycache__", "Thumbs", "__MACOSX", "lost+found", "$RECYCLE.BIN"]
    touch(tmp_path, *[f"{name}/4.jpg" for name in junk], *[f"a/{name}/5.jpg" for name in junk])
    assert images_of(tmp_path) == [str(tmp_path / "a/1.jpg"), str(tmp_path / "b/2.jpg")]


def test_a_link_to_itself_is_a_file_that_cannot_be_read(tmp_path: Path, images_of: Callable[[Path], list[str]]) -> None:
    touch(tmp_path, "a/1.jpg", "b/2.jpg")
    (tmp_path / "a/x.jpg").symlink_to(tmp_path / "a/x.jpg")
    (tmp_path / "a/y").symlink_to(tmp_path / "a/y")
    assert str(tmp_path / "a/x.jpg") in images_of(tmp_path)
    assert str(tmp_path / "a/y") not in images_of(tmp_path)


def test_a_folder_that_cannot_be_listed_is_refused(
    tmp_path: Path, images_of: Callable[[Path], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "a/1.jpg", "b/2.jpg")
    listed = os.scandir

    # Permissions mean nothing to root, as whom tests may run.
    def closed(path: str):  # type: ignore[no-untyped-def]
        if os.fspath(path).endswith("b"):
            raise PermissionError(13, "Permission denied")
        return listed(path)

    monkeypatch.setattr(os, "scandir", closed)
    with pytest.raises(DataError, match=r"cannot list the folder .*b: Permission denied; check its permissions"):
        images_of(tmp_path)


def test_the_order_is_the_same_everywhere(tmp_path: Path) -> None:
    touch(tmp_path, "b/2.jpg", "b/1.jpg", "a/c/3.jpg", "a/4.jpg", "z.jpg")
    found = [image for folder in walk(str(tmp_path)) for image in folder.images]
    assert found == [str(tmp_path / name) for name in ("z.jpg", "a/4.jpg", "a/c/3.jpg", "b/1.jpg", "b/2.jpg")]
    assert list(map(str, expand_inputs([str(tmp_path)]))) == found


def test_a_named_link_to_itself_is_taken_so_that_its_row_says_why(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").symlink_to(tmp_path / "x.jpg")
    assert list(expand_inputs([str(tmp_path / "x.jpg")])) == [tmp_path / "x.jpg"]
