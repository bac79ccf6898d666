import io
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from headstart import decoding
from headstart.data.sources import FILES, read_picture
from headstart.decoding import decode
from headstart.errors import UnreadableImageError
from headstart.types import Decoding, InputSpec

SPEC = InputSpec(size=(24, 32), resize=40)
GREY = np.arange(256, dtype=np.uint8).reshape(16, 16)


def saved(picture: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def pixels(source: bytes | Image.Image) -> np.ndarray:
    picture = decode(source)
    assert picture.mode == "RGB"
    return np.asarray(picture)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "GIF", "WEBP", "JPEG2000", "TGA"])
def test_reads_the_formats_whatever_the_name_says(picture: Image.Image, tmp_path: Path, kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    path = tmp_path / "wrong name.jpg"
    path.write_bytes(saved(picture, kind, **options))
    found = read_picture(FILES, str(path))
    assert np.array_equal(np.asarray(found), pixels(path.read_bytes()))
    difference = np.abs(np.asarray(found).astype(int) - np.asarray(picture).astype(int))
    assert difference.max() <= (40 if kind == "GIF" else 0)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_exif_turns_upright_once(picture: Image.Image, orientation: int, kind: str) -> None:
    undo = {6: 8, 8: 6}.get(orientation, orientation)
    method = decoding._UPRIGHT.get(undo)
    turned = picture.transpose(method) if method is not None else picture
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}}.get(kind, {})
    upright = decode(saved(turned, kind, exif=exif.tobytes(), **options))
    assert np.abs(np.asarray(upright).astype(int) - np.asarray(picture).astype(int)).max() <= 12
    assert np.array_equal(pixels(upright), np.asarray(upright))
    opened = Image.open(io.BytesIO(saved(turned, kind, exif=exif.tobytes(), **options)))
    assert np.array_equal(pixels(opened), np.asarray(upright))


@pytest.mark.parametrize("junk", [0, 9, 255])
def test_junk_orientation_is_ignored(picture: Image.Image, junk: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = junk
    assert np.array_equal(pixels(saved(picture, "PNG", exif=exif.tobytes())), np.asarray(picture))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("exif", [b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b""])
def test_broken_exif_is_ignored(picture: Image.Image, exif: bytes) -> None:
    assert pixels(saved(picture, "JPEG", exif=exif)).shape == (45, 60, 3)


def test_orientation_that_is_no_number_is_ignored(picture: Image.Image) -> None:
    entry = struct.pack("<HHHI4sI", 1, 0x0112, 2, 4, b"top\0", 0)  # one entry: orientation, as text
    exif = b"Exif\0\0II*\0\x08\0\0\0" + entry
    assert np.array_equal(pixels(saved(picture, "PNG", exif=exif)), np.asarray(picture))


def test_grey_modes_keep_their_brightness() -> None:
    expected = np.repeat(GREY[..., None], 3, axis=2)
    wide = GREY.astype(np.uint16) * 257
    assert np.array_equal(pixels(Image.fromarray(GREY)), expected)
    assert np.array_equal(pixels(saved(Image.fromarray(wide), "PNG")), expected)
    assert np.array_equal(pixels(saved(Image.fromarray(wide), "TIFF")), expected)
    assert np.array_equal(pixels(Image.fromarray(wide.astype(np.int32))), expected)
    assert np.array_equal(pixels(Image.fromarray(wide.astype(">u2"))), expected)
    assert np.array_equal(pixels(saved(Image.fromarray(GREY.astype(np.float32) / 255), "TIFF")), expected)
    assert np.array_equal(pixels(Image.fromarray(GREY.astype(np.float32))), expected)


def test_values_outside_every_range_are_scaled_and_not_clipped() -> None:
    for values in (GREY.astype(np.float32) * 1000 - 5000, GREY.astype(np.int32) * 100_000):
        assert np.array_equal(pixels(Image.fromarray(values))[..., 0], GREY)
    odd = np.array([[np.nan, 0.0], [0.5, 1.0]], dtype=np.float32)
    assert pixels(Image.fromarray(odd))[..., 0].tolist() == [[0, 0], [128, 255]]
    assert not pixels(Image.fromarray(np.full((3, 3), -7, dtype=np.int32))).any()


def test_one_bit_and_cmyk() -> None:
    bits = Image.fromarray(GREY > 100)
    assert set(np.unique(pixels(saved(bits, "PNG")))) == {0, 255}
    cmyk = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    red = pixels(saved(cmyk, "JPEG"))[4, 4].astype(int)
    assert red[0] > 200
    assert red[1:].max() < 60


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "La", "RGBa"])
def test_transparency_becomes_white(mode: str) -> None:
    rgba = Image.new("RGBA", (4, 2), (10, 10, 10, 255))
    rgba.paste((10, 10, 10, 0), (0, 0, 2, 2))
    source = rgba.convert("LA").convert(mode) if mode in ("LA", "La") else rgba.convert(mode)
    result = pixels(source)
    assert (result[:, :2] == 255).all()
    assert (result[:, 2:] == 10).all()


def test_transparent_palette_and_colour_key_become_white() -> None:
    indexed = Image.new("P", (4, 2), 1)
    indexed.putpalette([200, 0, 0, 0, 0, 200])
    indexed.paste(0, (0, 0, 2, 2))
    opaque = pixels(saved(indexed, "PNG"))
    assert opaque[0, 0].tolist() == [200, 0, 0]
    for transparency in (0, b"\0\xff"):
        result = pixels(saved(indexed, "PNG", transparency=transparency))
        assert result[0, 0].tolist() == [255, 255, 255]
        assert result[0, 3].tolist() == [0, 0, 200]
    key = pixels(saved(Image.new("RGB", (2, 2), (1, 2, 3)), "PNG", transparency=(1, 2, 3)))
    assert (key == 255).all()


