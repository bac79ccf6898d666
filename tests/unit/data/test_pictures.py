from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from headstart.data import pictures
from headstart.data.checks import file_sha256
from headstart.data.pictures import Pictures
from headstart.data.transforms import decode
from headstart.errors import UnreadableImageError


@pytest.fixture
def paths(picture: Image.Image, tmp_path: Path) -> list[Path]:
    found = [tmp_path / f"{number}.jpg" for number in range(4)]
    for path in found:
        picture.resize((600, 450)).save(path)
    return found


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were decoded, in order."""
    seen: list[Path] = []

    def counting(path: Path, *, smallest: int | None = None) -> Image.Image:
        seen.append(path)
        return decode(path, smallest=smallest)

    monkeypatch.setattr(pictures, "decode", counting)
    return seen


def digest(path: Path) -> bytes:
    return bytes.fromhex(file_sha256(path))


def test_none_is_decoded_twice(paths: list[Path], decoded: list[Path]) -> None:
    kept = Pictures()
    for _ in range(2):
        for path in paths:
            assert np.array_equal(np.asarray(kept.decode(path, None, digest(path))), np.asarray(decode(path)))
    assert decoded == paths
    kept.keep(Path("given"), decode(paths[0]))
    assert kept.decode(Path("given"), None, b"").size == (600, 450)
    assert decoded == paths


def test_what_exceeds_the_limit_is_decoded_again(paths: list[Path], decoded: list[Path]) -> None:
    kept = Pictures(2 * 4 * 600 * 450)
    for path in (*paths, *paths):
        kept.decode(path, None, digest(path))
    assert decoded == [*paths, *paths[2:]]


def test_a_picture_decoded_smaller_is_another_one(paths: list[Path], decoded: list[Path]) -> None:
    kept = Pictures()
    kept.decode(paths[0], None, digest(paths[0]))
    for _ in range(2):
        assert kept.decode(paths[0], 200, digest(paths[0])).size == (300, 225)
    assert decoded == [paths[0]] * 3


@pytest.mark.parametrize("smallest", [None, 200])
def test_a_file_that_changed_since_it_was_checked_is_refused(paths: list[Path], smallest: int | None) -> None:
    checked = digest(paths[0])
    Image.new("RGB", (600, 450)).save(paths[0])
    kept = Pictures()
    for _ in range(2):
        with pytest.raises(UnreadableImageError, match=r"0\.jpg has changed since the data was checked"):
            kept.decode(paths[0], smallest, checked)
