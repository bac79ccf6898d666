"""The feature cache on real files, processes, kills and full disks: rows come back bit by bit, or not at all."""

import hashlib
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from headstart.errors import CacheFullError, ConfigError, HeadstartError
from headstart.features import limits
from headstart.features import shards as shard_module
from headstart.features import table as module
from headstart.features.cache import FeatureCache
from headstart.features.limits import default_cache_folder
from headstart.features.table import FeatureTable, RowKey

KEY = hashlib.sha256(b"weights, preprocessing, engine").hexdigest()
SHAPE, DTYPE = (100,), np.dtype("float16")
REPOSITORY = Path(__file__).parents[3]
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


def make_keys(start: int, stop: int) -> list[RowKey]:
    """Name rows, four views an image."""
    return [(hashlib.sha256(str(number // 4).encode()).digest(), number % 4) for number in range(start, stop)]


def make_rows(keys: Sequence[RowKey], shape: tuple[int, ...] = SHAPE, dtype: Any = DTYPE) -> npt.NDArray[Any]:
    """Return the only right row of every key: bits that follow from it (NaNs among them)."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    bits = b"".join(hashlib.shake_128(digest + bytes([view])).digest(size) for digest, view in keys)
    return np.frombuffer(bits, dtype).reshape(len(keys), *shape)


def same_bits(left: npt.NDArray[Any], right: npt.NDArray[Any]) -> bool:
    return left.dtype == right.dtype and left.shape == right.shape and left.tobytes() == right.tobytes()


def fill(table: FeatureTable, start: int, stop: int, batch: int = 32) -> None:
    for first in range(start, stop, batch):
        keys = make_keys(first, min(first + batch, stop))
        table.append(keys, make_rows(keys, table.shape, table.dtype))
    table.flush()


def num_right(table: FeatureTable, stop: int) -> int:
    """Count the rows at hand, each of which must be right."""
    keys = make_keys(0, stop)
    held = [key for key, there in zip(keys, table.has(keys), strict=True) if there]
    assert same_bits(table.gather(table.locate(held)), make_rows(held, table.shape, table.dtype))
    return len(held)


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/*/*.rows"))


def stored(folder: Path) -> int:
    return sum(path.stat().st_size for path in shards(folder))


def python(script: str, *arguments: object) -> subprocess.Popen[str]:
    """Start another process that knows this module's names."""
    script = f"import os, sys, time\nfrom {__name__} import *\n{script}"
    command = [sys.executable, "-c", script, *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(REPOSITORY), *sys.path])}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    return output


@contextmanager
def small_disk(path: Path, options: str = "size=2m") -> Iterator[Path]:
    """Mount a disk of its own, or skip where this user may not."""
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)]
    if sys.platform != "linux" or os.geteuid() or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("cannot mount a disk here")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


@pytest.fixture(params=[1 << 30, 0], ids=["memory", "mapped"])
def memory_bytes(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.uint8, np.int64, ">f4"])
@pytest.mark.parametrize("shape", [(), (1,), (1280,), (7, 3, 5)])
def test_rows_come_back_bit_by_bit(tmp_path: Path, memory_bytes: int, shape: tuple[int, ...], dtype: Any) -> None:
    table = FeatureCache(tmp_path).open(KEY, shape, dtype)
    fill(table, 0, 50, batch=7)
    again = FeatureCache(tmp_path, memory_bytes=memory_bytes).open(KEY, shape, dtype)
    assert num_right(table, 60) == num_right(again, 60) == 50
    assert again.num_bytes == 50 * int(np.prod(shape)) * np.dtype(dtype).itemsize


