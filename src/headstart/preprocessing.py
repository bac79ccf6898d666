"""From a decoded picture to a network's input: resize, crop, views and normalisation, as `InputSpec` says.

Everything that prepares pictures takes it from here. Importing this module loads no torch.
"""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageEnhance, ImageOps

from headstart.types import InputSpec

if TYPE_CHECKING:
    from torch import Tensor

Pixels = npt.NDArray[np.uint8]
Augment = Literal["none", "flip", "crop", "strong"]

_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
_LONGEST_RATIO = 16  # a strip's ends never reach the central crop, but would cost gigabytes to resize
_CROP_AREA = (0.08, 1.0)
_CROP_RATIO = (3 / 4, 4 / 3)


def eval_view(image: Image.Image, spec: InputSpec) -> Pixels:
    """Resize and cut the centre, as torchvision's Resize and CenterCrop do on Pillow images.

    The rows are filtered first, then the columns, whatever Pillow's version; from 13 on Pillow itself takes the columns
    first where the height shrinks by more, so that the last bits of some tall pictures differ from torchvision's.

    Args:
        image: RGB picture, from `decode`.
        spec: Size, resize and interpolation of the view.

    Returns:
        Array (H, W, 3), H and W from `spec.size`. A resize smaller than the crop is raised to it: nothing is padded.
    """
    image = _without_far_ends(image)
    crop_height, crop_width = spec.size
    height, width = _resized_size(image, spec)
    left = round((width - crop_width) / 2)
    top = round((height - crop_height) / 2)
    # What is cut off between the two changes no pixel of the rest and need not be filtered: a quarter less time.
    if width != image.width:
        image = image.resize((width, image.height), _FILTERS[spec.interpolation])
    image = image.crop((left, 0, left + crop_width, image.height))
    if height != image.height:
        image = image.resize((crop_width, height), _FILTERS[spec.interpolation])
    return np.array(image.crop((0, top, crop_width, top + crop_height)))


def train_view(image: Image.Image, spec: InputSpec, augment: Augment, rng: np.random.Generator) -> Pixels:
    """Make one augmented view.

    Args:
        image: RGB picture, from `decode`.
        spec: Size and interpolation of the view.
        augment: `none`: the evaluation view; `flip`: that, mirrored every other time; `crop`: a random resized crop
            (Szegedy et al. 2015: area 0.08 to 1, ratio 3/4 to 4/3), mirrored every other time; `strong`: that, and one
            operation of TrivialAugment (Mueller and Hutter 2021, arXiv:2103.10158, wide space).
        rng: The only source of randomness.

    Returns:
        Array (H, W, 3), H and W from `spec.size`.
    """
    if augment == "none":
        return eval_view(image, spec)
    if augment == "flip":
        return _flipped(eval_view(image, spec), rng)
    height, width = spec.size
    crop = image.resize((width, height), _FILTERS[spec.interpolation], box=_random_box(image, rng))
    if augment == "crop":
        return _flipped(np.array(crop), rng)
    return _trivial_augment(_flipped(np.array(crop), rng), rng)


def mirrored(pixels: Pixels) -> Pixels:
    """Return a view (H, W, 3) with left and right exchanged."""
    return np.ascontiguousarray(pixels[:, ::-1])


def normalize(pixels: "Tensor", spec: InputSpec) -> "Tensor":
    """Turn views into a network's input: divide by 255, subtract the mean, divide by the standard deviation.

    Args:
        pixels: `uint8` (N, 3, H, W), never changed.
        spec: Mean and standard deviation per channel.

    Returns:
        `float32` (N, 3, H, W), on the same device and in the same memory format.
    """
    images = pixels.float()
    mean = images.new_tensor(spec.mean).view(1, 3, 1, 1)
    std = images.new_tensor(spec.std).view(1, 3, 1, 1)
    return images.div_(255.0).sub_(mean).div_(std)


