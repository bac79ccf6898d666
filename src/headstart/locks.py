"""Locks on files: evidence that a process which writes somewhere is alive.

The system frees a lock when its process ends, also by a kill. So a lock says more than the number of a process, which
may have been given to another one since, or be that of another machine on a shared disk.
"""

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from filelock import BaseFileLock


def try_lock(file: Path) -> "BaseFileLock | None":
    """Lock a file, which is created where it is missing.

    Returns:
        The lock, or None where another process or thread holds it.

    Raises:
        OSError: The file cannot be opened, or the file system knows no locks.
    """
    from filelock import FileLock, Timeout  # many commands write nothing, and start sooner without it

    lock = FileLock(file, thread_local=False)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return None
    return lock


@contextmanager
def holding(file: Path) -> Iterator[str | None]:
    """Hold the lock on a file as long as the block runs; the file is removed afterwards.

    Yields:
        None; or, where another process or thread holds it, who that is, such as `process 12 on host`. Where the folder
        cannot be written to or knows no locks, nobody is kept out.
    """
    who = _named_in(file)
    try:
        lock = try_lock(file)
    except OSError:
        yield None
        return
    if lock is None:
        yield who
        return
    try:
        with suppress(OSError):
            file.write_text(f"process {os.getpid()} on {platform.node()}\n", encoding="utf-8")
        yield None
    finally:
        # A lock is never taken on a file without a name, so whoever waits begins with a new file.
        with suppress(OSError):
            file.unlink()
        lock.release()


def holder(file: Path) -> str | None:
    """Say who holds the lock on a file, such as `process 12 on host`; None where nobody does. Nothing is created."""
    if not file.exists():
        return None
    who = _named_in(file)
    try:
        lock = try_lock(file)
    except OSError:
        return None
    if lock is None:
        return who
    lock.release()
    return None


def _named_in(file: Path) -> str:
    text = ""
    with suppress(OSError, ValueError):
        text = file.read_text(encoding="utf-8").strip()
    return text or "another process"
