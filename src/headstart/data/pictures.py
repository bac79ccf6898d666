"""Decoded pictures, kept so that none is decoded twice. Importing this module loads no torch."""

import threading
from pathlib import Path
from typing import final

from PIL import Image

from headstart.data.checks import file_sha256
from headstart.data.transforms import decode, shown
from headstart.errors import UnreadableImageError

_LIMIT_BYTES = 320 << 20


@final
class Pictures:
    """Decoded pictures, kept in memory until the limit is reached: what trains on pixels sees each one every epoch."""

    def __init__(self, limit_bytes: int = _LIMIT_BYTES) -> None:
        """Start empty.

        Args:
            limit_bytes: Most memory to use.
        """
        self._kept: dict[Path, Image.Image] = {}
        self._left = limit_bytes
        self._lock = threading.Lock()

    def keep(self, path: Path, image: Image.Image) -> None:
        """Keep a picture decoded at its full size, if there is room."""
        num_bytes = 4 * image.width * image.height  # Pillow pads RGB to four bytes
        with self._lock:
            if path not in self._kept and num_bytes <= self._left:
                self._left -= num_bytes
                self._kept[path] = image

    def decode(self, path: Path, smallest: int | None, digest: bytes) -> Image.Image:
        """Return what `transforms.decode` gives of the file whose SHA-256 is `digest`.

        Raises:
            UnreadableImageError: It cannot be decoded, or has another content by now: what is computed from it would be
                kept under the name of what was checked.
        """
        image = self._kept.get(path) if smallest is None else None
        if image is None:
            image = decode(path, smallest=smallest)
            if bytes.fromhex(file_sha256(path)) != digest:
                raise UnreadableImageError(f"{shown(path)} has changed since the data was checked; start again")
            if smallest is None:
                self.keep(path, image)
        return image