def test_of_an_animation_the_first_frame_is_taken() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    for kind in ("GIF", "PNG", "WEBP"):
        options = {"lossless": True} if kind == "WEBP" else {}
        data = saved(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        assert pixels(data)[0, 0].tolist() == [255, 0, 0]


LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "no such file"),
        (b"", "the file is empty; copy or download it again"),
        (b"hello", "not an image in a format that Pillow reads"),
        (LFS_POINTER, "a pointer to it of Git LFS; fetch it with: git lfs pull"),
        (b"\n<!DOCTYPE html><html>", "a web page, not an image"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied", "a web page, not an image"),
        (b"<?xml version='1.0'?>\n<svg>", "an SVG drawing"),
        (b"\0\0\0\x18ftypheic", "a HEIC photograph, .* pip install 'headstart\\[heic\\]', or convert it to JPEG"),
        (b"\0\0\0\x18ftypisom", "a video"),
        (b"\xff\x0a\x12", "a JPEG XL image"),
        (b"\x89PNG\r\n\x1a\nand no more", "its header is damaged"),
        (b"%PDF-1.7", "a PDF document"),
        (b"%!PS-Adobe-3.0 EPSF-3.0", "a PostScript drawing"),
        (bytes(128) + b"DICM", "a DICOM file"),
        (b"PK\x03\x04", "an archive"),
    ],
)
def test_what_is_no_image_is_named_with_what_to_do(tmp_path: Path, content: bytes | None, reason: str) -> None:
    path = tmp_path / "näme with space.jpg"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UnreadableImageError, match=reason) as caught:
        read_picture(FILES, str(path))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_heic_is_read_where_the_package_for_it_is_installed(
    picture: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = ModuleType("pillow_heif")
    registered: dict[str, object] = {}

    def register_heif_opener() -> None:
        Image.init()
        png, _ = Image.OPEN["PNG"]

        def opened(stream: io.BytesIO, name: str) -> Image.Image:
            stream.seek(12)
            return png(io.BytesIO(stream.read()), name)

        registered["HEIF"] = opened
        monkeypatch.setitem(Image.OPEN, "HEIF", (opened, lambda start: start[4:8] == b"ftyp"))

    package.register_heif_opener = register_heif_opener  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pillow_heif", package)
    assert np.array_equal(pixels(b"\0\0\0\x18ftypheic" + saved(picture, "PNG")), np.asarray(picture))
    assert registered


def test_too_large_a_picture_is_refused_with_what_to_do(picture: Image.Image, monkeypatch: pytest.MonkeyPatch) -> None:
    data = saved(picture.resize((2000, 1500)), "PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000_000)
    with pytest.raises(UnreadableImageError) as caught:
        decode(data)
    assert "it has 3,000,000 pixels, and Pillow opens at most 2,000,000; make it smaller" in str(caught.value)
    assert "attack" not in str(caught.value)


@pytest.mark.parametrize("options", [(), ("-W", "error")], ids=["usual", "warnings are errors"])
def test_a_large_picture_is_read_without_a_warning_unless_the_user_wants_it(options: tuple[str, ...]) -> None:
    code = """
import io
from PIL import Image
from headstart.decoding import decode
stream = io.BytesIO()
Image.new("L", (1500, 1000)).save(stream, "PNG")
Image.MAX_IMAGE_PIXELS = 1_000_000
print(decode(stream.getvalue()).size)
"""
    done = subprocess.run([sys.executable, *options, "-c", code], capture_output=True, text=True, check=False)
    if options:
        assert "it has 1,500,000 pixels, and Pillow opens at most 1,000,000" in done.stderr
    else:
        assert (done.stdout, done.stderr) == ("(1500, 1000)\n", "")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"])
def test_a_truncated_image_is_unreadable(picture: Image.Image, kind: str) -> None:
    data = saved(picture, kind)
    with pytest.raises(UnreadableImageError):
        decode(data[: len(data) * 2 // 3])


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("is_quick", [False, True])
@pytest.mark.parametrize(("smallest", "shorter"), [(None, 450), (451, 450), (450, 450), (200, 225), (80, 113), (1, 57)])
def test_a_picture_may_be_reduced_when_it_is_decoded(
    picture: Image.Image, smallest: int | None, shorter: int, is_quick: bool, orientation: int
) -> None:
    large, exif = picture.resize((600, 450)), Image.Exif()
    exif[0x0112] = orientation
    upright = large if orientation == 1 else large.transpose(Image.Transpose.ROTATE_270)
    for kind, options in (("JPEG", {"quality": 95}), ("PNG", {})):
        data = saved(large, kind, exif=exif.tobytes(), **options)
        found = decode(data, Decoding(smallest), is_quick=is_quick)
        assert min(found.size) == shorter
        assert (found.width > found.height) == (orientation == 1)
        expected = upright.resize(found.size, Image.Resampling.BOX)
        assert np.abs(np.asarray(found).astype(int) - np.asarray(expected).astype(int)).mean() < 2


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_a_reduced_picture_is_the_same_from_a_file_and_decoded_already(picture: Image.Image, kind: str) -> None:
    spec = replace(SPEC, decoder="pillow-scaled")
    data = saved(picture.resize((600, 450)), kind)
    expected = decode(data, spec.decoding)
    assert max(expected.size) == 75
    whole = Image.open(io.BytesIO(data))
    for given in (whole, Image.fromarray(np.asarray(whole))):
        assert np.array_equal(np.asarray(decode(given, spec.decoding)), np.asarray(expected))
