"""Grey pictures of more than 8 bits have one scale for a data set, which goes with the model."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from headstart import experiment, load
from headstart.config import make_config
from headstart.data.dataset import load_dataset
from headstart.decoding import decode
from headstart.grey import common_range
from headstart.preprocessing import eval_view
from headstart.types import Decoding, GreyRange
from tests.helpers.displays import Remembering

RAMP = np.arange(256).reshape(16, 16)


def grey_levels(picture: Image.Image | bytes, grey_range: GreyRange | None = None) -> np.ndarray:
    found = np.asarray(decode(picture, Decoding(grey_range=grey_range)))
    assert (found == found[..., :1]).all()
    return found[..., 0]


def tiff(values: np.ndarray, photometric: int) -> bytes:
    tags = ImageFileDirectory_v2()
    tags[262] = photometric
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "TIFF", tiffinfo=tags)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("extents", "expected"),
    [
        ([], None),
        ([(0, 60000), (5, 100)], (0, 65535)),
        ([(0, 3000), (5, 4095)], (0, 4095)),
        ([(0, 1000)], (0, 1023)),
        ([(0, 4096)], (0, 8191)),
        ([(3, 200)], (0, 255)),
        ([(0.1, 0.8)], (0, 1)),
        ([(0.1, 254.5)], (0, 255)),
        ([(0.0, 4094.6)], (0, 4095)),
        ([(0, 100_000)], (0, 131_071)),
        ([(-1024, 1500), (0, 3071)], (-1024, 3071)),
    ],
)
def test_the_range_of_a_data_set_is_that_of_its_bits(extents: list[GreyRange], expected: GreyRange | None) -> None:
    assert common_range(extents) == expected


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_values_are_scaled_by_the_range_and_cut_off_beyond(dtype: Any) -> None:
    twelve_bits = (RAMP * (4095 / 255)).astype(dtype)
    assert np.abs(grey_levels(Image.fromarray(twelve_bits), (0, 4095)).astype(int) - RAMP).max() <= 1
    half = grey_levels(Image.fromarray(twelve_bits), (0, 2047.5))
    assert (half[RAMP > 128] == 255).all()
    assert np.abs(half[RAMP < 127].astype(int) - 2 * RAMP[RAMP < 127]).max() <= 1


@pytest.mark.parametrize("grey_range", [None, (0, 4095)])
def test_a_tiff_whose_lowest_value_is_white_is_no_negative(grey_range: GreyRange | None) -> None:
    top = 65535 if grey_range is None else 4095
    values = np.rint(RAMP * (top / 255)).astype(np.uint16)
    expected = grey_levels(tiff(values, photometric=1), grey_range)
    assert np.abs(expected.astype(int) - RAMP).max() <= 1
    white_is_zero = tiff((top - values).astype(np.uint16), photometric=0)
    assert np.array_equal(grey_levels(white_is_zero, grey_range), expected)
    assert np.array_equal(grey_levels(Image.open(io.BytesIO(white_is_zero)), grey_range), expected)


def write_xrays(folder: Path, top: int, dtype: Any = np.uint16) -> Path:
    """Discs and squares on noise, of which no picture but the first reaches the top of the range."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:48, :48]
    for number in range(24):
        for name in ("disc", "square"):
            values = rng.normal(0.2, 0.03, (48, 48))
            inside = (
                np.hypot(rows - 24, columns - 24) < 12 if name == "disc" else abs(rows - 24) + abs(columns - 24) < 9
            )
            values[inside] = rng.uniform(0.4, 0.7)
            if number == 0:
                values[0, 0] = 1
            place = folder / ("train" if number < 16 else "test") / name
            place.mkdir(parents=True, exist_ok=True)
            suffix = "tif" if dtype == np.float32 else "png"
            Image.fromarray((values.clip(0, 1) * top).astype(dtype)).save(place / f"{number}.{suffix}")
    return folder


def test_copies_are_found_by_their_values(tmp_path: Path) -> None:
    data = write_xrays(tmp_path, 4095)
    first = Image.open(data / "train" / "disc" / "1.png")
    first.save(data / "train" / "disc" / "copy.tif")
    Image.fromarray((np.asarray(first) * 2).astype(np.uint16)).save(data / "train" / "disc" / "brighter.png")
    _, report = load_dataset(data)
    assert [sorted(Path(key).name for key in group) for group in report.duplicates] == [["1.png", "copy.tif"]]


@pytest.mark.parametrize(("top", "dtype"), [(1023, np.uint16), (4095, np.uint16), (4095, np.float32)])
def test_a_model_keeps_the_scale_of_its_data_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, top: int, dtype: Any
) -> None:
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))
    data = write_xrays(tmp_path / "data", top, dtype)
    settings = {"backbone": "simple-cnn", "strategy": "scratch", "image_size": 32, "epochs": 1, "data": str(data)}
    display = Remembering()
    run = experiment.train(make_config({**settings, "out": str(tmp_path / "run")}), display=display)
    assert run.resolved().grey_range == (0, top)
    (note,) = [line for line in display.said if "more than 8 bits" in line]
    assert note.startswith("note: 32 grey training images with more than 8 bits hold values from ")
    assert note.endswith(f" to {top:,}: 0 becomes black and {top:,} white")
    classifier = load(run.path)
    assert classifier.spec.grey_range == (0, top)
    assert json.loads((run.model_folder / "preprocessor_config.json").read_text())["input_spec"]["grey_range"] == [
        0,
        top,
    ]

    dark = next((data / "test" / "disc").iterdir())
    view = eval_view(decode(Image.open(dark), classifier.spec.decoding), classifier.spec)
    assert 0.15 < view.mean() / 255 < 0.6  # the picture itself never reaches the top
    by_path = classifier.predict_proba(dark)
    for given in (Image.open(dark), np.asarray(decode(Image.open(dark), classifier.spec.decoding))):
        np.testing.assert_array_equal(classifier.predict_proba(given), by_path)
    again = experiment.train(
        make_config({**settings, "out": str(tmp_path / "again"), "repeat": str(run.path)}), display=Remembering()
    )
    assert again.resolved().grey_range == (0, top)
