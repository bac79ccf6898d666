"""Computed feature rows on disk, named by content: never a wrong number, at worst one computed again.

    folder/<key[:2]>/<key>/<SHA-256 of the file>.rows     shards: header, rows, keys; written once, never changed

A shard counts only if its content hashes to its own name and its header names the table, so a truncated, altered or
foreign file is no shard. Shards appear by renaming, so processes need no locks: two that compute the same row store it
twice, and either copy is right. Importing this module loads no torch.
"""

import os
import re
import shutil
from contextlib import suppress
from pathlib import Path
from typing import final
from weakref import WeakValueDictionary

import numpy as np
import numpy.typing as npt

from headstart.features.limits import default_cache_folder, default_memory_bytes, limit_setting
from headstart.features.shards import children, delete_table, last_use, nearest_existing, stored_bytes
from headstart.features.table import FeatureTable
from headstart.files import remove_leftovers


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
            limit_bytes = min(limit_setting(), self._capacity_bytes() * 4 // 5)
        self.limit_bytes = limit_bytes
        self.memory_bytes = default_memory_bytes() if memory_bytes is None else memory_bytes
        self._open: WeakValueDictionary[str, FeatureTable] = WeakValueDictionary()

    def open(self, key: str, shape: tuple[int, ...], dtype: npt.DTypeLike) -> FeatureTable:
        """Return a table with all its rows that are whole on disk; damaged and left-over files are removed.

        A table that is open already is returned again, with the rows that others have stored since.

        Args:
            key: 8 to 128 hexadecimal digits that say how rows are computed (weights, preprocessing, versions).
            shape: Shape of one row.
            dtype: Type of the numbers of a row.

        Raises:
            ValueError: The key is not hexadecimal, or the table is open with another shape or type.
            CacheFullError: Rows of it that waited to be written fit neither on disk nor in memory; they are forgotten.
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
        is_writable = os.access(nearest_existing(self.folder), os.W_OK | os.X_OK)
        if is_writable and num_bytes + kept_bytes <= min(self.limit_bytes, self._capacity_bytes()):
            return True
        return self.fits_memory(num_bytes)

    def fits_memory(self, num_bytes: int) -> bool:
        """Tell whether so many more bytes may be held in memory."""
        held_bytes = sum(table.memory_bytes for table in self._open.values())
        return held_bytes + num_bytes <= self.memory_bytes

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

        # Those that nobody here uses come first, and of these the ones used least recently.
        tables = sorted(self._table_folders(), key=lambda folder: (folder.name in self._open, last_use(folder)))
        for folder in tables:
            remove_leftovers(folder)

        excess = sum(map(stored_bytes, tables)) + num_bytes - self.limit_bytes
        for folder in tables:
            if excess > 0 and folder != table_folder:
                excess -= delete_table(folder)
        return excess <= 0

    def _table_folders(self) -> list[Path]:
        tables: list[Path] = []
        for start in children(self.folder, "[0-9a-f]{2}"):
            tables += children(start, start.name + "[0-9a-f]{6,126}")
        return tables

    def _capacity_bytes(self) -> int:
        """Return what is free on the disk and what the cache holds there, bytes."""
        free = 0
        with suppress(OSError):
            free = shutil.disk_usage(nearest_existing(self.folder)).free
        return free + sum(map(stored_bytes, self._table_folders()))