def test_gathers_in_the_order_asked_across_shards(
    tmp_path: Path, memory_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SHARD_BYTES", 5000)
    table = FeatureCache(tmp_path, memory_bytes=memory_bytes).open(KEY, SHAPE, DTYPE)
    fill(table, 0, 300)
    table.append(keys := make_keys(300, 310), make_rows(keys))  # these wait to be written
    assert len(shards(tmp_path)) > 10
    assert max(path.stat().st_size for path in shards(tmp_path)) <= 5000 + 256
    order = np.random.default_rng(0).integers(310, size=1000)
    keys = [make_keys(0, 310)[number] for number in order]
    rows = table.gather(table.locate(keys))
    assert same_bits(rows, make_rows(keys))
    rows[:] = 0  # a copy
    assert num_right(table, 310) == 310
    assert table.gather(np.zeros(0, np.int64)).shape == (0, *SHAPE)


def test_positions_last_and_unknown_ones_are_refused(tmp_path: Path) -> None:
    table = FeatureCache(tmp_path).open(KEY, SHAPE, DTYPE)
    keys = make_keys(0, 10)
    table.append(keys, make_rows(keys))
    positions = table.locate(keys)
    table.flush()
    fill(table, 10, 30)
    assert same_bits(table.gather(positions), make_rows(keys))
    for wrong in (-1, 30, 10**9):
        with pytest.raises(IndexError):
            table.gather(np.array([0, wrong]))
    with pytest.raises(KeyError):
        table.locate(make_keys(0, 31))


def test_the_first_of_equal_keys_wins_and_nothing_is_stored_twice(tmp_path: Path) -> None:
    table = FeatureCache(tmp_path).open(KEY, SHAPE, DTYPE)
    keys = make_keys(0, 3)
    rows = make_rows(keys)
    table.append([keys[0], keys[1], keys[0]], rows[[0, 1, 2]])
    table.append(keys, rows[[2, 2, 2]])
    table.flush()
    size = stored(tmp_path)
    table.append(keys, rows)
    table.flush()
    assert stored(tmp_path) == size
    assert num_right(table, 3) == num_right(FeatureCache(tmp_path).open(KEY, SHAPE, DTYPE), 3) == 3


def test_the_callers_array_is_copied(tmp_path: Path) -> None:
    table = FeatureCache(tmp_path).open(KEY, SHAPE, DTYPE)
    buffer = make_rows(keys := make_keys(0, 8)).copy()
    table.append(keys, buffer)
    buffer[:] = 0
    assert num_right(table, 8) == 8
    wide = np.repeat(make_rows(keys := make_keys(8, 16)), 2, axis=1)[:, ::2]  # not contiguous
    table.append(keys, wide)
    table.flush()
    assert num_right(table, 16) == 16


def test_what_does_not_fit_the_table_is_refused(tmp_path: Path) -> None:
    table = FeatureCache(tmp_path).open(KEY, SHAPE, DTYPE)
    keys = make_keys(0, 2)
    for rows in (make_rows(keys)[:1], make_rows(keys, (99,)), make_rows(keys, SHAPE, np.float32)):
        with pytest.raises(ValueError, match="rows must be"):
            table.append(keys, rows)
    with pytest.raises(ValueError, match="32 bytes"):
        table.has([(b"short", 0)])
    for key in ("../../etc", "ABCDEF012345", "abc", ""):
        with pytest.raises(ValueError, match="hexadecimal"):
            FeatureCache(tmp_path).open(key, SHAPE, DTYPE)
    with pytest.raises(ValueError, match="plain numbers"):
        FeatureCache(tmp_path).open(KEY, SHAPE, object)


def test_an_open_table_is_shared_and_refreshed(tmp_path: Path, memory_bytes: int) -> None:
    cache = FeatureCache(tmp_path, memory_bytes=memory_bytes)
    table = cache.open(KEY, SHAPE, DTYPE)
    fill(table, 0, 10)
    fill(FeatureCache(tmp_path).open(KEY, SHAPE, DTYPE), 5, 20)
    assert table.has(make_keys(0, 20)).sum() == 10
    assert cache.open(KEY, SHAPE, DTYPE) is table
    assert num_right(table, 20) == 20
    with pytest.raises(ValueError, match="is open with"):
        cache.open(KEY, SHAPE, np.float32)


def test_another_process_sees_the_rows(tmp_path: Path, memory_bytes: int) -> None:
    finish(python("fill(FeatureCache(Path(sys.argv[1])).open(KEY, SHAPE, DTYPE), 0, 500)", tmp_path))
    assert num_right(FeatureCache(tmp_path, memory_bytes=memory_bytes).open(KEY, SHAPE, DTYPE), 500) == 500


def damages() -> dict[str, Any]:
    """Name what may happen to a file of 128 bytes of header, ten rows of 200 bytes and ten keys of 40."""
    cuts = {f"cut to {size}": size for size in (0, 1, 50, 127, 128, 129, 328, 368, 2127, 2128, 2168, 2288, 2527)}
    flips = {f"flip {place}": place for place in (0, 25, 90, 127, 128, 1000, 2127, 2128, 2159, 2160, 2527)}
    return (
        {name: lambda data, size=size: data[:size] for name, size in cuts.items()}
        | {name: lambda data, at=at: data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :] for name, at in flips.items()}
        | {
            "longer": lambda data: data + b"\0",
            "a row more": lambda data: data + data[-240:],
            "twice": lambda data: data * 2,
            "zeros": lambda data: bytes(len(data)),
        }
    )


