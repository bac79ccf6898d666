"""Fetch a file and unpack an archive, trusting neither the connection nor the archive."""

import hashlib
import http.client
import os
import ssl
import sys
import tempfile
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import TextIO

from headstart.errors import DownloadError

Progress = Callable[[str, int, int], None]

_BLOCK = 1 << 18
_TIMEOUT_S = 30.0
_ATTEMPTS = 3
# Far above any archive of the catalogue (hotdog.zip: 200 MB, 2,800 files), far below what fills a disk.
MAX_BYTES = 20 * 10**9
MAX_MEMBERS = 2_000_000
MAX_RATIO = 200


def download(url: str, target: Path, *, sha1: str | None = None, progress: Progress | None = None) -> str:
    """Fetch `url` into `target`, going on where an earlier attempt stopped; the file appears whole or not at all.

    Args:
        url: Where from.
        target: The file; one that is there already is only checked.
        sha1: What its content must hash to, where that is published.
        progress: Told what is done, bytes so far, and bytes in all or 0; whatever it raises ends the download.

    Returns:
        The SHA-256 of the content.

    Raises:
        DownloadError: It cannot be fetched, or the content is not the one expected.
    """
    if not target.exists():
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            # One part file per process: two downloads at once must not write into each other.
            with _claimed_part(target) as part:
                _fetch(url, part, target, progress)
                found = _check(part, sha1, url, target)
                part.replace(target)
                return found
        except OSError as error:
            raise DownloadError(f"cannot write {target}: {error.strerror or error}; make room and try again") from error
    return _check(target, sha1, url, target)


@contextmanager
def _claimed_part(target: Path) -> Iterator[Path]:
    """Give a part file that nobody else is writing, an abandoned one first; it is ours until the block ends."""
    for number in range(100):
        part = target.with_name(f".{target.name}.{number}.part")
        lock = part.with_suffix(".lock")
        with lock.open("a") as handle:
            # Whoever had the lock deletes its file at the end: a lock on a deleted file protects nothing.
            if not _can_lock(handle) or not _is_at(handle, lock):
                continue
            try:
                yield part
            finally:
                with suppress(OSError):
                    lock.unlink()
            return
    raise DownloadError(f"too many downloads of {target.name} at once; delete {target.parent}/.{target.name}.*")


def _is_at(handle: TextIO, path: Path) -> bool:
    return path.exists() and os.path.samestat(os.fstat(handle.fileno()), path.stat())


def _can_lock(handle: TextIO) -> bool:
    """Try to lock a file; the system unlocks it when it is closed, also by a process that is killed."""
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(handle.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _fetch(url: str, part: Path, target: Path, progress: Progress | None) -> None:
    problem: Exception | None = None
    for _ in range(_ATTEMPTS):
        try:
            if _fetch_rest(url, part, target.name, progress):
                return
            problem = ConnectionError("the connection ended early")
        except urllib.error.HTTPError as error:
            problem = error
            if error.code == 416:  # the part is as long as the file, or the file has changed: begin again
                part.unlink(missing_ok=True)
            elif error.code < 500:
                break
        except (urllib.error.URLError, http.client.HTTPException, ssl.SSLError, ConnectionError, TimeoutError) as error:
            problem = error
            if not part.exists() and isinstance(getattr(error, "reason", None), OSError):
                break  # no such host, or refused: asking again at once does not help
    raise DownloadError(
        f"cannot download {url}: {problem}; try again (it goes on where it stopped), or bring the file yourself and "
        f"put it at {target}"
    ) from problem


def _fetch_rest(url: str, part: Path, name: str, progress: Progress | None) -> bool:
    """Append what is missing; return whether the file is whole."""
    tag = part.with_suffix(".etag")
    have = part.stat().st_size if part.exists() and tag.exists() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "headstart"})
    if have:
        # A server whose file has changed since sends all of the new one instead of a rest that does not fit.
        request.add_header("Range", f"bytes={have}-")
        request.add_header("If-Range", tag.read_text())
    with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as response:
        if response.status != 206:
            have = 0
        elif not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            part.unlink()
            raise ConnectionError("the server sent another part of the file than the one asked for")
        total = have + int(response.headers.get("Content-Length") or 0)
        validator = response.headers.get("ETag") or response.headers.get("Last-Modified")
        if validator and not validator.startswith("W/"):
            tag.write_text(validator)
        else:
            tag.unlink(missing_ok=True)
        with part.open("ab" if have else "wb") as file:
            while block := response.read(_BLOCK):
                file.write(block)
                have += len(block)
                if progress is not None:
                    progress(f"bytes of {name}", have, total)
    whole = not response.headers.get("Content-Length") or have == total
    if whole:
        tag.unlink(missing_ok=True)
    return whole


