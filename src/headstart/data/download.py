"""Fetch a file and unpack an archive, trusting neither the connection nor the archive."""

import hashlib
import http.client
import ssl
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from email.message import Message
from pathlib import Path, PurePosixPath

from headstart.errors import DownloadError
from headstart.files import whole_folder
from headstart.types import Progress

_BLOCK = 1 << 18
_TIMEOUT_S = 30.0
_WAIT_S = 1.0  # between two words to people while another process downloads the same file
_ATTEMPTS = 3
# Far above any archive of the catalogue (hotdog.zip: 200 MB, 2,800 files), far below what fills a disk.
MAX_BYTES = 20 * 10**9
MAX_MEMBERS = 2_000_000
MAX_RATIO = 200


def download(url: str, target: Path, *, sha1: str | None = None, progress: Progress | None = None) -> str:
    """Fetch `url` into `target`, going on where an earlier attempt stopped; the file appears whole or not at all.

    Where another process is fetching the same file, this one waits for it and takes that file.

    Args:
        url: Address of the file.
        target: Path to write; a file that is there already is only checked.
        sha1: SHA-1 that its content must have, where that is published.
        progress: Told what is done, the bytes so far, and the bytes in all (0: not known); whatever it raises ends the
            download.

    Returns:
        The SHA-256 of the content.

    Raises:
        DownloadError: It cannot be fetched, or the content is not the one expected.
    """
    if not target.exists():
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with _sole_download(target, progress):
                if not target.exists():  # else it came while this process waited
                    _fetch_whole(url, target, sha1, progress)
        except OSError as error:
            raise DownloadError(f"cannot write {target}: {error.strerror or error}; make room and try again") from error
    if sha1 is not None:
        found = _digest(target, "sha1")
        if found != sha1:  # perhaps put there by hand: not ours to delete
            raise DownloadError(f"{target} has SHA-1 {found}; expected {sha1}; delete it and try again")
    return _digest(target, "sha256")


@contextmanager
def _sole_download(target: Path, progress: Progress | None) -> Iterator[None]:
    """Hold the lock on a file that is to be fetched; the system frees it when a process ends or is killed."""
    from filelock import FileLock, Timeout  # most commands fetch nothing, and start sooner without it

    path = target.with_name(f".{target.name}.lock")
    lock = FileLock(path)
    while not lock.is_locked:
        try:
            lock.acquire(timeout=_WAIT_S)
        except Timeout:
            if progress is not None:
                progress(f"waiting for another download of {target.name}", 0, 0)
    try:
        yield
    finally:
        # FileLock takes no lock on a file without a name, so whoever waits begins with a new file.
        with suppress(OSError):
            path.unlink()
        lock.release()


def _fetch_whole(url: str, target: Path, sha1: str | None, progress: Progress | None) -> None:
    """Fetch a file under another name, which it loses once it is whole and checked."""
    part = target.with_name(f".{target.name}.part")
    _fetch(url, part, target, progress)
    if sha1 is not None:
        found = _digest(part, "sha1")
        if found != sha1:
            part.unlink()
            raise DownloadError(
                f"{url} gave a file with SHA-1 {found}; expected {sha1}. It was deleted. Try again, or download the "
                f"right file in another way and put it at {target}"
            )
    part.replace(target)


def _digest(path: Path, algorithm: str) -> str:
    """Return the hash of a file's content, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def _fetch(url: str, part: Path, target: Path, progress: Progress | None) -> None:
    """Fetch a file, and try again where the connection ends; each try goes on where the last one stopped."""
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
        f"cannot download {url}: {problem}; try again (it goes on where it stopped), or download the file in another "
        f"way and put it at {target}"
    ) from problem


def _fetch_rest(url: str, part: Path, name: str, progress: Progress | None) -> bool:
    """Append what is missing of a file, and tell whether it is whole."""
    tag = part.with_suffix(".etag")
    have = 0
    if part.exists() and tag.exists():
        have = part.stat().st_size
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
        length = int(response.headers.get("Content-Length") or 0)
        total = have + length
        _keep_tag(tag, response.headers)
        mode = "ab" if have else "wb"
        with part.open(mode) as file:
            while block := response.read(_BLOCK):
                file.write(block)
                have += len(block)
                if progress is not None:
                    progress(f"bytes of {name}", have, total)

    is_whole = not length or have == total
    if is_whole:
        tag.unlink(missing_ok=True)
    return is_whole


def _keep_tag(tag: Path, headers: Message) -> None:
    """Keep what tells one version of the file from another, where the server says so for certain."""
    version = headers.get("ETag") or headers.get("Last-Modified")
    if version and not version.startswith("W/"):
        tag.write_text(version)
    else:
        tag.unlink(missing_ok=True)


def extract_zip(archive: Path, folder: Path) -> Path:
    """Unpack an archive into a folder that appears whole or not at all.

    Refuses members outside the folder, absolute paths, links and special files, and archives that unpack to more than
    `MAX_BYTES`, `MAX_MEMBERS` or `MAX_RATIO` times their size; the bytes written are counted, not those declared.

    Returns:
        The folder.

    Raises:
        DownloadError: The archive is damaged or refused, or there is no room.
    """
    try:
        with zipfile.ZipFile(archive) as content, whole_folder(folder) as whole:
            _extract_members(content, whole, MAX_RATIO * max(archive.stat().st_size, 10_000), archive)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise DownloadError(f"{archive} is damaged or no plain zip file ({error}); delete it and try again") from error
    except OSError as error:
        raise DownloadError(f"cannot unpack {archive} into {folder}: {error.strerror or error}; make room") from error
    return folder


def _extract_members(content: zipfile.ZipFile, folder: Path, budget: int, archive: Path) -> None:
    """Write the members of an archive, and refuse it as soon as they are more bytes than `budget`."""
    members = content.infolist()
    budget = min(budget, MAX_BYTES)
    if len(members) > MAX_MEMBERS:
        raise DownloadError(f"{archive} has {len(members)} members; more than {MAX_MEMBERS} are refused")
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
    """Return the path of a member below the folder; refuse one that is outside of it, or no plain file or folder."""
    name = PurePosixPath(member.filename.replace("\\", "/"))
    kind = (member.external_attr >> 16) & 0o170000
    if name.is_absolute() or ".." in name.parts or ":" in member.filename or not name.parts:
        raise DownloadError(f"{archive} has a member outside its folder: {member.filename!r}; refused")
    if kind not in (0, 0o100000, 0o040000):
        raise DownloadError(f"{archive} has a link or special file: {member.filename!r}; refused")
    return name
