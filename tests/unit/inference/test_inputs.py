import itertools
from pathlib import Path

import pytest

from headstart.errors import DataError
from headstart.inference.inputs import expand_inputs


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    for name in (
        "b/2.JPG",
        "b/1.png",
        "a/x.webp",
        "a/.hidden.png",
        ".git/y.png",
        "a/README.md",
        "top.jpeg",
        "odd[1].png",
    ):
        path = tmp_path / "pics" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(*words: str, stdin=None) -> list[str]:
    return [path.as_posix() for path in expand_inputs(words, stdin)]


def test_a_folder_gives_its_images_by_name(folder):
    assert names("pics") == ["pics/odd[1].png", "pics/top.jpeg", "pics/a/x.webp", "pics/b/1.png", "pics/b/2.JPG"]


def test_a_named_file_is_taken_whatever_its_extension(folder):
    assert names("pics/a/README.md", "pics/top.jpeg") == ["pics/a/README.md", "pics/top.jpeg"]


def test_words_keep_their_order(folder):
    assert names("pics/top.jpeg", "pics/a", "pics/top.jpeg") == ["pics/top.jpeg", "pics/a/x.webp", "pics/top.jpeg"]


def test_globs_are_expanded(folder):
    assert names("pics/b/*") == ["pics/b/1.png", "pics/b/2.JPG"]
    assert names("pics/?/*.png") == ["pics/b/1.png"]
    assert names("pics/[ab]") == ["pics/a/x.webp", "pics/b/1.png", "pics/b/2.JPG"]
    assert names("pics/**") == sorted(names("pics"))


def test_a_name_that_looks_like_a_glob_is_a_name_first(folder):
    assert names("pics/odd[1].png") == ["pics/odd[1].png"]


def test_standard_input_is_a_path_per_line(folder):
    assert names("-", stdin=["pics/top.jpeg\n", "\n", "no such file.png\r\n", "with space.png"]) == [
        "pics/top.jpeg",
        "no such file.png",
        "with space.png",
    ]


def test_standard_input_is_read_lazily(folder):
    endless = (f"{number}.png\n" for number in itertools.count())
    assert next(expand_inputs(["-"], endless)) == Path("0.png")


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("missing.png", r"there is no file or folder missing\.png"),
        ("pics/*.tif", r"no image matches pics/\*\.tif"),
        ("empty", "folder empty holds no image file"),
        ("", "there is no file or folder"),
    ],
)
def test_a_word_that_matches_nothing_stops_before_the_first_image(folder, word, message):
    with pytest.raises(DataError, match=message):
        expand_inputs(["pics", word])


def test_no_word(folder):
    with pytest.raises(DataError, match="no image was given"):
        expand_inputs([])
