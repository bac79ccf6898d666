import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from headstart.data.checks import (
    BadImage,
    Fingerprint,
    check_classes,
    find_conflicts,
    find_duplicates,
    find_leaks,
    fingerprint,
    raise_unreadable,
    unreadable_headers,
)
from headstart.data.manifest import ImageRecord, Manifest
from headstart.data.sources import FILES, sha256
from headstart.errors import DataError, UnreadableImageError


def records(*paths: Path) -> list[ImageRecord]:
    return [ImageRecord(str(path), 0, "train") for path in paths]


def hashes(*paths: Path) -> list[Fingerprint]:
    found = fingerprint(FILES, records(*paths), threads=2)
    assert all(isinstance(result, Fingerprint) for result in found)
    return [result for result in found if isinstance(result, Fingerprint)]


def test_headers_find_what_is_no_image(picture: Image.Image, tmp_path: Path) -> None:
    names = ["good.jpg", "text.jpg", "empty.jpg", "gone.jpg", "folder.jpg", "pipe.jpg"]
    good, text, empty, gone, folder, pipe = (tmp_path / name for name in names)
    picture.save(good)
    text.write_text("no image")
    empty.touch()
    folder.mkdir()
    os.mkfifo(pipe)
    bad = unreadable_headers(FILES, records(good, text, empty, gone, folder, pipe), threads=2)
    assert [Path(image.path).name for image in bad] == names[1:]
    assert [image.reason for image in bad[2:]] == [
        "no such file or directory",
        "a folder, not a regular file",
        "a pipe, not a regular file",
    ]
    assert "not an image" in bad[0].reason


def test_a_truncated_body_passes_the_header_and_fails_the_decoding(picture: Image.Image, tmp_path: Path) -> None:
    path = tmp_path / "cut.jpg"
    picture.resize((600, 400)).save(path)
    path.write_bytes(path.read_bytes()[:-500])
    assert unreadable_headers(FILES, records(path), threads=1) == []
    (bad,) = fingerprint(FILES, records(path), threads=1)
    assert isinstance(bad, BadImage)
    assert "truncated" in bad.reason


