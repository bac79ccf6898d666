import subprocess
import sys

import pytest

from headstart.machine import keep_freed_memory


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
