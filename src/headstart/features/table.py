"""Rows of features, in memory and on disk. Importing this module loads no torch."""

import hashlib
import math
import mmap
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, final

import numpy as np
import numpy.typing as npt

from headstart.errors import CacheFullError
from headstart.features.limits import readable
from headstart.features.shards import map_file, shard_files, write_shard
from headstart.files import file_error, remove_leftovers

RowKey = tuple[bytes, int]  # SHA-256 of the image file (32 bytes), number of the view (0 or more)

_SHARD_BYTES = 64 << 20
_KEY_BYTES = 32 + 8


class Room(Protocol):
    """What a table asks of the cache that it belongs to.

    Attributes:
        folder: Folder of all tables.
        limit_bytes: Most bytes of all tables on disk.
        memory_bytes: Most bytes of all tables in memory.
    """

    folder: Path
    limit_bytes: int
    memory_bytes: int

    def fits_memory(self, num_bytes: int) -> bool:
        """Tell whether so many more bytes may be held in memory."""

    def make_room(self, table_folder: Path, num_bytes: int) -> bool:
        """Make room for so many more bytes on disk; tell whether there is room."""


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

    def __init__(self, cache: Room, key: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        """Begin without a row.

        Args:
            cache: Cache that the table belongs to.
            key: Name of the table.
            shape: Shape of one row.
            dtype: Type of the numbers of a row.

        Raises:
            ValueError: Rows are no plain numbers, or empty.
        """
        self.shape = shape
        self.dtype = dtype
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
        return np.array([key in self._index for key in packed_keys(keys)], dtype=np.bool_)

    def locate(self, keys: Sequence[RowKey]) -> npt.NDArray[np.int64]:
        """Return the rows' positions `(n,)` for `gather`.

        Raises:
            KeyError: One of them is not at hand.
        """
        return np.array([self._index[key] for key in packed_keys(keys)], dtype=np.int64)

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
        for number, key in enumerate(packed_keys(keys)):
            if key not in self._index:
                fresh.setdefault(key, number)
        names = list(fresh)
        numbers = list(fresh.values())

        # Shards are cut where the rows fill one, wherever this call begins or ends.
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
        path = self._store_shard(pieces, keys)
        held = self._hold(self._chunks[first].start, pieces, path)
        self._chunks[first:] = held
        self._pending_keys = []
        self._num_pending = 0
        if not held:  # their positions are not used again, so that one remembered by the caller cannot mislead
            for key in keys:
                del self._index[key]
            memory = f"in the {readable(self._cache.memory_bytes)} of memory for features"
            raise CacheFullError(f"{self.note or 'stored features vanished'}; and they do not fit {memory}")

    def refresh(self) -> None:
        """Load the shards that are new on disk, and remove damaged ones and what dead writers left behind.

        Raises:
            CacheFullError: Rows that waited fit neither on disk nor in memory; they are forgotten.
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
                    self._load_shard(path)

    def _load_shard(self, path: Path) -> None:
        """Verify one shard and take its rows in: copied to memory where they fit, else mapped. Delete it if damaged."""
        content, digest = self._read_shard(path)
        count, rest = divmod(len(content) - len(self._header), self._row_bytes + _KEY_BYTES)
        is_whole = digest == path.stem and content[: len(self._header)] == self._header
        if not is_whole or rest or count < 1:
            path.unlink()
            return

        chunk = self._chunk_from(content, self._next)
        packed = content[len(self._header) + count * self._row_bytes :]
        keys = [packed[start : start + _KEY_BYTES] for start in range(0, len(packed), _KEY_BYTES)]
        self._take_in(chunk, keys)
        if chunk.mapped is None:
            self.memory_bytes += chunk.rows.nbytes
        self._known.add(path.name)
        chunk.release()

    def _read_shard(self, path: Path) -> tuple[bytes | mmap.mmap, str]:
        """Return what a file holds, in memory where that fits, and its SHA-256, hexadecimal."""
        with path.open("rb") as file:
            num_bytes = os.fstat(file.fileno()).st_size
            if not num_bytes or self._cache.fits_memory(num_bytes):
                content = file.read()
                return content, hashlib.sha256(content).hexdigest()
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            return map_file(file), digest

    def _take_in(self, chunk: _Chunk, keys: Sequence[bytes]) -> None:
        self._chunks.append(chunk)
        for position, key in enumerate(keys, chunk.start):
            self._index.setdefault(key, position)
        self._next = chunk.start + len(keys)

    def _chunk_from(self, content: bytes | mmap.mmap, start: int) -> _Chunk:
        count = (len(content) - len(self._header)) // (self._row_bytes + _KEY_BYTES)
        rows = np.frombuffer(content, self.dtype, count * self._num_items, len(self._header))
        mapped = content if isinstance(content, mmap.mmap) else None
        return _Chunk(start, rows.reshape(count, -1), mapped)

    def _hold(self, start: int, pieces: list[npt.NDArray[Any]], path: Path | None) -> list[_Chunk]:
        """Return the rows as one chunk, in memory if they fit, else mapped from `path`; nothing if neither can be."""
        num_bytes = sum(piece.nbytes for piece in pieces)
        if self._cache.fits_memory(num_bytes):
            self.memory_bytes += num_bytes
            return [_Chunk(start, np.concatenate(pieces))]
        if path is not None:
            with suppress(OSError), path.open("rb") as file:
                return [self._chunk_from(map_file(file), start)]
        return []

    def _store_shard(self, pieces: list[npt.NDArray[Any]], keys: list[bytes]) -> Path | None:
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
            limit = readable(self._cache.limit_bytes)
            reason = f"they would pass the limit of {limit} in {self._cache.folder} (HEADSTART_CACHE_LIMIT)"
        except OSError as error:
            reason = f"{file_error('write to', self._cache.folder, error)} (HEADSTART_CACHE)"
        self.note = f"further features are not stored: {reason}"
        return None


def packed_keys(keys: Sequence[RowKey]) -> list[bytes]:
    """Return keys as they are stored: 32 bytes of a digest and 8 of a number each.

    Raises:
        ValueError: A digest has another length.
    """
    packed = []
    for digest, view in keys:
        key = digest + int(view).to_bytes(8, "little")
        if len(key) != _KEY_BYTES:
            raise ValueError("a row is named by a SHA-256 of 32 bytes and a view")
        packed.append(key)
    return packed
