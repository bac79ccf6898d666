"""The files of a feature table: found, written whole or not at all, and deleted when they are stale."""

import mmap
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from headstart.files import remove_leftovers, whole_file


def map_file(file: BinaryIO) -> mmap.mmap:
    """Map an open file for reading."""
    return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def write_shard(path: Path, parts: Sequence[bytes | memoryview], attempts: int = 2) -> None:
    """Write a synced file that is whole or not there."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as temporary, temporary.open("xb") as file:
            file.writelines(parts)
    except FileNotFoundError:  # another process deleted the table in between
        if attempts == 1:
            raise
        write_shard(path, parts, attempts - 1)


def children(folder: Path, pattern: str) -> list[Path]:
    """Return what a folder holds whose whole name matches, sorted; nothing where it cannot be read."""
    with suppress(OSError), os.scandir(folder) as entries:
        return sorted(Path(entry) for entry in entries if re.fullmatch(pattern, entry.name))
    return []


def shard_files(folder: Path) -> list[Path]:
    """Return the shards of a table; what else lies there is not ours to read or delete."""
    return [path for path in children(folder, r".+\.rows") if os.path.isfile(path)]


def stored_bytes(folder: Path) -> int:
    """Return the bytes that a table takes on disk."""
    total = 0
    for path in shard_files(folder):
        with suppress(OSError):
            total += path.stat().st_size
    return total


def last_use(folder: Path) -> float:
    """Return when a table was last used, seconds since the epoch."""
    with suppress(OSError):
        return folder.stat().st_mtime
    return 0.0


def delete_table(folder: Path) -> int:
    """Delete a table, but for what its writers are about to rename; return the bytes that were freed."""
    before = stored_bytes(folder)
    for path in shard_files(folder):
        with suppress(OSError):
            path.unlink()
    remove_leftovers(folder)
    freed = before - stored_bytes(folder)
    with suppress(OSError):
        folder.rmdir()
        folder.parent.rmdir()
    return freed


def nearest_existing(folder: Path) -> Path:
    """Return the folder, or the nearest one above it that exists."""
    return next((path for path in (folder, *folder.parents) if os.path.exists(path)), folder)