def _check(path: Path, sha1: str | None, url: str, target: Path) -> str:
    """Compare the published hash; return the SHA-256."""
    digests = hashlib.sha1(usedforsecurity=False), hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            for digest in digests:
                digest.update(block)
    if sha1 is not None and digests[0].hexdigest() != sha1:
        found = digests[0].hexdigest()
        if path == target:  # perhaps brought by hand: not ours to delete
            raise DownloadError(f"{target} has SHA-1 {found}; expected {sha1}; delete it and try again")
        path.unlink()
        raise DownloadError(
            f"{url} gave a file with SHA-1 {found}; expected {sha1}. It was deleted; try again, or bring the right "
            f"file and put it at {target}"
        )
    return digests[1].hexdigest()


def extract_zip(archive: Path, folder: Path) -> Path:
    """Unpack an archive into a folder that appears whole or not at all.

    Refuses members outside the folder, absolute paths, links and special files, and archives that unpack to more than
    `MAX_BYTES`, `MAX_MEMBERS` or `MAX_RATIO` times their size; the bytes written are counted, not those declared.

    Returns:
        The folder.

    Raises:
        DownloadError: The archive is damaged or refused, or there is no room.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        with (
            zipfile.ZipFile(archive) as content,
            tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary,
        ):
            whole = Path(temporary) / "content"
            _extract_members(content, whole, MAX_RATIO * max(archive.stat().st_size, 10_000), archive)
            if not folder.exists():  # another process may have been quicker
                whole.rename(folder)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise DownloadError(f"{archive} is damaged or no plain zip file ({error}); delete it and try again") from error
    except OSError as error:
        raise DownloadError(f"cannot unpack {archive} into {folder}: {error.strerror or error}; make room") from error
    return folder


def _extract_members(content: zipfile.ZipFile, folder: Path, budget: int, archive: Path) -> None:
    members = content.infolist()
    budget = min(budget, MAX_BYTES)
    if len(members) > MAX_MEMBERS:
        raise DownloadError(f"{archive} has {len(members)} members; more than {MAX_MEMBERS} are refused")
    folder.mkdir()
    for member in members:
        target = folder / _safe_name(member, archive)
        if member.is_dir():
            target.mkdir(parents=True, exist_ok=True)
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        with content.open(member) as source, target.open("xb") as file:
            while block := source.read(_BLOCK):
                budget -= len(block)
                if budget < 0:
                    raise DownloadError(f"{archive} unpacks to far more than an archive of its size should; refused")
                file.write(block)


def _safe_name(member: zipfile.ZipInfo, archive: Path) -> PurePosixPath:
    name = PurePosixPath(member.filename.replace("\\", "/"))
    kind = (member.external_attr >> 16) & 0o170000
    if name.is_absolute() or ".." in name.parts or ":" in member.filename or not name.parts:
        raise DownloadError(f"{archive} has a member outside its folder: {member.filename!r}; refused")
    if kind not in (0, 0o100000, 0o040000):
        raise DownloadError(f"{archive} has a link or special file: {member.filename!r}; refused")
    return name
