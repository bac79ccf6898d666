"""Computed feature rows on disk, named by content: never a wrong number, at worst one computed again.

    folder/<key[:2]>/<key>/<SHA-256 of the file>.rows     shards: header, rows, keys; written once, never changed

A shard counts only if its content hashes to its own name and its header names the table, so a truncated, altered or
foreign file is no shard. Shards appear by renaming, so processes need no locks: two that compute the same row store it
twice, and either copy is right. Importing this module loads no torch.
"""

import hashlib
import math
import mmap
import os
import re
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final
from weakref import WeakValueDictionary

import numpy as np
import numpy.typing as npt

from headstart.errors import CacheFullError, ConfigError
from headstart.features.shards import (
    children,
    delete_table,
    last_use,
    map_file,
    nearest_existing,
    shard_files,
    stored_bytes,
    write_shard,
)
from headstart.files import file_error, remove_leftovers

RowKey = tuple[bytes, int]  # SHA-256 of the image file (32 bytes), number of the view (0 or more)

_SHARD_BYTES = 64 << 20
_KEY_BYTES = 32 + 8
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}


def default_cache_folder() -> Path:
    """Return the folder of all that can be computed again: `HEADSTART_CACHE`, else the user's cache folder."""
    if named := os.environ.get("HEADSTART_CACHE"):
        return Path(named).expanduser()
    import platformdirs

    return Path(platformdirs.user_cache_dir("headstart"))