@pytest.mark.parametrize("damage", damages())
def test_a_damaged_shard_is_no_shard(tmp_path: Path, memory_bytes: int, damage: str) -> None:
    fill(FeatureCache(tmp_path).open(KEY, SHAPE, DTYPE), 0, 10)
    (path,) = shards(tmp_path)
    assert path.stat().st_size == 128 + 10 * (200 + 40)
    path.write_bytes(damages()[damage](path.read_bytes()))
    table = FeatureCache(tmp_path, memory_bytes=memory_bytes).open(KEY, SHAPE, DTYPE)
    assert not table.has(make_keys(0, 10)).any()
    assert not path.exists()
    fill(table, 0, 10)
    assert num_right(FeatureCache(tmp_path).open(KEY, SHAPE, DTYPE), 10) == 10


@pytest.mark.parametrize(
    ("key", "shape", "dtype"),
    [(KEY[:8] + "0" * 56, SHAPE, DTYPE), (KEY, (10, 10), DTYPE), (KEY, (50,), np.float32), (KEY, SHAPE, np.int16)],
)
def test_a_shard_of_another_table_is_no_shard(
    tmp_path: Path, memory_bytes: int, key: str, shape: tuple[int, ...], dtype: Any
) -> None:
    fill(FeatureCache(tmp_path).open(key, shape, dtype), 0, 10)
    (path,) = shards(tmp_path)
    target = tmp_path / KEY[:2] / KEY / path.name
    target.parent.mkdir(exist_ok=True)
    path.rename(target)
    assert num_right(FeatureCache(tmp_path, memory_bytes=memory_bytes).open(KEY, SHAPE, DTYPE), 10) == 0
    assert not target.exists()


def test_junk_is_ignored(tmp_path: Path, memory_bytes: int) -> None:
    fill(FeatureCache(tmp_path).open(KEY, SHAPE, DTYPE), 0, 10)
    (path,) = shards(tmp_path)
    folder = path.parent
    (folder / "notes.txt").write_text("mine")
    (folder / "folder.rows").mkdir()
    os.mkfifo(folder / "pipe.rows")
    (folder / "0.rows").write_bytes(b"junk" * 999)
    (folder / f"{'0' * 64}.rows").write_bytes(path.read_bytes())
    (folder / "dangling.rows").symlink_to(tmp_path / "nowhere")
    (tmp_path / "ab").write_text("no folder")
    (tmp_path / "ff").mkdir()
    (tmp_path / "ff" / ("f" * 64)).write_text("no table")
    cache = FeatureCache(tmp_path, memory_bytes=memory_bytes)
    table = cache.open(KEY, SHAPE, DTYPE)
    fill(table, 10, 20)
    assert num_right(table, 30) == 20
    left = {entry.name for entry in folder.iterdir()} - {entry.name for entry in shards(tmp_path)}
    assert left == {"notes.txt"}
    assert len([entry for entry in shards(tmp_path) if entry.is_file()]) == 2
    assert cache.room(1000)


def test_left_overs_of_dead_writers_are_removed(tmp_path: Path) -> None:
    script = """
from headstart.files import whole_file
with whole_file(Path(sys.argv[1]) / "half.rows") as file:
    file.write_bytes(b"part")
    print("writing", flush=True)
    time.sleep(600)
"""
    fill(FeatureCache(tmp_path).open(KEY, SHAPE, DTYPE), 0, 10)
    folder = shards(tmp_path)[0].parent
    writer = python(script, folder)
    assert writer.stdout is not None
    assert writer.stdout.readline() == "writing\n"
    assert num_right(FeatureCache(tmp_path).open(KEY, SHAPE, DTYPE), 10) == 10
    assert len(list(folder.glob(".*"))) == 1  # the writer is alive
    writer.kill()
    writer.wait()
    assert num_right(FeatureCache(tmp_path).open(KEY, SHAPE, DTYPE), 10) == 10
    assert not list(folder.glob(".*"))


