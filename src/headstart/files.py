"""Files and folders that are whole or not there, and errors of the file system in one line."""

import csv
import errno
import io
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from headstart.errors import RunError
from headstart.locks import try_lock

if TYPE_CHECKING:
    from filelock import BaseFileLock

_HINTS = {
    errno.ENOSPC: "free some space, or choose a folder on another disk",
    errno.EDQUOT: "free some of your quota, or choose a folder on another disk",
    errno.EACCES: "choose a folder that you may write to",
    errno.EPERM: "choose a folder that you may write to",
    errno.EROFS: "choose a folder that you may write to",
    errno.ENAMETOOLONG: "choose a shorter name",
}
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
_TAKEN_AWAY = {errno.ENOENT, errno.EEXIST}  # of a folder that another process removes while a file is opened in it


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
    """Give a path to write to, as `whole_file` does, but raise an error for people.

    Raises:
        RunError: The file system failed in the block, or when the file took its place.
    """
    try:
        with whole_file(path) as temporary:
            yield temporary
    except OSError as error:
        raise file_error("write", path, error) from error


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a hidden path with the name of `path` to write to; the file takes its place if the block succeeds.

    Its content is on the disk before it takes the name, so that a power cut leaves the old or the new content.

    Raises:
        OSError: The file system failed; `path` is then as it was.
    """
    with _work_folder(path.parent) as hidden:
        temporary = hidden / _NEW / path.name
        yield temporary
        _sync_file(temporary)
        os.replace(temporary, path)
        sync_folder(path.parent)


@contextmanager
def whole_files(folder: Path) -> Iterator[Path]:
    """Give an empty hidden folder to fill; its files take their places in `folder` if the block succeeds.

    Each is whole. A kill while they are moved may leave some of them in their places, in the order of their names.

    Raises:
        OSError: The file system failed.
    """
    with _work_folder(folder) as hidden:
        new = hidden / _NEW
        yield new
        files = sorted(new.iterdir())
        for file in files:
            _sync_file(file)
        for file in files:
            os.replace(file, folder / file.name)
        sync_folder(folder)


@contextmanager
def whole_folder(folder: Path, *, if_there: Literal["keep", "refuse", "replace"] = "keep") -> Iterator[Path]:
    """Give an empty hidden folder to fill; it takes the name `folder` if the block succeeds.

    Args:
        folder: What is to be whole or not there; missing parents are created, and an empty one gives way.
        if_there: What becomes of a folder with something in it: it stays and the new one is dropped, because another
            process was quicker; or that is an error; or it is replaced, once the new one is complete.

    Raises:
        FileExistsError: Something is there, and it is to be refused.
        OSError: The file system failed; `folder` is then as it was.
    """
    make_folder(folder.parent)
    with _work_folder(folder.parent) as hidden:
        new = hidden / _NEW / folder.name
        new.mkdir()
        yield new
        sync_folder(new)
        old = hidden / _OLD / folder.name
        if if_there == "replace" and folder.exists():
            old.parent.mkdir()
            folder.rename(old)
        try:
            new.rename(folder)
        except OSError as error:
            _put_back(hidden)
            # The system itself refuses to rename onto a folder that is not empty.
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            if if_there != "keep":
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(folder)) from error
        sync_folder(folder.parent)


# While something is being written beside its place, it lies in a hidden folder there:
#
#     .headstart-XXXXXXXX/lock         locked by the writer as long as it lives
#                         new/NAME     what takes the place
#                         old/NAME     a folder that gives its place away
#
# Without a writer that is alive it was left behind by a kill.
_PREFIX = ".headstart-"
_LOCK = "lock"
_NEW = "new"
_OLD = "old"


@contextmanager
def _work_folder(parent: Path) -> Iterator[Path]:
    """Give a hidden folder with an empty folder `new` in it; it is gone after the block."""
    remove_leftovers(parent)
    hidden, lock = _locked_folder(parent)
    try:
        (hidden / _NEW).mkdir()
        yield hidden
    finally:
        shutil.rmtree(hidden, ignore_errors=True)
        if lock is not None:
            lock.release()


def _locked_folder(parent: Path) -> "tuple[Path, BaseFileLock | None]":
    """Create a hidden folder and lock it; the lock is None where the file system knows no locks.

    Before it is locked, another process may take it for one that was left behind, and remove it; then another is made.
    """
    while True:
        hidden = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        try:
            lock = try_lock(hidden / _LOCK)
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return hidden, None
            shutil.rmtree(hidden, ignore_errors=True)
            if error.errno not in _TAKEN_AWAY:
                raise
            continue
        if lock is not None:
            return hidden, lock


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes left in a folder while they wrote there; a folder half replaced is put back.

    What a living process holds stays, and so does what another user owns, and what may be somebody else's.
    """
    name_of_ours = re.compile(rf"{re.escape(_PREFIX)}\w{{8}}")
    with suppress(OSError), os.scandir(folder) as entries:
        found = [Path(entry) for entry in entries if name_of_ours.fullmatch(entry.name)]
        for hidden in found:
            with suppress(OSError):
                _remove_abandoned(hidden)


def _remove_abandoned(hidden: Path) -> None:
    """Remove a hidden folder that no living process holds, and put back what it had moved away."""
    names = {entry.name for entry in hidden.iterdir()}
    if not names <= {_LOCK, _NEW, _OLD}:
        return  # not ours, whatever its name
    lock = try_lock(hidden / _LOCK)
    if lock is None:
        return
    try:
        _put_back(hidden)
        shutil.rmtree(hidden, ignore_errors=True)
    finally:
        lock.release()


def _put_back(hidden: Path) -> None:
    """Give the folder that was moved away its place again, unless something has taken it."""
    with suppress(OSError):
        for old in (hidden / _OLD).iterdir():
            old.rename(hidden.parent / old.name)


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
    """Return rows as CSV with a header. There is at least one row, and all have the same keys."""
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
        make_folder(path.parent)
    except OSError as error:
        raise file_error("create", path.parent, error) from error


def make_folder(folder: Path) -> None:
    """Create a folder, and those missing above it, so that their names last through a power cut (OSError)."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for each in missing:
        sync_folder(each.parent)


def write_synced(path: Path, data: bytes | str) -> None:
    """Write a new file and bring its content to the disk; a part may be left behind on an error (OSError)."""
    with path.open("wb") as file:
        file.write(_as_bytes(data))
        file.flush()
        os.fsync(file.fileno())


def _sync_file(path: Path) -> None:
    """Bring a file's content to the disk (OSError)."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _as_bytes(data: bytes | str) -> bytes:
    """Return text in UTF-8, and bytes as they are."""
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
    """Return an error that says in one line what could not be done, where, why, and what to do."""
    reason = error.strerror or str(error)
    hint = _HINTS.get(error.errno or 0, "check the disk and the path")
    return RunError(f"cannot {action} {path}: {reason.lower()}; {hint}")
