"""Where the bytes of images come from. Importing this module loads no torch.

A further place for images (an archive, shards, a remote store) is a class like `FileSource` and a row in `SOURCES`.
"""

import hashlib
import io
import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, BinaryIO, ClassVar, Protocol, final

from PIL import Image

from headstart.decoding import decode, read_rgb, reading
from headstart.errors import DataError, unknown
from headstart.types import PLAIN, Decoding

_OPEN_FILES = ("/dev/fd/", "/dev/stdin", "/proc/")  # where a process finds what it was given open
Picture = str | Image.Image  # the key of one in its source, or the picture itself


class Source(Protocol):
    """Gives the bytes of images by their keys.

    A key is a text that names one image, to the source and to people. A source is a frozen dataclass of plain values:
    the manifest of a run folder keeps them, so that the images can be found again.
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def open(self, key: str) -> BinaryIO:
        """Open an image's bytes as a stream; what needs the beginning only reads no more. Called from any thread.

        Raises:
            FileNotFoundError: There is no such image.
            OSError: It cannot be read.
        """


@final
@dataclass(frozen=True)
class FileSource:
    """Images that are files; their keys are paths.

    Attributes:
        takes_pipes: Whether a pipe that a shell made is read too, such as `<(command)` and `/dev/stdin`. In a data set
            it is refused, because images are read more than once. All else that is no regular file is always
            refused: opening a named pipe waits until somebody writes to it, and a device may never end.
    """

    takes_pipes: bool = False

    def open(self, key: str) -> BinaryIO:
        """Open a file."""
        mode = os.stat(key).st_mode
        is_pipe = stat.S_ISFIFO(mode) and os.path.abspath(key).startswith(_OPEN_FILES)
        if not stat.S_ISREG(mode) and not (self.takes_pipes and is_pipe):
            raise OSError(f"{_kind_of_file(mode)}, not a regular file")
        return open(key, "rb")


def _kind_of_file(mode: int) -> str:
    """Say what there is in the place of a regular file."""
    if stat.S_ISDIR(mode):
        return "a folder"
    if stat.S_ISFIFO(mode):
        return "a pipe"
    if stat.S_ISSOCK(mode):
        return "a socket"
    return "a device"


FILES: Source = FileSource()
# What `manifest.parquet` calls a source -> its class.
SOURCES: dict[str, Callable[..., Source]] = {"files": FileSource}


def read_bytes(source: Source, key: str) -> bytes:
    """Return all bytes of an image. Raises what `source` raises."""
    with source.open(key) as stream:
        return stream.read()


def checked_bytes(source: Source, key: str, expected: str) -> bytes:
    """Return all bytes of an image, if they are those that were checked.

    Args:
        source: Source that has the image.
        key: Key of the image.
        expected: SHA-256 of the bytes that were checked, hexadecimal; '' where it is not known.

    Raises:
        OSError: The bytes are others by now, or cannot be read.
    """
    data = read_bytes(source, key)
    if expected and hashlib.sha256(data).hexdigest() != expected:
        raise OSError("it has changed since the data was checked; start again")
    return data


@final
@dataclass(frozen=True)
class CheckedSource:
    """The images of a source, each refused where its content is not what was checked.

    Attributes:
        source: Source that has the images.
        expected: Key -> SHA-256, hexadecimal.
    """

    source: Source
    expected: Mapping[str, str]

    def open(self, key: str) -> BinaryIO:
        """Read an image whole, and give its bytes."""
        return io.BytesIO(checked_bytes(self.source, key, self.expected.get(key, "")))


def read_picture(source: Source, picture: Picture, how: Decoding = PLAIN, *, is_quick: bool = False) -> Image.Image:
    """Return an image as `decoding.decode` gives it: RGB, upright.

    Args:
        source: Source that has the image.
        picture: Key of the image, or the picture itself.
        how: Decoding that a model's `InputSpec` asks for.
        is_quick: See `decoding.decode`.

    Raises:
        UnreadableImageError: It cannot be read; the message has the key and the reason.
    """
    if isinstance(picture, Image.Image):
        return decode(picture, how)
    with reading(shown(picture)), source.open(picture) as stream:
        return read_rgb(stream, how, is_quick=is_quick)


def sha256(source: Source, key: str) -> str:
    """Return the SHA-256 of an image's bytes, hexadecimal. Raises what `source` raises."""
    return hashlib.sha256(read_bytes(source, key)).hexdigest()


def shown(key: str) -> str:
    """Return a key as text that can be printed and saved, also where a file's name is not valid Unicode."""
    return key.encode("utf-8", "backslashreplace").decode("utf-8")


def source_settings(source: Source) -> dict[str, Any]:
    """Return what `restore_source` makes an equal source of, as plain JSON types."""
    for kind, member in SOURCES.items():
        if member is type(source):
            return {"kind": kind, **asdict(source)}
    raise ValueError(f"{type(source).__name__} has no row in SOURCES")


def restore_source(settings: Mapping[str, Any]) -> Source:
    """Make a source from its settings.

    Raises:
        DataError: Another version of Headstart wrote them.
    """
    values = dict(settings)
    kind = str(values.pop("kind", ""))
    if kind not in SOURCES:
        raise DataError(f"{unknown('source of images', kind, SOURCES)}; update Headstart")
    try:
        return SOURCES[kind](**values)
    except TypeError as error:
        raise DataError(f"the source of images {kind!r} has other settings here ({error}); update Headstart") from error