def byte_statistics(spec: InputSpec) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation per channel on the scale 0..255, for engines that normalise bytes."""
    mean = [255 * value for value in spec.mean]
    std = [255 * value for value in spec.std]
    return mean, std


def _without_far_ends(image: Image.Image) -> Image.Image:
    """Cut a strip to the middle part that can reach the central crop."""
    width, height = image.size
    kept_width = min(width, _LONGEST_RATIO * height)
    kept_height = min(height, _LONGEST_RATIO * width)
    if (kept_width, kept_height) == image.size:
        return image
    left = (width - kept_width) // 2
    top = (height - kept_height) // 2
    return image.crop((left, top, left + kept_width, top + kept_height))


def _resized_size(image: Image.Image, spec: InputSpec) -> tuple[int, int]:
    """Return (height, width), the shorter side as asked for and the longer one cut to whole pixels."""
    width, height = image.size
    if isinstance(spec.resize, tuple):
        new_height, new_width = spec.resize
    elif height <= width:
        new_height = spec.resize
        new_width = int(spec.resize * width / height)
    else:
        new_height = int(spec.resize * height / width)
        new_width = spec.resize
    crop_height, crop_width = spec.size
    return max(new_height, crop_height), max(new_width, crop_width)


def _flipped(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """Mirror a view every other time."""
    if rng.random() < 0.5:
        return mirrored(pixels)
    return pixels


def _random_box(image: Image.Image, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Draw the part of a picture that a random resized crop shows: left, top, right, bottom."""
    width, height = image.size
    for _ in range(10):
        area = width * height * rng.uniform(*_CROP_AREA)
        ratio = math.exp(rng.uniform(math.log(_CROP_RATIO[0]), math.log(_CROP_RATIO[1])))
        w = round(math.sqrt(area * ratio))
        h = round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left = int(rng.integers(width - w + 1))
            top = int(rng.integers(height - h + 1))
            return left, top, left + w, top + h
    # Too long a picture for any of these ratios: the largest central box of the nearest ratio.
    ratio = min(max(width / height, _CROP_RATIO[0]), _CROP_RATIO[1])
    w = max(1, min(width, round(height * ratio)))
    h = max(1, min(height, round(width / ratio)))
    left = (width - w) // 2
    top = (height - h) // 2
    return left, top, left + w, top + h


def _affine(image: Image.Image, *factors: float) -> Image.Image:
    """Take each pixel (x, y) from (a x + b y + c, d x + e y + f); what lies outside is black."""
    return image.transform(image.size, Image.Transform.AFFINE, factors)


# Name -> (picture, signed strength in -1..1) -> picture. The unsigned operations use the strength's size.
_OPERATIONS: dict[str, Callable[[Image.Image, float], Image.Image]] = {
    "identity": lambda image, _: image,
    "shear_x": lambda image, m: _affine(image, 1, 0.99 * m, 0, 0, 1, 0),
    "shear_y": lambda image, m: _affine(image, 1, 0, 0, 0.99 * m, 1, 0),
    "translate_x": lambda image, m: _affine(image, 1, 0, 32 * m, 0, 1, 0),
    "translate_y": lambda image, m: _affine(image, 1, 0, 0, 0, 1, 32 * m),
    "rotate": lambda image, m: image.rotate(135 * m),
    "brightness": lambda image, m: ImageEnhance.Brightness(image).enhance(1 + 0.99 * m),
    "color": lambda image, m: ImageEnhance.Color(image).enhance(1 + 0.99 * m),
    "contrast": lambda image, m: ImageEnhance.Contrast(image).enhance(1 + 0.99 * m),
    "sharpness": lambda image, m: ImageEnhance.Sharpness(image).enhance(1 + 0.99 * m),
    "posterize": lambda image, m: ImageOps.posterize(image, 8 - round(6 * abs(m))),
    "solarize": lambda image, m: ImageOps.solarize(image, round(255 * (1 - abs(m)))),
    "autocontrast": lambda image, _: ImageOps.autocontrast(image),
    "equalize": lambda image, _: ImageOps.equalize(image),
}
_OPERATION_NAMES = tuple(_OPERATIONS)


def _trivial_augment(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """Apply one operation, drawn uniformly, at one of 31 strengths."""
    name = _OPERATION_NAMES[rng.integers(len(_OPERATION_NAMES))]
    operation = _OPERATIONS[name]
    strength = rng.integers(31) / 30
    if rng.random() >= 0.5:
        strength = -strength
    return np.array(operation(Image.fromarray(pixels), float(strength)))