def test_processes_that_write_at_once_end_with_right_rows(tmp_path: Path) -> None:
    script = """
module._SHARD_BYTES = 20_000
table = FeatureCache(Path(sys.argv[1])).open(KEY, SHAPE, DTYPE)
print("ready", flush=True)
while not os.path.exists(sys.argv[2]): time.sleep(0.001)
fill(table, int(sys.argv[3]), int(sys.argv[4]))
print(num_right(table, 3000), table.note)
"""
    start = tmp_path / "start"
    writers = [python(script, tmp_path / "cache", start, low, low + 2000) for low in (0, 1000)]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
    start.touch()
    seen = [0]
    while any(writer.poll() is None for writer in writers):  # a reader that opens all the time finds only whole shards
        memory = (1 << 30) * (len(seen) % 2)
        seen.append(num_right(FeatureCache(tmp_path / "cache", memory_bytes=memory).open(KEY, SHAPE, DTYPE), 3000))
    assert [finish(writer) for writer in writers] == ["2000 \n"] * 2
    assert seen == sorted(seen)
    assert num_right(FeatureCache(tmp_path / "cache").open(KEY, SHAPE, DTYPE), 3000) == 3000


@pytest.mark.skipif(os.name != "posix", reason="kill -9")
def test_kills_at_any_moment_leave_only_right_rows(tmp_path: Path) -> None:
    script = """
module._SHARD_BYTES = 4_000_000
table = FeatureCache(Path(sys.argv[1])).open(KEY, (20_000,), np.uint8)
keys = make_keys(0, 1000)
rows = make_rows(keys, (20_000,), np.uint8)
start = int(table.has(keys).sum())
for first in range(start, 1000, 50):
    print("more", flush=True)
    table.append(keys[first:first + 50], rows[first:first + 50])
table.flush()
"""
    generator = np.random.default_rng()
    counts, left_overs = [0], 0
    for _ in range(6):
        writer = python(script, tmp_path)
        assert writer.stdout is not None
        for _ in range(generator.integers(1, 8)):  # a shard is written after four
            writer.stdout.readline()
        time.sleep(float(generator.uniform(0, 0.01)))
        writer.kill()
        writer.wait()
        left_overs += len(list(tmp_path.glob("*/*/.*")))
        table = FeatureCache(tmp_path).open(KEY, (20_000,), np.dtype(np.uint8))
        counts.append(num_right(table, 1000))
        assert not list(tmp_path.glob("*/*/.*"))
    print(f"rows after each kill: {counts}; left-over files: {left_overs}")
    assert counts == sorted(counts)
    finish(python(script, tmp_path))
    assert num_right(FeatureCache(tmp_path).open(KEY, (20_000,), np.dtype(np.uint8)), 1000) == 1000


def check_degrades(folder: Path, reason: str, monkeypatch: pytest.MonkeyPatch, at_least: int = 45) -> None:
    """Write 4 MB where that cannot be: rows go to memory, then there is an error, and never a part of a file."""
    monkeypatch.setattr(module, "_SHARD_BYTES", 200_000)
    table = FeatureCache(folder, limit_bytes=1 << 30, memory_bytes=1 << 30).open(KEY, (10_000,), np.float16)
    fill(table, 0, 200)
    assert re.search(reason, table.note)
    assert "\n" not in table.note
    assert num_right(table, 200) == 200
    assert not list(folder.glob("*/*/.*"))
    del table

    table = FeatureCache(folder, limit_bytes=1 << 30, memory_bytes=10**6).open(KEY, (10_000,), np.float16)
    with pytest.raises(CacheFullError, match=reason) as caught:
        fill(table, 0, 400)
    assert "they do not fit in the 1 MB of memory" in str(caught.value)
    assert isinstance(caught.value, HeadstartError)
    assert table.note in str(caught.value)
    held = num_right(table, 400)  # what fitted stays usable
    assert held >= at_least
    assert table.num_bytes == held * 20_000
    assert num_right(FeatureCache(folder, memory_bytes=0).open(KEY, (10_000,), np.float16), 400) <= held


