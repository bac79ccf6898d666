"""Pictures to compare engines on where there are no real ones, or where the choice may not depend on them."""

import numpy as np
import numpy.typing as npt

from headstart.preprocessing import Pixels
from headstart.types import InputSpec


def made_pictures(spec: InputSpec, count: int) -> Pixels:
    """Make pictures that are always the same, with the brightness at every scale that photographs have.

    Their amplitude falls with the frequency, as 1/f (Field 1987), and each has a contrast and a colour of its own, so
    that exchanged channels, a wrong mean or a shifted pixel changes what a network makes of them.

    Args:
        spec: How images become the network's input; only its `size` is used.
        count: How many.

    Returns:
        `uint8` (count, H, W, 3).
    """
    rng = np.random.default_rng(0)
    pictures = np.empty((count, *spec.size, 3), np.uint8)
    for picture in pictures:
        common = _pink_noise(spec.size, rng)
        brightness = rng.uniform(60, 190, size=3)
        contrast = rng.uniform(30, 70)
        for channel in range(3):
            values = 0.9 * common + 0.4 * _pink_noise(spec.size, rng)
            picture[..., channel] = np.clip(brightness[channel] + contrast * values, 0, 255)
    return pictures


def _pink_noise(size: tuple[int, int], rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Return noise (H, W) whose amplitude falls as 1/f, of mean 0 and standard deviation 1."""
    height, width = size
    rows = np.fft.fftfreq(height)[:, None]
    columns = np.fft.rfftfreq(width)[None, :]
    frequencies = np.hypot(rows, columns)
    frequencies[0, 0] = 1.0  # the mean, which is taken away below
    spectrum = np.fft.rfft2(rng.normal(size=size)) / frequencies
    noise: npt.NDArray[np.float64] = np.fft.irfft2(spectrum, s=size)
    noise -= noise.mean()
    noise /= noise.std()
    return noise
