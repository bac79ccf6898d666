"""Decoded pictures, kept so that none is decoded twice. Importing this module loads no torch."""

import threading
from typing import final

from PIL import Image

from headstart.data.sources import Source, checked_bytes, shown
from headstart.decoding import read_rgb, reading
from headstart.types import Decoding

_LIMIT_BYTES = 320 << 20


@final
class Pictures:
    """Decoded pictures, kept in memory until the limit is reached: what trains on pixels sees each one every epoch."""

    def __init__(self, limit_bytes: int = _LIMIT_BYTES) -> None:
        """Start empty.

        Args:
            limit_bytes: Most memory to use.
        """
        self._kept: dict[str, Image.Image] = {}
        self._left = limit_bytes
        self._lock = threading.Lock()

    def keep(self, key: str, image: Image.Image) -> None:
        """Keep a picture decoded at its full size, if there is room."""
        num_bytes = 4 * image.width * image.height  # Pillow pads RGB to four bytes
        with self._lock:
            if key not in self._kept and num_bytes <= self._left:
                self._left -= num_bytes
                self._kept[key] = image

    def decode(self, source: Source, key: str, how: Decoding, digest: bytes, *, is_quick: bool = False) -> Image.Image:
        """Return what `sources.read_picture` gives of the image whose bytes have the SHA-256 `digest`.

        Raises:
            UnreadableImageError: It cannot be decoded, or has another content by now: what is computed from it would be
                kept under the name of what was checked.
        """
        is_full_size = how.smallest_side is None
        if is_full_size and key in self._kept:
            return self._kept[key]
        with reading(shown(key)):
            data = checked_bytes(source, key, digest.hex())
            image = read_rgb(data, how, is_quick=is_quick)
        if is_full_size:
            self.keep(key, image)
        return image