def test_a_bomb_is_refused_by_its_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("1", (100, 100)).save(tmp_path / "big.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4000)
    (bad,) = unreadable_headers(FILES, records(tmp_path / "big.png"), threads=1)
    assert "it has 10,000 pixels, and Pillow opens at most 8,000; make it smaller" in bad.reason


def test_progress_reaches_the_end(image_folder: Path) -> None:
    steps: list[tuple[str, int, int]] = []
    paths = sorted(image_folder.rglob("*.png"))[:5]
    unreadable_headers(FILES, records(*paths), threads=2, progress=lambda *step: steps.append(step))
    assert steps == [("reading headers", done, 5) for done in range(1, 6)]


def test_pixels_are_compared_across_formats_and_orientations(picture: Image.Image, tmp_path: Path) -> None:
    jpeg, png, turned, other = (tmp_path / name for name in ("a.jpg", "a.png", "turned.png", "other.png"))
    picture.save(jpeg)
    with Image.open(jpeg) as decoded:
        decoded.convert("RGBA").save(png)
        exif = Image.Exif()
        exif[0x0112] = 6
        decoded.transpose(Image.Transpose.ROTATE_90).save(turned, exif=exif.tobytes())
        decoded.transpose(Image.Transpose.ROTATE_180).save(other)
    found = hashes(jpeg, png, turned, other)
    assert len({result.pixels for result in found[:3]}) == 1
    assert found[3].pixels != found[0].pixels
    assert len({result.sha256 for result in found}) == 4
    assert found[0].sha256 == sha256(FILES, str(jpeg))


def test_equal_bytes_of_another_shape_are_no_copy(tmp_path: Path) -> None:
    for name, shape in (("wide", (2, 8, 3)), ("high", (8, 2, 3))):
        Image.fromarray(np.full(shape, 7, np.uint8)).save(tmp_path / f"{name}.png")
    wide, high = hashes(tmp_path / "wide.png", tmp_path / "high.png")
    assert wide.pixels != high.pixels


def entry(name: str, split: str, label: int = 0) -> ImageRecord:
    return ImageRecord(f"/d/{name}", label, split)


def test_leaks_point_at_the_split_that_judges() -> None:
    found = find_leaks(
        [entry("1", "train"), entry("2", "validation"), entry("3", "test"), entry("4", "train"), entry("5", "train")],
        ["x", "x", "x", "y", "y"],
    )
    assert {position: (leak.split, leak.copy_of, leak.copy_of_split) for position, leak in found.items()} == {
        0: ("train", "/d/3", "test"),
        1: ("validation", "/d/3", "test"),
    }


def test_duplicates_are_within_a_split_and_conflicts_have_different_labels() -> None:
    entries = [entry("1", "train"), entry("2", "train"), entry("3", "test"), entry("4", "train", 1)]
    assert find_duplicates(entries, ["x"] * 4) == (("/d/1", "/d/2"),)
    assert find_conflicts(entries, ["x", "y", "x", "y"], ["a", "b"]) == ((("/d/2", "a"), ("/d/4", "b")),)


def test_unreadable_images_are_one_error_that_counts_them() -> None:
    raise_unreadable([], num_images=9)
    bad = [BadImage(f"/d/{n}", "torn") for n in (1, 2, 3, 4, 5)]
    with pytest.raises(UnreadableImageError, match=r"image /d/1: torn; repair or remove it, .*--skip-bad"):
        raise_unreadable(bad[:1], num_images=9)
    with pytest.raises(UnreadableImageError, match=r"3 images: /d/1: torn, /d/2: torn, /d/3: torn; .*--skip-bad$"):
        raise_unreadable(bad[:3], num_images=9)
    with pytest.raises(UnreadableImageError, match=r"/d/3: torn and 2 more; .*data show .* lists them all"):
        raise_unreadable(bad, num_images=9)
    with pytest.raises(UnreadableImageError, match=r"none of the 5 images can be read: torn; the first is /d/1$"):
        raise_unreadable(bad, num_images=5)
    gone = [BadImage(f"/d/{n}", "no such file or directory") for n in (1, 2)]
    with pytest.raises(UnreadableImageError, match=r"the first is /d/1\. Paths in a table are relative to the folder"):
        raise_unreadable(gone, num_images=2)


@pytest.mark.parametrize(
    ("labels", "entries", "said"),
    [
        ((), [], "no image to use in D"),
        (("a",), [entry("1", "")], "only one class, 'a'"),
        (("a", "b"), [entry("1", "")], "class 'b' in D has no image;"),
        (("a", "b", "c"), [entry("1", "")], "classes 'b', 'c' in D have no image; add images, or remove the classes"),
        (
            ("a", "b", "c"),
            [entry("1", "train"), entry("2", "train", 1), entry("3", "train", 2), entry("4", "test")],
            "classes 'b', 'c' in D have no image in test",
        ),
        (
            ("a", "b"),
            [entry("1", "train"), entry("2", "train", 1), entry("3", "test")],
            "'b' in D has no image in test",
        ),
        (("Ants", "ants"), [entry("1", "train"), entry("2", "test", 1)], "Did you mean 'Ants'"),
    ],
)
def test_classes_without_images_are_refused(labels: tuple[str, ...], entries: list[ImageRecord], said: str) -> None:
    with pytest.raises(DataError) as caught:
        check_classes(Manifest("d", labels, tuple(entries)), "D")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_name_that_is_no_unicode_is_reported_in_words_that_can_be_printed(
    make_folder: Callable[..., Path],
) -> None:
    folder = make_folder({"apple": 1})
    odd = os.fsencode(folder) + b"/apple/\xff.jpg"
    try:
        os.rename(os.fsencode(folder) + b"/apple/000.jpg", odd)
    except OSError:
        pytest.skip("this file system has Unicode names only")
    (bad,) = unreadable_headers(FILES, records(Path(os.fsdecode(odd))), threads=1)
    assert "rename it" in bad.reason
    bad.path.encode()
