from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from headstart.data.pictures import Pictures
from headstart.data.sources import FILES, read_picture, sha256
from headstart.errors import UnreadableImageError
from headstart.types import PLAIN, Decoding


@pytest.fixture
def keys(picture: Image.Image, tmp_path: Path) -> list[str]:
    found = [str(tmp_path / f"{number}.jpg") for number in range(4)]
    for key in found:
        picture.resize((600, 450)).save(key)
    return found


def digest(key: str) -> bytes:
    return bytes.fromhex(sha256(FILES, key))


def test_none_is_read_or_decoded_twice(keys: list[str], watched: Any) -> None:
    kept = Pictures()
    for _ in range(2):
        for key in keys:
            found = kept.decode(watched, key, PLAIN, digest(key))
            assert np.array_equal(np.asarray(found), np.asarray(read_picture(FILES, key)))
    assert watched.opened == keys
    kept.keep("given", read_picture(FILES, keys[0]))
    assert kept.decode(watched, "given", PLAIN, b"").size == (600, 450)
    assert watched.opened == keys


def test_what_exceeds_the_limit_is_decoded_again(keys: list[str], watched: Any) -> None:
    kept = Pictures(2 * 4 * 600 * 450)
    for key in (*keys, *keys):
        kept.decode(watched, key, PLAIN, digest(key))
    assert watched.opened == [*keys, *keys[2:]]


def test_a_picture_decoded_smaller_is_another_one(keys: list[str], watched: Any) -> None:
    kept = Pictures()
    kept.decode(watched, keys[0], PLAIN, digest(keys[0]))
    for _ in range(2):
        assert kept.decode(watched, keys[0], Decoding(200), digest(keys[0])).size == (300, 225)
    assert watched.opened == [keys[0]] * 3


@pytest.mark.parametrize("smallest", [None, 200])
def test_a_file_that_changed_since_it_was_checked_is_refused(keys: list[str], smallest: int | None) -> None:
    checked = digest(keys[0])
    Image.new("RGB", (600, 450)).save(keys[0])
    kept = Pictures()
    for _ in range(2):
        with pytest.raises(UnreadableImageError, match=r"0\.jpg: it has changed since the data was checked"):
            kept.decode(FILES, keys[0], Decoding(smallest), checked)