@final
class FeatureCache:
    """The tables in one folder, with a limit on their bytes on disk and on what this process holds of them in memory.

    When a write would exceed the limit on disk, the tables used least recently are deleted, those open here last. A
    process that still uses a deleted table goes on with it.
    """

    def __init__(
        self, folder: Path | None = None, *, limit_bytes: int | None = None, memory_bytes: int | None = None
    ) -> None:
        """Take a folder, which need not exist before the first row is written.

        Args:
            folder: Default: `features` in `default_cache_folder()`.
            limit_bytes: Most bytes on disk. Default: `HEADSTART_CACHE_LIMIT`, else 10 GB, and in either case no more
                than 80 % of what is free there and what the cache holds already.
            memory_bytes: Most bytes of rows in memory, over all open tables; rows beyond are mapped from disk.
                Default: a quarter of the available memory, and 512 MiB at most.

        Raises:
            ConfigError: `HEADSTART_CACHE_LIMIT` is not a size.
        """
        self.folder = default_cache_folder() / "features" if folder is None else folder
        if limit_bytes is None:
            limit_bytes = min(_limit_setting(), self._capacity() * 4 // 5)
        self.limit_bytes = limit_bytes
        self.memory_bytes = _default_memory_bytes() if memory_bytes is None else memory_bytes
        self._open: WeakValueDictionary[str, FeatureTable] = WeakValueDictionary()

    def open(self, key: str, shape: tuple[int, ...], dtype: npt.DTypeLike) -> "FeatureTable":
        """Return a table with all its rows that are whole on disk; damaged and left-over files are removed.

        A table that is open already is returned again, with the rows that others have stored since.

        Args:
            key: 8 to 128 hexadecimal digits that say how rows are computed (weights, preprocessing, versions).
            shape: Of one row.
            dtype: Of one row.

        Raises:
            ValueError: The key is not hexadecimal, or the table is open with another shape or type.
        """
        if not re.fullmatch("[0-9a-f]{8,128}", key):
            raise ValueError(f"a table's key is 8 to 128 lower-case hexadecimal digits, not {key!r}")
        table = self._open.get(key)
        if table is None:
            table = self._open[key] = FeatureTable(self, key, shape, np.dtype(dtype))
        elif (table.shape, table.dtype) != (shape, np.dtype(dtype)):
            raise ValueError(f"table {key} is open with rows {table.dtype} {table.shape}, not {dtype} {shape}")
        table.refresh()
        return table

    def room(self, num_bytes: int, kept_bytes: int = 0) -> bool:
        """Tell whether a table could get that many new bytes, on disk (other tables giving way) or in memory."""
        writable = os.access(nearest_existing(self.folder), os.W_OK | os.X_OK)
        on_disk = writable and num_bytes + kept_bytes <= min(self.limit_bytes, self._capacity())
        return on_disk or self.fits_memory(num_bytes)

    def fits_memory(self, num_bytes: int) -> bool:
        """Tell whether so many more bytes may be held in memory."""
        return num_bytes + sum(table.memory_bytes for table in self._open.values()) <= self.memory_bytes

    def make_room(self, table_folder: Path, num_bytes: int) -> bool:
        """Delete the tables used least recently until so many bytes more fit the limit on disk.

        Args:
            table_folder: The table to be written to; it is never deleted.
            num_bytes: The bytes to be written.

        Returns:
            Whether they fit; nothing is deleted where they cannot.
        """
        if stored_bytes(table_folder) + num_bytes > self.limit_bytes:
            return False
        tables = sorted(self._tables(), key=lambda folder: (folder.name in self._open, last_use(folder)))
        for folder in tables:
            remove_leftovers(folder)
        excess = sum(map(stored_bytes, tables)) + num_bytes - self.limit_bytes
        for folder in tables:
            if excess > 0 and folder != table_folder:
                excess -= delete_table(folder)
        return excess <= 0

    def _tables(self) -> list[Path]:
        tables: list[Path] = []
        for start in children(self.folder, "[0-9a-f]{2}"):
            tables += children(start, start.name + "[0-9a-f]{6,126}")
        return tables

    def _capacity(self) -> int:
        """Return what is free on the disk and what the cache holds there, bytes."""
        free = 0
        with suppress(OSError):
            free = shutil.disk_usage(nearest_existing(self.folder)).free
        return free + sum(map(stored_bytes, self._tables()))


@dataclass(frozen=True)
class _Chunk:
    """Rows `(n, items)` at consecutive positions, in memory or, with `mapped`, on disk."""

    start: int
    rows: npt.NDArray[Any]
    mapped: mmap.mmap | None = None

    def take(self, positions: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        taken: npt.NDArray[Any] = self.rows[positions - self.start]
        self.release()
        return taken

    def release(self) -> None:
        """Let go of the pages read, so that what stays resident does not grow with the table."""
        if self.mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
            self.mapped.madvise(mmap.MADV_DONTNEED)


@final
class FeatureTable:
    """Rows of one shape and type by (image, view). Made by `FeatureCache.open`.

    Positions stay valid as long as the object lives. `gather` may run in several threads at once; all else in one.

    Attributes:
        note: Why rows are no longer kept on disk, for people; empty as long as they are.
        memory_bytes: Bytes of the rows held in memory, without those that wait to be written (64 MiB at most).
    """

    def __init__(self, cache: FeatureCache, key: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.shape, self.dtype = shape, dtype
        self.note = ""
        self.memory_bytes = 0
        self._cache = cache
        self._folder = cache.folder / key[:2] / key
        self._num_items = math.prod(shape)
        self._row_bytes = self._num_items * dtype.itemsize
        if dtype.hasobject or self._row_bytes == 0:
            raise ValueError(f"rows must be plain numbers, at least one of them; got {dtype} {shape}")
        header = f"headstart features 1\n{key}\n{dtype.str} {shape}\n".encode()
        self._header = header + bytes(-len(header) % 64)  # so that rows are aligned
        self._chunks: list[_Chunk] = []
        self._index: dict[bytes, int] = {}
        self._next = 0
        self._num_pending = 0  # the last chunks, whose rows are not yet written
        self._pending_keys: list[bytes] = []
        self._known: set[str] = set()

    @property
    def num_bytes(self) -> int:
        """Bytes of all rows at hand: in memory, mapped, or waiting to be written."""
        return len(self._index) * self._row_bytes

    def has(self, keys: Sequence[RowKey]) -> npt.NDArray[np.bool_]:
        """Tell which rows are at hand. Returns `(n,)`."""
        return np.array([key in self._index for key in _packed(keys)], dtype=np.bool_)

    def locate(self, keys: Sequence[RowKey]) -> npt.NDArray[np.int64]:
        """Return the rows' positions `(n,)` for `gather`.

        Raises:
            KeyError: One of them is not at hand.
        """
        return np.array([self._index[key] for key in _packed(keys)], dtype=np.int64)

    def gather(self, positions: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        """Return a new array of rows `(n, *shape)` in the order of their positions `(n,)`.

        Raises:
            IndexError: No row has such a position.
        """
        gathered = np.empty((len(positions), self._num_items), self.dtype)
        starts = np.array([chunk.start for chunk in self._chunks], dtype=np.int64)
        owners = np.searchsorted(starts, positions, side="right") - 1
        for owner in np.unique(owners):
            if owner < 0:
                raise IndexError("no row has a position before the first")
            chosen = np.flatnonzero(owners == owner)
            gathered[chosen] = self._chunks[owner].take(positions[chosen])
        return gathered.reshape(len(positions), *self.shape)

    def append(self, keys: Sequence[RowKey], rows: npt.NDArray[Any]) -> None:
        """Add a copy of rows `(n, *shape)`, but for those at hand already, and write a shard whenever one is full.

        Raises:
            ValueError: The rows do not fit the keys or the table.
            CacheFullError: A shard's rows fit neither on disk nor in memory; they are forgotten.
        """
        if rows.shape != (len(keys), *self.shape) or rows.dtype != self.dtype:
            wanted = f"{self.dtype} {(len(keys), *self.shape)}"
            raise ValueError(f"rows must be {wanted}, not {rows.dtype} {rows.shape}")
        fresh: dict[bytes, int] = {}
        for number, key in enumerate(_packed(keys)):
            if key not in self._index:
                fresh.setdefault(key, number)
        names = list(fresh)
        numbers = list(fresh.values())

        most = max(1, _SHARD_BYTES // (self._row_bytes + _KEY_BYTES))
        start = 0
        while start < len(names):
            stop = start + most - len(self._pending_keys)
            piece = rows[numbers[start:stop]].reshape(-1, self._num_items)
            self._take_in(_Chunk(self._next, piece), names[start:stop])
            self._num_pending += 1
            self._pending_keys += names[start:stop]
            start = stop
            if len(self._pending_keys) >= most:
                self.flush()

    def flush(self) -> None:
        """Write the rows that wait as a shard; where that is impossible, keep them in memory and say why in `note`.

        Raises:
            CacheFullError: They fit neither on disk nor in memory; they are forgotten.
        """
        if not self._num_pending:
            return
        first = len(self._chunks) - self._num_pending
        pieces = [chunk.rows for chunk in self._chunks[first:]]
        keys = self._pending_keys
        path = self._persist(pieces, keys)
        held = self._hold(self._chunks[first].start, pieces, path)
        self._chunks[first:] = held
        self._pending_keys = []
        self._num_pending = 0
        if not held:  # their positions are not used again, so that one remembered by the caller cannot mislead
            for key in keys:
                del self._index[key]
            memory = f"in the {_readable(self._cache.memory_bytes)} of memory for features"
            raise CacheFullError(f"{self.note or 'stored features vanished'}; and they do not fit {memory}")

    def refresh(self) -> None:
        """Load the shards that are new on disk, and remove damaged ones and what dead writers left behind.

        Raises:
            CacheFullError: As for `flush`.
        """
        self.flush()
        if not self._cache.limit_bytes:  # without a place on disk nothing is taken from there, either
            return
        with suppress(OSError):  # a folder's time of change is its time of last use
            os.utime(self._folder)
        remove_leftovers(self._folder)
        for path in shard_files(self._folder):
            if path.name not in self._known:
                with suppress(OSError):  # deleted by another process, or not readable: its rows are computed again
                    self._load(path)

    def _load(self, path: Path) -> None:
        """Verify one shard and take its rows in: copied to memory where they fit, else mapped. Delete it if damaged."""
        content: bytes | mmap.mmap = b""
        digest = hashlib.sha256()
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if self._cache.fits_memory(size):
                content = file.read()
                digest.update(content)
            elif size:
                digest = hashlib.file_digest(file, "sha256")
                content = map_file(file)
        count, rest = divmod(len(content) - len(self._header), self._row_bytes + _KEY_BYTES)
        whole = digest.hexdigest() == path.stem and content[: len(self._header)] == self._header
        if not whole or rest or count < 1:
            path.unlink()
            return
        chunk = self._chunk(content, self._next)
        packed = content[len(self._header) + count * self._row_bytes :]
        self._take_in(chunk, [packed[at : at + _KEY_BYTES] for at in range(0, len(packed), _KEY_BYTES)])
        self.memory_bytes += 0 if chunk.mapped else chunk.rows.nbytes
        self._known.add(path.name)
        chunk.release()

    def _take_in(self, chunk: _Chunk, keys: Sequence[bytes]) -> None:
        self._chunks.append(chunk)
        for position, key in enumerate(keys, chunk.start):
            self._index.setdefault(key, position)
        self._next = chunk.start + len(keys)

    def _chunk(self, content: bytes | mmap.mmap, start: int) -> _Chunk:
        count = (len(content) - len(self._header)) // (self._row_bytes + _KEY_BYTES)
        rows = np.frombuffer(content, self.dtype, count * self._num_items, len(self._header))
        return _Chunk(start, rows.reshape(count, -1), content if isinstance(content, mmap.mmap) else None)

    def _hold(self, start: int, pieces: list[npt.NDArray[Any]], path: Path | None) -> list[_Chunk]:
        """Return the rows as one chunk, in memory if they fit, else mapped from `path`; nothing if neither can be."""
        num_bytes = sum(piece.nbytes for piece in pieces)
        if self._cache.fits_memory(num_bytes):
            self.memory_bytes += num_bytes
            return [_Chunk(start, np.concatenate(pieces))]
        if path is not None:
            with suppress(OSError), path.open("rb") as file:
                return [self._chunk(map_file(file), start)]
        return []

    def _persist(self, pieces: list[npt.NDArray[Any]], keys: list[bytes]) -> Path | None:
        """Write a shard and return its path, or None, for good, once that is impossible; `note` then says why."""
        if self.note:
            return None
        parts: list[bytes | memoryview] = [self._header]
        parts += [piece.view(np.uint8).ravel().data for piece in pieces]
        parts.append(b"".join(keys))
        digest = hashlib.sha256()
        for part in parts:
            digest.update(part)
        path = self._folder / f"{digest.hexdigest()}.rows"
        try:
            if self._cache.make_room(self._folder, sum(map(len, parts))):
                write_shard(path, parts)
                self._known.add(path.name)
                return path
            limit = _readable(self._cache.limit_bytes)
            reason = f"they would pass the limit of {limit} in {self._cache.folder} (HEADSTART_CACHE_LIMIT)"
        except OSError as error:
            reason = f"{file_error('write to', self._cache.folder, error)} (HEADSTART_CACHE)"
        self.note = f"further features are not stored: {reason}"
        return None


def _packed(keys: Sequence[RowKey]) -> list[bytes]:
    packed = [digest + int(view).to_bytes(8, "little") for digest, view in keys]
    if any(len(key) != _KEY_BYTES for key in packed):
        raise ValueError("a row is named by a SHA-256 of 32 bytes and a view")
    return packed


def _limit_setting() -> int:
    text = os.environ.get("HEADSTART_CACHE_LIMIT", "").strip() or "10GB"
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?I?)B?", text.upper(), re.ASCII)
    if not match or match[2] not in _UNITS:
        raise ConfigError(f"HEADSTART_CACHE_LIMIT must be a size such as 10GB, 500MB or 0; got {text!r}")
    return int(float(match[1]) * _UNITS[match[2]])


def _default_memory_bytes() -> int:
    with suppress(OSError, ValueError):
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return min(512 << 20, int(line.split()[1]) * 1024 // 4)
    return 512 << 20


def _readable(num_bytes: int) -> str:
    unit, size = ("GB", 1e9) if num_bytes >= 1e9 else ("MB", 1e6)
    return f"{num_bytes / size:.3g} {unit}"
