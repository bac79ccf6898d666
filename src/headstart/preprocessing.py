"""From a picture's bytes to a network's input: decoding, resize, crop, views and normalisation, as `InputSpec` says.

Everything that prepares pictures takes it from here. Importing this module loads no torch.
"""

import io
import math
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageEnhance, ImageOps, UnidentifiedImageError

from headstart import file_kinds
from headstart.errors import UnreadableImageError
from headstart.types import InputSpec

if TYPE_CHECKING:
    from torch import Tensor

Pixels = npt.NDArray[np.uint8]
Augment = Literal["none", "flip", "crop", "strong"]

# Bitmaps only: EPS would start Ghostscript, and formats that nobody photographs in are only a risk.
# fmt: off
_FORMATS = (
    "JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "AVIF", "HEIF", "JXL", "PPM", "TGA", "ICO", "PCX",
    "JPEG2000",
)
# fmt: on
_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
_LONGEST_RATIO = 16  # a strip's ends never reach the central crop, but would cost gigabytes to resize
_CROP_AREA = (0.08, 1.0)
_CROP_RATIO = (3 / 4, 4 / 3)

# Junk metadata and large pictures are no news to anybody, and would be printed into the progress bar. Appended, so that
# what the user has set comes first; not within a block, which threads that decode would take from one another.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.TiffImagePlugin", append=True)
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning, append=True)


def decode(
    picture: bytes | BinaryIO | Image.Image, *, smallest: int | None = None, is_quick: bool = False
) -> Image.Image:
    """Return a picture as RGB, upright.

    EXIF orientation is applied, junk values are ignored. Grey, 1-bit, palette and CMYK are converted; what is
    transparent becomes white; 16-bit and float grey are scaled, not clipped; of an animation the first frame is taken.
    What the bytes hold decides the format, not a name.

    Args:
        picture: The bytes of a file, a stream of them, or a picture (never changed; returned as it is if already RGB).
        smallest: Reduce the picture to 1/2, 1/4 or 1/8 of its size, as long as both sides stay this long (pixels);
            None: keep its full size. From `InputSpec.smallest_side`.
        is_quick: Let the decoder of JPEGs reduce them. That is faster, but gives pixels that are slightly different
            from those of the same picture in another format, or decoded already.

    Raises:
        UnreadableImageError: With the reason.
    """
    with reading("the picture given"):
        return read_rgb(picture, smallest, is_quick=is_quick)


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Say of whatever is raised in the block that the picture called `name` cannot be read, and why.

    Raises:
        UnreadableImageError: The block raised something.
    """
    try:
        yield
    except Exception as error:  # decoders raise all kinds
        raise UnreadableImageError(f"cannot read image {name}: {why_unreadable(error)}") from error


def read_rgb(
    picture: bytes | BinaryIO | Image.Image, smallest: int | None = None, *, is_quick: bool = False
) -> Image.Image:
    """Return a picture as RGB, upright, as `decode` does, and let Pillow's own exceptions through.

    Raises:
        Exception: Of any type: decoders raise them all.
    """
    if isinstance(picture, Image.Image):
        return _reduced(_to_rgb(_upright(picture)), smallest)
    with open_image(picture) as image:
        full_size = image.size
        if smallest is not None and is_quick:
            image.draft(None, (smallest, smallest))
        is_reduced = image.size != full_size
        rgb = _to_rgb(_upright(image))
        return rgb if is_reduced else _reduced(rgb, smallest)


def open_image(picture: bytes | BinaryIO) -> Image.Image:
    """Read a picture's header; the pixels are read when they are needed.

    Raises:
        Exception: Of any type: decoders raise them all.
    """
    stream = io.BytesIO(picture) if isinstance(picture, bytes) else picture
    if not stream.seekable():  # a pipe
        stream = io.BytesIO(stream.read())
    try:
        return _opened(stream)
    except UnidentifiedImageError:
        stream.seek(0)
        start = stream.read(file_kinds.NUM_BYTES)
    if file_kinds.IS_HEIC.match(start) and _learn_heic():
        stream.seek(0)
        return _opened(stream)
    raise UnidentifiedImageError(file_kinds.why_no_image(start))


def _opened(stream: BinaryIO) -> Image.Image:
    Image.init()
    formats = [name for name in _FORMATS if name in Image.OPEN]
    return Image.open(stream, formats=formats)


def _learn_heic() -> bool:
    """Let Pillow read HEIC, where the package for it is installed; tell whether it is."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True


