"""What people hand over to be classified: words of a command line, paths, pictures and arrays."""

import glob
import os
import threading
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from headstart.data.sources import FileSource, Picture, Source, read_picture
from headstart.data.threads import map_ahead
from headstart.data.walk import has_image_suffix, walk
from headstart.errors import DataError, UnreadableImageError
from headstart.files import may_exist
from headstart.preprocessing import Pixels, eval_view
from headstart.types import InputSpec

Item = str | os.PathLike[str] | Image.Image | npt.NDArray[np.uint8]
Inputs = Item | Iterable[Item]
View = Pixels | UnreadableImageError

NAMED_FILES = FileSource(takes_pipes=True)  # where keys are paths that somebody named one by one

# Pillow reads the pixels of an open file, and its EXIF, when they are first asked for: one thread at a time may ask.
_PICTURE_LOCKS = tuple(threading.Lock() for _ in range(64))

_NOT_A_LIST = (
    "standard input holds no list of paths, but binary data such as a picture; write one path per line. A picture "
    "itself is read by its name, or as /dev/stdin: headstart predict RUN /dev/stdin < picture.jpg"
)
_EXPECTED = "expected a path, a PIL image, a sequence of these, or a uint8 array (H, W, 3) or (N, H, W, 3)"


def expand_inputs(words: Iterable[str], stdin: Iterable[str] | None = None) -> Iterator[Path]:
    """Turn files, folders, globs and `-` (a path per line of `stdin`) into paths of images, in order and lazily.

    A folder gives the files with an image extension in it and below it, by name, as training finds them: hidden ones
    and junk are left out, links to folders are followed. So does a glob.
    A file that is named is taken whatever its extension, and so is a line of `stdin`, which is not checked.

    Args:
        words: Words of the command line.
        stdin: What `-` stands for.

    Raises:
        DataError: A word matches nothing, or a folder cannot be listed; raised at once, before the first path is given.
    """
    words = list(words)
    if not words:
        raise DataError("no image was given; give files, folders, globs, or - to read paths from standard input")
    for word in words:
        if word != "-":
            _refuse_word_without_images(word)
    return _images_of(words, stdin if stdin is not None else ())


def as_pictures(inputs: Inputs) -> list[Picture]:
    """Turn what a caller of `Classifier` gave into keys of files and pictures.

    Args:
        inputs: A path, a PIL image, a sequence of these, or a `uint8` array (H, W, 3) or (N, H, W, 3), RGB.

    Raises:
        DataError: It is something else.
    """
    if isinstance(inputs, np.ndarray) and inputs.ndim == 4:
        if not inputs.size:
            return _pictures_of_empty_array(inputs)
        return [as_picture(array) for array in inputs]
    if isinstance(inputs, (str, os.PathLike, Image.Image, np.ndarray)):
        return [as_picture(inputs)]
    # A tensor can be iterated too, but its values and layout are not those of pictures.
    if not isinstance(inputs, Iterable) or isinstance(inputs, (bytes, Mapping)) or hasattr(inputs, "dtype"):
        raise DataError(f"cannot classify {_type_and_shape(inputs)}; {_EXPECTED}")
    return [as_picture(item) for item in inputs]


def as_picture(item: Any) -> Picture:
    """Turn one of what a caller gave into the key of a file, or a picture.

    Raises:
        DataError: It is something else.
    """
    if isinstance(item, Image.Image):
        return item
    if isinstance(item, (str, os.PathLike)):
        return str(Path(item))
    if isinstance(item, np.ndarray) and item.dtype == np.uint8 and item.ndim == 3 and item.shape[2] == 3 and item.size:
        return Image.fromarray(item)
    raise DataError(f"cannot classify {_type_and_shape(item)}; {_EXPECTED}")


def decoded_views(
    pictures: Iterable[Picture], source: Source, spec: InputSpec, *, threads: int, ahead: int
) -> Generator[tuple[Picture, View]]:
    """Decode ahead by threads; give each picture, in order, with its view or with why it has none.

    Args:
        pictures: Keys and pictures; taken lazily.
        source: Where the keys are.
        spec: Geometry of the views, each `uint8` (H, W, 3).
        threads: Decoding threads.
        ahead: How many views may wait to be taken: the bound on memory.
    """

    def with_view(picture: Picture) -> tuple[Picture, View]:
        return picture, _view_or_error(picture, source, spec)

    return map_ahead(with_view, pictures, threads=threads, ahead=ahead)


