import subprocess
import sys
from pathlib import Path

import pytest

from headstart.machine import PeakMemory, keep_freed_memory


@pytest.mark.skipif(sys.platform != "linux", reason="glibc")
def test_freed_memory_is_kept_unless_the_user_has_decided(monkeypatch):
    code = (
        "import headstart.machine as m, resource\n"
        "def faults():\n"
        "    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "    for _ in range(20): bytes(50_000_000)\n"
        "    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before\n"
        "a = faults(); done = m.keep_freed_memory(); faults(); b = faults(); print(done, b < a / 10)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split()[0] == "False" or done.stdout.split() == ["True", "True"]
    monkeypatch.setenv("MALLOC_ARENA_MAX", "2")
    assert keep_freed_memory() is False


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_a_peak_does_not_count_what_was_freed_before():
    code = (
        "from headstart.machine import PeakMemory, keep_freed_memory\n"
        "keep_freed_memory()\n"
        "first = PeakMemory(); block = b'x' * 200_000_000; before = first.megabytes(); del block\n"
        "second = PeakMemory(); block = b'x' * 50_000_000; print(before or 0, second.megabytes() or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, after = map(float, done.stdout.split())
    assert before > 190
    assert after == 0 or 47 < after < before - 100  # 0: where the mark cannot be set back, nothing is claimed


def test_without_a_mark_to_set_back_only_a_new_peak_counts(monkeypatch):
    monkeypatch.setattr("headstart.machine.Path", lambda path: Path("/nonexistent") / "file")
    monkeypatch.setattr("headstart.machine._life_peak_bytes", lambda: 100 << 20)
    peak = PeakMemory()
    assert peak.megabytes() is None
    monkeypatch.setattr("headstart.machine._life_peak_bytes", lambda: 150 << 20)
    assert peak.megabytes() == 150.0