def why_unreadable(error: Exception) -> str:
    """Return one line that says why a picture could not be read, and what to do where that is known."""
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return _too_large(str(error))
    if isinstance(error, UnidentifiedImageError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return " ".join(str(error).split()) or type(error).__name__


def _too_large(message: str) -> str:
    """Say what Pillow's message of a picture that is too large says, with what to do."""
    sizes = re.findall(r"[0-9]+", message)
    reason = "it is larger than Pillow opens"
    if len(sizes) == 2:
        reason = f"it has {int(sizes[0]):,} pixels, and Pillow opens at most {int(sizes[1]):,}"
    return (
        f"{reason}; make it smaller or cut it up first, or, in Python and for files that you trust, raise "
        "PIL.Image.MAX_IMAGE_PIXELS"
    )


def eval_view(image: Image.Image, spec: InputSpec) -> Pixels:
    """Resize and cut the centre, as torchvision's Resize and CenterCrop do on Pillow images.

    The rows are filtered first, then the columns, whatever Pillow's version; from 13 on Pillow itself takes the columns
    first where the height shrinks by more, so that the last bits of some tall pictures differ from torchvision's.

    Args:
        image: RGB picture, from `decode`.
        spec: Its `resize`, `size` and `interpolation` are used.

    Returns:
        Array (H, W, 3), H and W from `spec.size`. A resize smaller than the crop is raised to it: nothing is padded.
    """
    image = _without_far_ends(image)
    crop_height, crop_width = spec.size
    height, width = _resized_size(image, spec)
    left, top = round((width - crop_width) / 2), round((height - crop_height) / 2)
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
        spec: Its `mean` and `std` are used.

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


def _upright(image: Image.Image) -> Image.Image:
    image.load()  # first: Pillow's TIFF reader turns the picture while loading and then forgets the tag
    if not image.width or not image.height:
        raise ValueError("it has no pixels")
    try:
        method = _UPRIGHT.get(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # EXIF is written by everyone; what is no EXIF, or no number, turns nothing
        return image
    if method is None:
        return image
    transparency = image.info.get("transparency")
    turned = image.transpose(method)
    turned.info = {} if transparency is None else {"transparency": transparency}  # or it would be turned again
    return turned


def _reduced(image: Image.Image, smallest: int | None) -> Image.Image:
    """Average blocks of 2, 4 or 8 pixels a side, by the factor that a JPEG's decoder would take."""
    if smallest is None:
        return image
    most = min(image.width // smallest, image.height // smallest)
    for factor in (8, 4, 2):
        if factor <= most:
            return image.reduce(factor)
    return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        return _from_grey(np.asarray(image).astype(np.float64) / 257)
    if image.mode in ("I", "F"):
        return _from_grey(_scaled(np.asarray(image).astype(np.float64), image.mode))
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        if image.mode == "La":
            image = image.convert("LA")
        rgba = image.convert("RGBA")
        white = Image.new("RGB", image.size, "white")
        white.paste(rgba, mask=rgba.getchannel("A"))
        return white
    return image if image.mode == "RGB" else image.convert("RGB")


def _scaled(values: npt.NDArray[np.float64], mode: str) -> npt.NDArray[np.float64]:
    """Bring values to 0..255: by the range that the mode implies where they fit it, else by their own."""
    values = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
    low, high = values.min(), values.max()
    usual_tops = (1.0, 255.0) if mode == "F" else (65535.0,)
    for top in usual_tops:
        if low >= 0 and high <= top:
            return values * (255 / top)
    if low == high:
        return np.zeros_like(values)
    stretched: npt.NDArray[np.float64] = (values - low) * (255 / (high - low))
    return stretched


def _from_grey(values: npt.NDArray[np.float64]) -> Image.Image:
    return Image.fromarray(np.rint(values).astype(np.uint8)).convert("RGB")


def _without_far_ends(image: Image.Image) -> Image.Image:
    width, height = image.size
    kept_width, kept_height = min(width, _LONGEST_RATIO * height), min(height, _LONGEST_RATIO * width)
    if (kept_width, kept_height) == image.size:
        return image
    left, top = (width - kept_width) // 2, (height - kept_height) // 2
    return image.crop((left, top, left + kept_width, top + kept_height))


def _resized_size(image: Image.Image, spec: InputSpec) -> tuple[int, int]:
    """Return (height, width), the shorter side as asked for and the longer one cut to whole pixels."""
    width, height = image.size
    crop_height, crop_width = spec.size
    if isinstance(spec.resize, tuple):
        return max(spec.resize[0], crop_height), max(spec.resize[1], crop_width)
    side = spec.resize
    if height <= width:
        scaled = (side, int(side * width / height))
    else:
        scaled = (int(side * height / width), side)
    return max(scaled[0], crop_height), max(scaled[1], crop_width)


def _flipped(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    return mirrored(pixels) if rng.random() < 0.5 else pixels


def _random_box(image: Image.Image, rng: np.random.Generator) -> tuple[int, int, int, int]:
    width, height = image.size
    for _ in range(10):
        area = width * height * rng.uniform(*_CROP_AREA)
        ratio = math.exp(rng.uniform(math.log(_CROP_RATIO[0]), math.log(_CROP_RATIO[1])))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
            return left, top, left + w, top + h
    # Too long a picture for any of these ratios: the largest central box of the nearest ratio.
    ratio = min(max(width / height, _CROP_RATIO[0]), _CROP_RATIO[1])
    w, h = max(1, min(width, round(height * ratio))), max(1, min(height, round(width / ratio)))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def _affine(a: float, b: float, c: float, d: float, e: float, f: float) -> Callable[[Image.Image], Image.Image]:
    return lambda image: image.transform(image.size, Image.Transform.AFFINE, (a, b, c, d, e, f))


# Name -> (picture, signed strength in -1..1) -> picture. The unsigned operations use the strength's size.
_OPERATIONS: dict[str, Callable[[Image.Image, float], Image.Image]] = {
    "identity": lambda image, _: image,
    "shear_x": lambda image, m: _affine(1, 0.99 * m, 0, 0, 1, 0)(image),
    "shear_y": lambda image, m: _affine(1, 0, 0, 0.99 * m, 1, 0)(image),
    "translate_x": lambda image, m: _affine(1, 0, 32 * m, 0, 1, 0)(image),
    "translate_y": lambda image, m: _affine(1, 0, 0, 0, 1, 32 * m)(image),
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
    operation = _OPERATIONS[_OPERATION_NAMES[rng.integers(len(_OPERATION_NAMES))]]
    strength = rng.integers(31) / 30
    if rng.random() >= 0.5:
        strength = -strength
    return np.array(operation(Image.fromarray(pixels), float(strength)))
