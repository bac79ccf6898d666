"""Decoded pictures, kept so that none is decoded twice. Importing this module loads no torch."""

import threading
from pathlib import Path
from typing import final

from PIL import Image

from headstart.data.transforms import decode

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

    def decode(self, path: Path, smallest: int | None) -> Image.Image:
        """Return what `transforms.decode` gives; see there for what it raises."""
        if smallest is not None:
            return decode(path, smallest=smallest)
        image = self._kept.get(path)
        if image is None:
            image = decode(path)
            self.keep(path, image)
        return image
