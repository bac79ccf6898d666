"""Grey pictures of more than 8 bits: which of their values are black and which are white.

Files keep 10 or 12 bits of an X-ray or a microscope in numbers of 16, so the type says little about the range. One
range holds for a whole data set, and goes with the model: pictures that are scaled each by its own cannot be compared.
"""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
from PIL import Image

from headstart.types import GreyRange

_PHOTOMETRIC_TAG = 262  # of a TIFF; 0: its lowest value is white
# What pictures hold by their type, where no data set has said more: 16 bits; floats from 0 to 1, or as bytes.
USUAL_RANGES: tuple[GreyRange, ...] = ((0.0, 1.0), (0.0, 255.0), (0.0, 65535.0))
_OF_INTEGERS = USUAL_RANGES[2:]
_OF_FLOATS = USUAL_RANGES[:2]


def is_wide(image: Image.Image) -> bool:
    """Tell whether a picture, as it was opened, is grey with more than 8 bits."""
    return image.mode.startswith("I;16") or image.mode in ("I", "F")


def is_negative(image: Image.Image) -> bool:
    """Tell whether the lowest value of such a picture is white; Pillow turns only those of 8 bits."""
    tags = getattr(image, "tag_v2", None)
    return is_wide(image) and tags is not None and tags.get(_PHOTOMETRIC_TAG) == 0


def extent(image: Image.Image) -> GreyRange:
    """Return the lowest and the highest value of such a picture."""
    values = _values(image)
    return float(values.min()), float(values.max())


def common_range(extents: Iterable[GreyRange]) -> GreyRange | None:
    """Return the range for a data set from the lowest and highest values of its pictures; None where there are none.

    Values that are not negative start at 0 and end where their number of bits ends, so that the range says what the
    camera could, and not which picture happened to be the brightest.
    """
    lows: list[float] = []
    highs: list[float] = []
    for low, high in extents:
        lows.append(low)
        highs.append(high)
    if not lows:
        return None

    low = min(lows)
    high = max(highs)
    if low < 0:
        return low, high
    if high <= 1:
        return 0.0, 1.0
    num_bits = max(8, int(np.ceil(high)).bit_length())
    return 0.0, float(2**num_bits - 1)


def to_rgb(image: Image.Image, grey_range: GreyRange | None, *, negative: bool) -> Image.Image:
    """Scale such a picture to RGB.

    Args:
        image: Grey with more than 8 bits.
        grey_range: What becomes black and what white, from `common_range`; values beyond are cut off. None: what the
            type of the picture holds or, where its values lie outside, the range of its own.
        negative: Whether its low values are white.
    """
    values = _values(image)
    low, high = grey_range or _usual_range(values, image.mode)
    scaled = np.zeros_like(values)
    if high > low:
        scaled = (values.clip(low, high) - low) * (255 / (high - low))
    if negative:
        scaled = 255 - scaled
    return Image.fromarray(np.rint(scaled).astype(np.uint8)).convert("RGB")


def _usual_range(values: npt.NDArray[np.float64], mode: str) -> GreyRange:
    low, high = float(values.min()), float(values.max())
    for usual in _OF_FLOATS if mode == "F" else _OF_INTEGERS:
        if low >= usual[0] and high <= usual[1]:
            return usual
    return low, high


def _values(image: Image.Image) -> npt.NDArray[np.float64]:
    values = np.asarray(image).astype(np.float64)
    if image.mode == "F":
        values = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
    return values
