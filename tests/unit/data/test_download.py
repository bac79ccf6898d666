"""Against a real server on this machine, and real archives that mean harm."""

import hashlib
import http.server
import io
import os
import subprocess
import sys
import threading
import zipfile
from concurrent.futures import CancelledError

import pytest

from headstart.data import download as module
from headstart.data.download import download, extract_zip
from headstart.errors import DownloadError

CONTENT = os.urandom(1_500_000)
SHA1 = hashlib.sha1(CONTENT).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Serves CONTENT; what it does wrong can be set."""

    understands_range, breaks_after, etag, chunked, skips = True, None, '"one"', False, 0

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.ranges = []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/set.zip"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server, start = self.server, 0
        wanted = self.headers.get("Range")
        server.ranges.append(wanted)
        if self.path != "/set.zip":
            self.send_error(404)
            return
        if wanted and server.understands_range and self.headers.get("If-Range") == server.etag:
            start = int(wanted.removeprefix("bytes=").rstrip("-")) + server.skips
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}")
        else:
            self.send_response(200)
        body = CONTENT[start:]
        if server.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", server.etag)
        self.end_headers()
        if server.breaks_after is not None:
            body, server.breaks_after = body[: server.breaks_after], None
        if server.chunked:  # the end of a chunk that never comes: the connection breaks within it
            self.wfile.write(b"%x\r\n" % len(CONTENT))
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield running
        running.shutdown()


def test_it_downloads_checks_and_reports(server, tmp_path):
    seen = []
    target = tmp_path / "new" / "set.zip"
    sha256 = download(server.url, target, sha1=SHA1, progress=lambda *step: seen.append(step))
    assert target.read_bytes() == CONTENT
    assert sha256 == hashlib.sha256(CONTENT).hexdigest()
    assert seen[-1] == ("bytes of set.zip", len(CONTENT), len(CONTENT))
    assert [path.name for path in target.parent.iterdir()] == ["set.zip"]  # no part, no lock


def test_a_broken_connection_is_gone_on_with(server, tmp_path):
    server.breaks_after = 600_000
    download(server.url, tmp_path / "set.zip", sha1=SHA1)
    assert server.ranges == [None, "bytes=600000-"]


def test_an_interrupted_download_is_gone_on_with_later(server, tmp_path, monkeypatch):
    server.breaks_after = 700_000
    monkeypatch.setattr(module, "_ATTEMPTS", 1)
    with pytest.raises(DownloadError, match="goes on where it stopped"):
        download(server.url, tmp_path / "set.zip")
    assert not (tmp_path / "set.zip").exists()
    download(server.url, tmp_path / "set.zip", sha1=SHA1)
    assert server.ranges[-1] == "bytes=700000-"


def test_a_cancelled_download_stops_at_once_and_is_gone_on_with_later(server, tmp_path):
    def cancel(title, done, total):
        raise CancelledError

    with pytest.raises(CancelledError):
        download(server.url, tmp_path / "set.zip", progress=cancel)
    assert not (tmp_path / "set.zip").exists()
    download(server.url, tmp_path / "set.zip", sha1=SHA1)
    assert server.ranges == [None, f"bytes={module._BLOCK}-"]


@pytest.mark.parametrize("change", ["no range", "new content"])
def test_a_rest_that_does_not_fit_is_not_appended(server, tmp_path, monkeypatch, change):
    server.breaks_after = 500_000
    monkeypatch.setattr(module, "_ATTEMPTS", 1)
    with pytest.raises(DownloadError):
        download(server.url, tmp_path / "set.zip")
    if change == "no range":
        server.understands_range = False
    else:
        server.etag = '"two"'
    download(server.url, tmp_path / "set.zip", sha1=SHA1)
    assert (tmp_path / "set.zip").read_bytes() == CONTENT


def test_a_rest_from_the_wrong_place_is_thrown_away(server, tmp_path):
    server.breaks_after, server.skips = 500_000, 10
    download(server.url, tmp_path / "set.zip", sha1=SHA1)
    assert server.ranges == [None, "bytes=500000-", None]


def test_a_stream_that_breaks_is_an_error_in_words(server, tmp_path):
    server.chunked, server.breaks_after = True, 400_000
    with pytest.raises(DownloadError, match="cannot download"):
        download(server.url, tmp_path / "set.zip", sha1=SHA1)
    assert not (tmp_path / "set.zip").exists()


def test_what_a_killed_process_left_is_taken_over(server, tmp_path):
    part, lock, tag = (tmp_path / f".set.zip.{end}" for end in ("part", "lock", "etag"))
    script = f"""
from pathlib import Path
from headstart.data.download import _sole_download
import os, signal
with _sole_download(Path({str(tmp_path / "set.zip")!r}), None):
    Path({str(part)!r}).write_bytes(b"")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", script], check=False)
    assert part.exists()
    assert lock.exists()
    part.write_bytes(CONTENT[:300_000])
    tag.write_text(server.etag)
    download(server.url, tmp_path / "set.zip", sha1=SHA1)
    assert server.ranges == ["bytes=300000-"]
    assert [path.name for path in tmp_path.iterdir()] == ["set.zip"]


