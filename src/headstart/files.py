"""Files and folders that are whole or not there, and errors of the file system in one line."""

import csv
import errno
import io
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from headstart.errors import RunError

_HINTS = {
    errno.ENOSPC: "free some space, or choose a folder on another disk",
    errno.EDQUOT: "free some of your quota, or choose a folder on another disk",
    errno.EACCES: "choose a folder that you may write to",
    errno.EPERM: "choose a folder that you may write to",
    errno.EROFS: "choose a folder that you may write to",
    errno.ENAMETOOLONG: "choose a shorter name",
}


def may_exist(path: str | Path) -> bool:
    """Tell whether something has this path: also a link that leads nowhere, and what a closed folder may hold."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:  # whoever opens it gets the reason
        return True
    return True


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write a file so that a reader sees the old or the new content, never a part, even after a power cut.

    Raises:
        RunError: It cannot be written; the old content is then untouched.
    """
    with atomic_path(path) as temporary:
        temporary.write_bytes(_as_bytes(data))


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give the path of a hidden file beside `path` to write to; it takes the name `path` if the block succeeds.

    Raises:
        RunError: The block, or the renaming, met an error of the file system.
    """
    try:
        with whole_file(path) as temporary:
            yield temporary
    except OSError as error:
        raise file_error("write", path, error) from error


@contextmanager
def whole_file(path: Path, temporary: Path | None = None) -> Iterator[Path]:
    """Give the path of a hidden file beside `path` to write to; it takes the name `path` if the block succeeds.

    Its content is on the disk before it takes the name, so that a power cut leaves the old or the new content.

    Args:
        path: What is to be whole or not there.
        temporary: The hidden file, where its name matters.

    Raises:
        OSError: The file system failed; `path` is then as it was.
    """
    if temporary is None:
        temporary = path.with_name(f".{path.name[:80]}.{os.getpid()}.tmp")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def whole_folder(folder: Path, *, replace: bool = False) -> Iterator[Path]:
    """Give an empty folder to fill, hidden beside `folder`; it takes the name `folder` if the block succeeds.

    Args:
        folder: What is to be whole or not there; missing parents are created.
        replace: Whether what is there gives way, once the new folder is complete. Otherwise a folder with something in
            it stays and the new one is dropped: another process was quicker.

    Raises:
        OSError: The file system failed; `folder` is then as it was.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{folder.name[:80]}-"
    with tempfile.TemporaryDirectory(prefix=prefix, dir=folder.parent, ignore_cleanup_errors=True) as hidden:
        new, old = Path(hidden) / "new", Path(hidden) / "old"
        new.mkdir()  # a temporary folder itself is private, unlike the rest
        yield new
        sync_folder(new)
        if folder.exists():
            if not replace and any(folder.iterdir()):
                return
            folder.rename(old)
        try:
            new.rename(folder)
        except OSError:
            if old.exists():
                old.rename(folder)
            raise
        sync_folder(folder.parent)


def write_json(path: Path, value: Any) -> None:
    """Write plain values as indented JSON, atomically.

    Raises:
        ValueError: A figure is NaN or infinite, which JSON cannot say; use None.
        RunError: It cannot be written.
    """
    write_atomic(path, dump_json(value))


def dump_json(value: Any) -> str:
    """Return plain values as indented JSON that ends in a newline.

    Raises:
        ValueError: A figure is NaN or infinite, which JSON cannot say; use None.
    """
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows of the same keys, one at least, as CSV with a header."""
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def make_parent(path: Path) -> None:
    """Create the folder that a file goes into, if it is not there yet.

    Raises:
        RunError: It cannot be created.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise file_error("create", path.parent, error) from error


def write_synced(path: Path, data: bytes | str) -> None:
    """Write a new file and bring its content to the disk; a part may be left behind on an error (OSError)."""
    with path.open("wb") as file:
        file.write(_as_bytes(data))
        file.flush()
        os.fsync(file.fileno())


def _as_bytes(data: bytes | str) -> bytes:
    return data.encode("utf-8") if isinstance(data, str) else data


def sync_folder(folder: Path) -> None:
    """Make the names in a folder last through a power cut, where the file system can."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def file_error(action: str, path: Path, error: OSError) -> RunError:
    """Say in one line what could not be done, where, why, and what to do."""
    hint = _HINTS.get(error.errno or 0, "check the disk and the path")
    return RunError(f"cannot {action} {path}: {(error.strerror or str(error)).lower()}; {hint}")
