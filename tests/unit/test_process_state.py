"""What the library may do to the process that it runs in: nothing that stays."""

import os
import subprocess
import sys

import pytest

from headstart.machine import spin_briefly

COUNT_FAULTS = """
import resource
from headstart.machine import freed_memory_kept, keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        bytes(50_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

usual = faults()
with freed_memory_kept():
    faults()
    kept = faults()
    with freed_memory_kept():
        pass
    still_kept = faults()
after = faults()
print(usual, kept, still_kept, after)
keep_freed_memory()
with freed_memory_kept():
    faults()
print(faults())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc")
def test_freed_memory_is_kept_within_the_block_only():
    done = subprocess.run([sys.executable, "-c", COUNT_FAULTS], capture_output=True, text=True, check=True)
    first, second = done.stdout.splitlines()
    usual, kept, still_kept, after = map(int, first.split())
    if usual < 1000:
        pytest.skip("this C library keeps freed memory anyway")
    assert kept < usual / 10
    assert still_kept < usual / 10
    assert after > usual / 2
    assert int(second) < usual / 10  # what a command has set stays


def test_a_command_lets_threads_sleep_soon_unless_the_user_has_decided(monkeypatch):
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    spin_briefly()
    assert int(os.environ["GOMP_SPINCOUNT"]) > 0
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    spin_briefly()
    assert os.environ["GOMP_SPINCOUNT"] == "7"
    monkeypatch.delenv("GOMP_SPINCOUNT")
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    spin_briefly()
    assert "GOMP_SPINCOUNT" not in os.environ
