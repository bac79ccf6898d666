"""From a picture's bytes to RGB pixels, upright, whatever its format. Importing this module loads no torch."""

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from PIL import Image, UnidentifiedImageError

from headstart import file_kinds, grey
from headstart.errors import UnreadableImageError
from headstart.types import PLAIN, Decoding, GreyRange

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

# Junk metadata and large pictures are no news to anybody, and would be printed into the progress bar. Appended, so that
# what the user has set comes first; not within a block, which threads that decode would take from one another.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.TiffImagePlugin", append=True)
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning, append=True)


def decode(picture: bytes | BinaryIO | Image.Image, how: Decoding = PLAIN, *, is_quick: bool = False) -> Image.Image:
    """Return a picture as RGB, upright.

    EXIF orientation is applied, junk values are ignored. Grey, 1-bit, palette and CMYK are converted; what is
    transparent becomes white; grey of more than 8 bits is scaled (see `headstart.grey`); of an animation the first
    frame is taken. What the bytes hold decides the format, not a name.

    Args:
        picture: The bytes of a file, a stream of them, or a picture (never changed; returned as it is if already RGB).
        how: What a model's `InputSpec` asks for.
        is_quick: Let the decoder of JPEGs reduce them. That is faster, but gives pixels that are slightly different
            from those of the same picture in another format, or decoded already.

    Raises:
        UnreadableImageError: It cannot be read; the message says why.
    """
    with reading("the picture given"):
        return read_rgb(picture, how, is_quick=is_quick)


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


def read_rgb(picture: bytes | BinaryIO | Image.Image, how: Decoding = PLAIN, *, is_quick: bool = False) -> Image.Image:
    """Return a picture as RGB, upright, as `decode` does, and let Pillow's own exceptions through.

    Raises:
        Exception: The picture cannot be read. Decoders raise exceptions of all types.
    """
    if isinstance(picture, Image.Image):
        return _reduced(_to_rgb(picture, how.grey_range), how.smallest_side)
    with open_image(picture) as image:
        full_size = image.size
        if how.smallest_side is not None and is_quick:
            image.draft(None, (how.smallest_side, how.smallest_side))
        is_reduced = image.size != full_size
        rgb = _to_rgb(image, how.grey_range)
        if is_reduced:
            return rgb
        return _reduced(rgb, how.smallest_side)


def read_measured(picture: bytes) -> tuple[Image.Image, GreyRange | None]:
    """Read a picture whose data set is not known yet.

    Returns:
        RGB, upright, and None. Where it is grey of more than 8 bits: scaled by its own lowest and highest value, and
        these.

    Raises:
        Exception: The picture cannot be read. Decoders raise exceptions of all types.
    """
    with open_image(picture) as image:
        image.load()
        extent = None
        if grey.is_wide(image):
            extent = grey.extent(image)
        return _to_rgb(image, extent), extent


def open_image(picture: bytes | BinaryIO) -> Image.Image:
    """Read a picture's header; the pixels are read when they are needed.

    Raises:
        Exception: The picture cannot be read. Decoders raise exceptions of all types.
    """
    stream: BinaryIO
    if isinstance(picture, bytes):
        stream = io.BytesIO(picture)
    elif picture.seekable():
        stream = picture
    else:  # a pipe
        stream = io.BytesIO(picture.read())
    try:
        return _open_known_format(stream)
    except UnidentifiedImageError:
        stream.seek(0)
        start = stream.read(file_kinds.NUM_BYTES)
    if file_kinds.IS_HEIC.match(start) and _learn_heic():
        stream.seek(0)
        return _open_known_format(stream)
    raise UnidentifiedImageError(file_kinds.why_no_image(start))


def _open_known_format(stream: BinaryIO) -> Image.Image:
    """Open a stream in one of the formats that are read here, as far as Pillow can."""
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
    """Say that a picture is too large, with the numbers of Pillow's message, and what to do."""
    sizes = re.findall(r"[0-9]+", message)
    reason = "it is larger than Pillow opens"
    if len(sizes) == 2:
        reason = f"it has {int(sizes[0]):,} pixels, and Pillow opens at most {int(sizes[1]):,}"
    return (
        f"{reason}; make it smaller or cut it up first, or, in Python and for files that you trust, raise "
        "PIL.Image.MAX_IMAGE_PIXELS"
    )


def _upright(image: Image.Image) -> Image.Image:
    """Turn a picture as its EXIF orientation says."""
    image.load()  # first: Pillow's TIFF reader turns the picture while loading and then forgets the tag
    if not image.width or not image.height:
        raise ValueError("it has no pixels")
    try:
        method = _UPRIGHT.get(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # EXIF is written by everyone; what is no EXIF, or no number, turns nothing
        return image
    if method is None:
        return image
    turned = image.transpose(method)
    turned.info = {}  # with the orientation it would be turned again
    transparency = image.info.get("transparency")
    if transparency is not None:
        turned.info["transparency"] = transparency
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


def _to_rgb(image: Image.Image, grey_range: GreyRange | None) -> Image.Image:
    """Return a picture of any mode as RGB, upright, on white where it is transparent."""
    negative = grey.is_negative(image)
    image = _upright(image)
    if grey.is_wide(image):
        return grey.to_rgb(image, grey_range, negative=negative)
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        if image.mode == "La":
            image = image.convert("LA")
        rgba = image.convert("RGBA")
        white = Image.new("RGB", image.size, "white")
        white.paste(rgba, mask=rgba.getchannel("A"))
        return white
    if image.mode == "RGB":
        return image
    return image.convert("RGB")
