"""Where computed features are kept, and how much of them. Importing this module loads no torch."""

import os
import re
from contextlib import suppress
from pathlib import Path

from headstart.errors import ConfigError
from headstart.machine import total_memory_bytes

_DEFAULT_LIMIT = "10GB"
_MOST_MEMORY_BYTES = 512 << 20
_MEMORY_FILE = Path("/proc/meminfo")  # Linux
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}


def default_cache_folder() -> Path:
    """Return the folder of all that can be computed again: `HEADSTART_CACHE`, else the user's cache folder."""
    named = os.environ.get("HEADSTART_CACHE")
    if named:
        return Path(named).expanduser()
    import platformdirs

    return Path(platformdirs.user_cache_dir("headstart"))


def limit_setting() -> int:
    """Return the most bytes on disk that `HEADSTART_CACHE_LIMIT` allows, or the default.

    Raises:
        ConfigError: It is not a size.
    """
    text = os.environ.get("HEADSTART_CACHE_LIMIT", "").strip() or _DEFAULT_LIMIT
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?I?)B?", text.upper(), re.ASCII)
    if not match or match[2] not in _UNITS:
        raise ConfigError(f"HEADSTART_CACHE_LIMIT must be a size such as 10GB, 500MB or 0; got {text!r}")
    return int(float(match[1]) * _UNITS[match[2]])


def default_memory_bytes() -> int:
    """Return a quarter of the available memory, and 512 MiB at most."""
    available = total_memory_bytes()  # in a container less than what the machine has left
    with suppress(OSError, ValueError):
        for line in _MEMORY_FILE.read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                available = min(available, int(line.split()[1]) * 1024)
    return min(_MOST_MEMORY_BYTES, available // 4)


def readable(num_bytes: int) -> str:
    """Return a number of bytes for people: `1.5 GB`."""
    if num_bytes >= 1e9:
        return f"{num_bytes / 1e9:.3g} GB"
    return f"{num_bytes / 1e6:.3g} MB"