def test_a_full_disk_is_survived(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with small_disk(tmp_path / "disk") as disk:
        check_degrades(disk / "cache", "no space left on device; free some", monkeypatch, at_least=80)


def test_a_limit_on_file_size_is_survived(tmp_path: Path) -> None:
    script = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
with pytest.MonkeyPatch.context() as patch:
    check_degrades(Path(sys.argv[1]), "file too large", patch)
"""
    pytest.importorskip("resource")
    finish(python(script, tmp_path / "cache"))


def test_a_read_only_folder_is_survived(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid():
        (tmp_path / "cache").mkdir(mode=0o500)
        check_degrades(tmp_path / "cache", "permission denied; choose a folder", monkeypatch)
        return
    with small_disk(tmp_path / "disk", "size=8m") as disk:
        fill(FeatureCache(disk).open(KEY, (10_000,), np.float16), 0, 50)
        assert FeatureCache(disk, memory_bytes=0).room(1000)
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        assert not FeatureCache(disk, memory_bytes=0).room(1000)
        assert num_right(FeatureCache(disk).open(KEY, (10_000,), np.float16), 50) == 50
        check_degrades(disk, "read-only file system; choose a folder", monkeypatch)


def test_a_path_that_is_no_folder_is_survived(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    check_degrades(tmp_path / "file" / "cache", "cannot write to .*file.cache", monkeypatch)


def test_positions_of_forgotten_rows_are_not_given_to_others(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, limit_bytes=0, memory_bytes=2000)
    table = cache.open(KEY, SHAPE, DTYPE)
    table.append(keys := make_keys(0, 20), make_rows(keys))
    forgotten = table.locate(keys)
    with pytest.raises(CacheFullError):
        table.flush()
    assert not table.has(keys).any()
    fill(table, 30, 40)
    assert num_right(table, 40) == 10
    with pytest.raises(IndexError):
        table.gather(forgotten)
    table.append(keys[:1], make_rows(keys[:1]))
    assert num_right(table, 40) == 11


def test_without_a_place_on_disk_nothing_is_read_there_or_touched(tmp_path: Path) -> None:
    fill(FeatureCache(tmp_path).open(KEY, SHAPE, DTYPE), 0, 10)
    os.utime(folder := tmp_path / KEY[:2] / KEY, (0, 1000))
    table = FeatureCache(tmp_path, limit_bytes=0).open(KEY, SHAPE, DTYPE)
    assert num_right(table, 10) == 0
    assert folder.stat().st_mtime == 1000


def test_memory_is_shared_by_open_tables_and_given_back(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, limit_bytes=0, memory_bytes=5000)
    first, second = (cache.open(letter * 64, SHAPE, DTYPE) for letter in "ab")
    fill(first, 0, 20)
    assert cache.room(1000)
    assert not cache.room(1001)
    with pytest.raises(CacheFullError):
        fill(second, 0, 6)
    del first
    fill(second, 0, 20)
    assert num_right(second, 20) == 20


def test_the_table_used_least_recently_goes_first(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path)
    for age, letter in enumerate("dbca"):
        fill(cache.open(letter * 64, SHAPE, DTYPE), 0, 10)
        os.utime(tmp_path / (letter * 2) / (letter * 64), (0, 1000 - age))
    size = stored(tmp_path) // 4
    left = lambda: "".join(sorted(path.parent.name[0] for path in shards(tmp_path)))  # noqa: E731
    small = FeatureCache(tmp_path, limit_bytes=4 * size + 100)
    opened = small.open("a" * 64, SHAPE, DTYPE)  # the oldest is used again
    del opened
    table = small.open("e" * 64, SHAPE, DTYPE)
    fill(table, 0, 10)
    assert left() == "abde"
    fill(table, 10, 30)
    assert left() == "aee"  # a shard of 10 rows and one of 20
    assert not (tmp_path / "bb").exists()
    assert table.note == ""
    assert stored(tmp_path) <= small.limit_bytes


def test_tables_open_here_go_last(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path)
    held = cache.open("a" * 64, SHAPE, DTYPE)
    for letter in "ab":
        fill(cache.open(letter * 64, SHAPE, DTYPE), 0, 10)
    os.utime(tmp_path / "aa" / ("a" * 64), (0, 0))
    cache.limit_bytes = stored(tmp_path) + 100
    table = cache.open("c" * 64, SHAPE, DTYPE)
    fill(table, 0, 10)
    assert {path.parent.name[0] for path in shards(tmp_path)} == {"a", "c"}
    fill(table, 10, 20)
    assert {path.parent.name[0] for path in shards(tmp_path)} == {"c"}
    assert num_right(held, 10) == 10


def test_a_table_beyond_the_limit_is_not_stored_further(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(FeatureCache(tmp_path).open("b" * 64, SHAPE, DTYPE), 0, 10)
    monkeypatch.setattr(module, "_SHARD_BYTES", 3000)
    cache = FeatureCache(tmp_path, limit_bytes=10_000)
    table = cache.open(KEY, SHAPE, DTYPE)
    fill(table, 0, 100)
    assert "limit of 0.01 MB" in table.note
    assert "HEADSTART_CACHE_LIMIT" in table.note
    assert 5000 < stored(tmp_path) <= 10_000
    assert num_right(table, 100) == 100
    assert num_right(FeatureCache(tmp_path).open(KEY, SHAPE, DTYPE), 100) > 20


def test_nothing_is_deleted_for_what_cannot_be_stored(tmp_path: Path) -> None:
    fill(FeatureCache(tmp_path).open("b" * 64, SHAPE, DTYPE), 0, 10)
    table = FeatureCache(tmp_path, limit_bytes=3000).open(KEY, SHAPE, DTYPE)
    fill(table, 0, 100)
    assert table.note
    assert [path.parent.name[0] for path in shards(tmp_path)] == ["b"]


@pytest.mark.skipif(os.name != "posix", reason="an open file can be deleted")
def test_a_table_goes_on_when_its_folder_is_deleted(tmp_path: Path, memory_bytes: int) -> None:
    table = FeatureCache(tmp_path / "cache", memory_bytes=memory_bytes).open(KEY, SHAPE, DTYPE)
    fill(table, 0, 50)
    subprocess.run(["rm", "-r", tmp_path / "cache"], check=True)
    assert num_right(table, 60) == 50
    fill(table, 0, 60)
    assert num_right(table, 60) == 60
    assert table.note == ""
    again = FeatureCache(tmp_path / "cache").open(KEY, SHAPE, DTYPE)
    assert list(again.has(make_keys(0, 60))) == [False] * 50 + [True] * 10
    assert num_right(again, 60) == 10


def test_a_folder_deleted_while_a_shard_is_written_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = FeatureCache(tmp_path / "cache").open(KEY, SHAPE, DTYPE)
    sync = os.fsync

    def delete_folder(descriptor: int) -> None:
        monkeypatch.setattr(os, "fsync", sync)
        subprocess.run(["rm", "-r", tmp_path / "cache"], check=True)

    monkeypatch.setattr(os, "fsync", delete_folder)
    fill(table, 0, 10)
    assert table.note == ""
    assert num_right(FeatureCache(tmp_path / "cache").open(KEY, SHAPE, DTYPE), 10) == 10


def test_writers_survive_a_process_that_deletes_all_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SHARD_BYTES", 3000)
    table = FeatureCache(tmp_path / "cache", memory_bytes=1 << 20).open(KEY, SHAPE, DTYPE)
    done = threading.Event()

    def delete() -> None:
        while not done.is_set():
            for path in (tmp_path / "cache").glob("*/*"):
                shard_module.delete_table(path)

    deleter = threading.Thread(target=delete)
    deleter.start()
    try:
        fill(table, 0, 1000)
    finally:
        done.set()
        deleter.join()
    assert num_right(table, 1000) == 1000


def test_rows_beyond_the_memory_are_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SHARD_BYTES", 3000)
    for _ in ("written", "read"):
        table = FeatureCache(tmp_path, memory_bytes=7000).open(KEY, SHAPE, DTYPE)
        fill(table, 0, 100)
        assert 2000 < table.memory_bytes <= 7000
        assert table.memory_bytes == sum(chunk.rows.nbytes for chunk in table._chunks if chunk.mapped is None)
        assert num_right(table, 100) == 100


MAPPED = (75_000,)  # uint16: 150 kB a row


@linux_only
def test_what_is_resident_does_not_grow_with_the_table(tmp_path: Path) -> None:
    script = """
def status(name):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith(name)) * 1024