def _view_or_error(picture: Picture, source: Source, spec: InputSpec) -> View:
    """Decode a picture as the network takes it, or return the error that says why that cannot be done."""
    try:
        with _lock_of(picture):
            decoded = read_picture(source, picture, spec.decoding)
        return eval_view(decoded, spec)
    except UnreadableImageError as error:
        # The tracebacks' frames hold the picture, half decoded, for as long as the error waits for its turn.
        cause = error.__cause__
        if cause is not None:
            cause.__traceback__ = None
            cause.__cause__ = None
            cause.__context__ = None
        return error.with_traceback(None)


def _lock_of(picture: Picture) -> AbstractContextManager[Any]:
    """Return the lock for a picture that several threads may have been given; a file is opened by each anew."""
    if isinstance(picture, str):
        return nullcontext()
    return _PICTURE_LOCKS[id(picture) // 64 % len(_PICTURE_LOCKS)]


def _refuse_word_without_images(word: str) -> None:
    """Refuse a word of the command line that names no image.

    Folders are listed to their end, so that one that cannot be is found before the first image is classified.
    """
    if os.path.isdir(word):
        num_images = sum(1 for _ in _images_below(word))
        if not num_images:
            raise DataError(f"folder {word} holds no image file; give a folder of pictures, or name the files")
    elif not may_exist(word):
        if not glob.has_magic(word):
            raise DataError(f"there is no file or folder {word}; check the path")
        num_images = sum(1 for _ in _matching_images(word))
        if not num_images:
            raise DataError(f"no image matches {word}; check the pattern")


def _images_of(words: Iterable[str], stdin: Iterable[str]) -> Iterator[Path]:
    """Yield the paths that the words name, in order."""
    for word in words:
        if word == "-":
            yield from _listed_in(stdin)
        elif os.path.isdir(word):
            yield from _images_below(word)
        elif may_exist(word):
            yield Path(word)
        else:
            yield from _matching_images(word)


def _listed_in(stdin: Iterable[str]) -> Iterator[Path]:
    """Read a path per line.

    Raises:
        DataError: What comes is no text.
    """
    try:
        for line in stdin:
            if "\0" in line:
                raise DataError(_NOT_A_LIST)
            name = line.rstrip("\r\n")
            if name:
                yield Path(name)
    except UnicodeDecodeError as error:
        raise DataError(_NOT_A_LIST) from error


def _matching_images(pattern: str) -> Iterator[Path]:
    """Yield the images that a glob names, by name, with those of the folders that it names."""
    for name in sorted(glob.iglob(pattern, recursive=True)):
        if os.path.isdir(name):
            # `**` names a folder and also everything in it; the files come under their own names.
            if "**" not in pattern:
                yield from _images_below(name)
        elif has_image_suffix(name):
            yield Path(name)


def _images_below(folder: str) -> Iterator[Path]:
    """Yield the images in a folder and in the folders below it."""
    for each in walk(folder):
        for image in each.images:
            yield Path(image)


def _pictures_of_empty_array(array: npt.NDArray[Any]) -> list[Picture]:
    """Return no pictures for an array of no images; refuse one of images without pixels.

    Raises:
        DataError: Its images have no pixels, or it has not the type or the layout of images.
    """
    if len(array) == 0 and array.dtype == np.uint8 and array.shape[3] == 3:
        return []
    raise DataError(f"cannot classify {_type_and_shape(array)}; {_EXPECTED}")


def _type_and_shape(value: object) -> str:
    """Say what a value is: `a list`, or `a ndarray of float32 (2, 3)`."""
    kind = type(value).__name__
    dtype = getattr(value, "dtype", None)
    shape = getattr(value, "shape", None)
    if dtype is None or shape is None:
        return f"a {kind}"
    return f"a {kind} of {dtype} {tuple(shape)}"
