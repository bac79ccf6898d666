import os
import zipfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
import torch
from PIL import Image

from headstart.data import sources
from headstart.data.checks import change_of, fingerprint, unreadable_headers
from headstart.data.loading import ImageBatches
from headstart.data.manifest import Manifest, read_manifest, read_source, scan, write_manifest
from headstart.data.sources import FILES, SOURCES, FileSource, read_bytes, read_picture, restore_source, source_settings
from headstart.errors import DataError, UnreadableImageError
from headstart.types import InputSpec

SPEC = InputSpec(size=(32, 32), resize=36)


@dataclass(frozen=True)
class ZipSource:
    """A further kind of source, as a user of the interface would write it."""

    archive: str

    def open(self, key: str) -> BinaryIO:
        with zipfile.ZipFile(self.archive) as archive:
            try:
                return archive.open(key)  # type: ignore[return-value]
            except KeyError as error:
                raise FileNotFoundError(2, "no such file or directory") from error


@pytest.fixture
def files(image_folder: Path) -> Manifest:
    return scan(image_folder)[0]


@pytest.fixture
def zipped(files: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Manifest]:
    """The same images in an archive, under the same keys without their leading slash."""
    monkeypatch.setitem(sources.SOURCES, "zip", ZipSource)
    archive = tmp_path / "images.zip"
    with zipfile.ZipFile(archive, "w") as target:
        for record in files.records:
            target.write(record.key)
    records = tuple(replace(record, key=record.key.lstrip("/")) for record in files.records)
    return replace(files, records=records, source=ZipSource(str(archive)))


def written(manifest: Manifest, folder: Path) -> Path:
    path = folder / "manifest.parquet"
    write_manifest(manifest, path)
    return path


def test_a_further_source_is_a_class_and_a_row(files: Manifest, zipped: Manifest, tmp_path: Path) -> None:
    assert unreadable_headers(zipped.source, zipped.records, threads=2) == []
    assert fingerprint(zipped.source, zipped.records, threads=2) == fingerprint(FILES, files.records, threads=2)
    both = []
    for manifest in (files, zipped):
        settings = {"batch_size": 8, "augment": "strong", "shuffle": True, "seed": 3, "threads": 2}
        batches = ImageBatches(manifest.of_split("train"), SPEC, source=manifest.source, **settings)
        with closing(batches.epoch(0)) as epoch:
            both.append(torch.cat([batch.pixels for batch in epoch]))
    assert torch.equal(*both)
    path = written(zipped, tmp_path)
    assert read_manifest(path) == zipped
    assert read_source(path) == zipped.source


def test_what_changed_or_is_gone_is_told_of_any_source(zipped: Manifest) -> None:
    record = zipped.records[0]
    assert change_of(zipped.source, record) == ""
    assert change_of(zipped.source, replace(record, sha256="00")) == "has changed"
    assert change_of(zipped.source, replace(record, key="elsewhere.jpg")) == "is gone"
    with pytest.raises(UnreadableImageError, match=r"cannot read image elsewhere\.jpg: no such file or directory"):
        read_picture(zipped.source, "elsewhere.jpg")


def test_a_manifest_of_files_says_nothing_of_its_source(files: Manifest, tmp_path: Path) -> None:
    path = written(files, tmp_path)
    assert b'"source"' not in path.read_bytes()
    assert read_manifest(path).source == FILES
    assert read_source(path) == FILES
    assert read_source(tmp_path / "gone.parquet") == FILES


def test_a_source_of_a_later_version_is_refused(
    zipped: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(zipped, tmp_path)
    monkeypatch.delitem(sources.SOURCES, "zip")
    for read in (read_manifest, read_source):
        with pytest.raises(DataError, match=r"source of images 'zip' is not known.*update Headstart"):
            read(path)
    with pytest.raises(DataError, match=r"source of images 'files' has other settings here.*update Headstart"):
        restore_source({"kind": "files", "archive": "images.zip"})


@pytest.mark.parametrize("source", [FileSource(), FileSource(takes_pipes=True)])
def test_settings_make_an_equal_source(source: FileSource) -> None:
    assert restore_source(source_settings(source)) == source
    assert set(SOURCES) == {"files"}


def test_a_picture_is_what_its_bytes_are(files: Manifest) -> None:
    for record in files.records[:4]:
        with Image.open(record.key) as expected:
            assert np.array_equal(np.asarray(read_picture(FILES, record.key)), np.asarray(expected))
        assert read_bytes(FILES, record.key) == Path(record.key).read_bytes()


def test_a_pipe_that_a_shell_made_is_read_where_it_was_named(files: Manifest) -> None:
    reader, writer = os.pipe()
    path = f"/dev/fd/{reader}"
    if not os.path.exists(path):
        pytest.skip("there is no /dev/fd here")
    data = Path(files.records[0].key).read_bytes()
    assert len(data) < 60_000  # what a pipe holds before it is read
    os.write(writer, data)
    os.close(writer)
    with pytest.raises(UnreadableImageError, match="a pipe, not a regular file"):
        read_picture(FILES, path)
    found = read_picture(FileSource(takes_pipes=True), path)
    os.close(reader)
    assert np.array_equal(np.asarray(found), np.asarray(read_picture(FILES, files.records[0].key)))


@pytest.mark.parametrize("takes_pipes", [False, True])
def test_what_is_no_regular_file_is_refused_without_waiting(tmp_path: Path, takes_pipes: bool) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")  # nobody will ever write to it
    (tmp_path / "device.jpg").symlink_to("/dev/zero")
    (tmp_path / "folder.jpg").mkdir()
    for kind in ("pipe", "device", "folder"):
        with pytest.raises(UnreadableImageError, match=f"a {kind}, not a regular file"):
            read_picture(FileSource(takes_pipes), str(tmp_path / f"{kind}.jpg"))