cache = FeatureCache(Path(sys.argv[1]), memory_bytes=16 << 20)
before = status("VmRSS")
table = cache.open(KEY, MAPPED, np.uint16)
keys = make_keys(0, 2000)
there = table.has(keys)
generator = np.random.default_rng(0)
for first in range(0, 2000, 50):
    if not there[first]:
        rows = np.full((50, *MAPPED), first, np.uint16)
        rows[:, -1] = np.arange(50)
        table.append(keys[first:first + 50], rows)
table.flush()
positions, order = table.locate(keys), generator.permutation(2000)
for batch in np.array_split(order, 50):
    rows = table.gather(positions[batch])
    assert (rows[:, :-1] == (batch // 50 * 50).astype(np.uint16)[:, None]).all()
    assert (rows[:, -1] == batch % 50).all()
assert table.num_bytes == 300_000_000 and table.memory_bytes <= 16 << 20
print((status("VmHWM") - before) // 10**6, (status("VmRSS") - before) // 10**6)
"""
    peaks = [[int(part) for part in finish(python(script, tmp_path)).split()] for _ in ("write", "read")]
    print(f"peak and last growth, MB, writing then reading: {peaks}")
    assert peaks[0][0] < 200  # one shard waits to be written
    assert peaks[1][0] < 60
    assert peaks[1][1] < 40


def test_folder_and_limit_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path))
    assert default_cache_folder() == tmp_path
    cache = FeatureCache()
    fill(cache.open(KEY, SHAPE, DTYPE), 0, 10)
    assert [path.parent.parent.parent for path in shards(tmp_path / "features")] == [tmp_path / "features"]
    monkeypatch.setenv("HEADSTART_CACHE", "~/somewhere")
    assert default_cache_folder() == Path.home() / "somewhere"
    monkeypatch.delenv("HEADSTART_CACHE")
    assert "headstart" in str(default_cache_folder())


@pytest.mark.parametrize(
    ("text", "num_bytes"),
    [("1000", 1000), ("5MB", 5 * 10**6), ("0.5 gb", 5 * 10**8), ("3MiB", 3 << 20), ("2k", 2000), ("0", 0)],
)
def test_limits_are_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, num_bytes: int) -> None:
    monkeypatch.setenv("HEADSTART_CACHE_LIMIT", text)
    assert FeatureCache(tmp_path).limit_bytes == num_bytes


@pytest.mark.parametrize("text", ["lots", "-1", "10 apples", "1e9", "GB", "1.5.5MB", "5IB"])
def test_junk_limits_are_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("HEADSTART_CACHE_LIMIT", text)
    with pytest.raises(ConfigError, match=r"^HEADSTART_CACHE_LIMIT must be a size such as .*got") as caught:
        FeatureCache(tmp_path)
    assert "\n" not in str(caught.value)
    assert FeatureCache(tmp_path, limit_bytes=7).limit_bytes == 7


def test_the_usual_limit_leaves_the_disk_some_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HEADSTART_CACHE_LIMIT", raising=False)
    with small_disk(tmp_path / "disk") as disk:
        free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_bsize
        assert FeatureCache(disk / "no" / "folder").limit_bytes == free * 4 // 5
        fill(FeatureCache(disk).open(KEY, SHAPE, DTYPE), 0, 1000)
        assert FeatureCache(disk).limit_bytes == pytest.approx(free * 4 // 5, rel=0.01)
        cache = FeatureCache(disk, memory_bytes=0)
        assert cache.room(10**6)
        assert not cache.room(10**7)
        assert FeatureCache(disk, memory_bytes=10**7).room(10**7)
    assert not any((tmp_path / "disk").iterdir())


@pytest.mark.parametrize(
    ("total", "meminfo", "expected"),
    [
        (64 << 30, "MemTotal: 67108864 kB\nMemAvailable: 1048576 kB\n", 256 << 20),
        (64 << 30, "MemAvailable: 33554432 kB\n", 512 << 20),
        (400 << 20, "MemAvailable: 33554432 kB\n", 100 << 20),  # a container on a large machine
        (400 << 20, None, 100 << 20),
    ],
)
def test_rows_take_a_quarter_of_the_memory_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, total: int, meminfo: str | None, expected: int
) -> None:
    monkeypatch.setattr(limits, "total_memory_bytes", lambda: total)
    monkeypatch.setattr(limits, "_MEMORY_FILE", tmp_path / "meminfo")
    if meminfo is not None:
        (tmp_path / "meminfo").write_text(meminfo)
    assert FeatureCache(tmp_path).memory_bytes == expected


def test_looking_creates_nothing(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path / "cache")
    assert cache.room(1)
    assert 0 < cache.memory_bytes <= 1 << 30
    table = cache.open(KEY, SHAPE, DTYPE)
    assert not table.has(make_keys(0, 5)).any()
    table.flush()
    assert table.num_bytes == 0
    assert not list(tmp_path.iterdir())


def test_importing_loads_no_torch() -> None:
    script = "import sys, headstart.features.cache; assert not {'torch', 'platformdirs'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)