def test_a_wrong_file_is_deleted_and_said(server, tmp_path):
    with pytest.raises(DownloadError, match=f"SHA-1 {SHA1}; expected 0000"):
        download(server.url, tmp_path / "set.zip", sha1="0" * 40)
    assert list(tmp_path.iterdir()) == []


def test_a_file_brought_by_hand_is_checked_too(server, tmp_path):
    (tmp_path / "set.zip").write_bytes(CONTENT)
    download("http://127.0.0.1:1/set.zip", tmp_path / "set.zip", sha1=SHA1)
    (tmp_path / "set.zip").write_bytes(b"other")
    with pytest.raises(DownloadError, match="expected"):
        download("http://127.0.0.1:1/set.zip", tmp_path / "set.zip", sha1=SHA1)
    assert (tmp_path / "set.zip").exists()  # the user's own file


@pytest.mark.parametrize("path", ["missing.zip", None])
def test_what_is_not_there_names_the_way_out(server, tmp_path, path):
    url = server.url.replace("set.zip", path) if path else "http://127.0.0.1:1/set.zip"
    with pytest.raises(DownloadError, match="download the file in another way and put it at"):
        download(url, tmp_path / "set.zip")


def test_several_at_once_fetch_it_once(server, tmp_path):
    threads = [threading.Thread(target=download, args=(server.url, tmp_path / "set.zip")) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "set.zip").read_bytes() == CONTENT
    assert server.ranges == [None]
    assert [path.name for path in tmp_path.iterdir()] == ["set.zip"]


def test_who_waits_for_another_process_is_told_and_can_stop(server, tmp_path, monkeypatch):
    target = tmp_path / "set.zip"
    monkeypatch.setattr(module, "_WAIT_S", 0.01)
    seen = []

    def stop_at_the_third(*step):
        seen.append(step)
        if len(seen) == 3:
            raise CancelledError

    with module._sole_download(target, None):
        with pytest.raises(CancelledError):
            download(server.url, target, progress=stop_at_the_third)
        assert seen == [("waiting for another download of set.zip", 0, 0)] * 3
        assert server.ranges == []
    download(server.url, target, sha1=SHA1)
    assert target.read_bytes() == CONTENT


def archive(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content, mode in members:
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            file.writestr(info, content)
    return path


def test_extraction_makes_the_whole_folder(tmp_path):
    source = archive(
        tmp_path / "a.zip", [("set/", b"", 0o040755), ("set/a/1.txt", b"one", 0o100644), ("b.txt", b"two", 0)]
    )
    folder = extract_zip(source, tmp_path / "out")
    assert (folder / "set" / "a" / "1.txt").read_bytes() == b"one"
    assert (folder / "b.txt").read_bytes() == b"two"


@pytest.mark.parametrize(
    ("name", "mode", "message"),
    [
        ("../evil.txt", 0o100644, "outside its folder"),
        ("a/../../evil.txt", 0o100644, "outside its folder"),
        ("/etc/evil.txt", 0o100644, "outside its folder"),
        ("..\\evil.txt", 0o100644, "outside its folder"),
        ("C:\\evil.txt", 0o100644, "outside its folder"),
        ("link", 0o120777, "link or special"),
        ("pipe", 0o010644, "link or special"),
    ],
)
def test_members_that_mean_harm_are_refused(tmp_path, name, mode, message):
    source = archive(tmp_path / "a.zip", [("good.txt", b"x", 0o100644), (name, b"/etc/passwd", mode)])
    with pytest.raises(DownloadError, match=message):
        extract_zip(source, tmp_path / "deep" / "out")
    assert {path.name for path in tmp_path.rglob("*")} == {"a.zip", "deep"}


def test_bombs_are_refused_by_what_they_unpack_to(tmp_path, monkeypatch):
    bomb = archive(tmp_path / "a.zip", [("zeros", b"\0" * 40_000_000, 0)])
    monkeypatch.setattr(module, "MAX_RATIO", 100)
    with pytest.raises(DownloadError, match="far more"):
        extract_zip(bomb, tmp_path / "out")
    many = archive(tmp_path / "b.zip", [(f"{i}", b"", 0) for i in range(50)])
    monkeypatch.setattr(module, "MAX_MEMBERS", 49)
    with pytest.raises(DownloadError, match="50 members"):
        extract_zip(many, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_damaged_archive_is_an_error_in_words(tmp_path, compression):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", compression) as file:
        file.writestr("a.bin", bytes(range(256)) * 50)
    damaged = bytearray(content.getvalue())
    damaged[100] ^= 0xFF  # within the data: only the CRC, or the decompressor, can tell
    (tmp_path / "a.zip").write_bytes(damaged)
    for broken in (tmp_path / "a.zip", tmp_path / "b.zip"):
        broken.write_bytes(broken.read_bytes() if broken.exists() else b"not a zip")
        with pytest.raises(DownloadError, match="damaged"):
            extract_zip(broken, tmp_path / "out")
    assert not (tmp_path / "out").exists()
