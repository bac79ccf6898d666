"""What a run writes down about the machine it runs on. Importing this module loads no torch."""

import ctypes
import gc
import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, final

_PACKAGES = (
    "headstart", "torch", "torchvision", "timm", "lightning-fabric", "openvino", "numpy", "scipy", "pillow",
    "scikit-learn", "pyarrow", "safetensors",
)  # fmt: skip

_INSTRUCTION_SETS = ("avx", "amx", "fma", "sve", "asimd", "bf16")

# Numbers of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def environment(seed: int) -> dict[str, Any]:
    """Describe where a run takes place: versions, hardware, git commit, command line and seed."""
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(sys.argv),
        "seed": seed,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _cpu_name(),
        "cores": num_cores(),
        "git_commit": _git_commit(),
        "packages": _package_versions(),
    }


def num_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def processor_features() -> str:
    """Return the instruction sets that decide which kernels run, as one line."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    flags = next((line for line in text.splitlines() if line.startswith(("flags", "Features"))), "")
    return " ".join(sorted(word for word in flags.split() if word.startswith(_INSTRUCTION_SETS)))


def has_bf16() -> bool:
    """Return whether the processor multiplies numbers of 16 bits, bf16, in hardware."""
    return not {"amx_bf16", "avx512_bf16", "bf16"}.isdisjoint(processor_features().split())


def keep_freed_memory() -> bool:
    """Let the C library reuse large blocks of memory instead of giving them back after every layer.

    By default glibc maps each large tensor anew and unmaps it when it is freed, so that the kernel clears every page of
    every activation again in each step. Kept in the process, the same work took 0.5 to 0.65 of the time on a CPU
    (docs/decisions/0004-keep-freed-memory.md). The process then holds the most memory it ever needed until it ends.

    Returns:
        Whether it was done: not where the C library is another one, or where the user has set `MALLOC_...` variables.
    """
    if sys.platform != "linux" or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))


@final
class PeakMemory:
    """Measures the most memory that this process holds from the moment it is made.

    Linux keeps a high-water mark that can be set back to what is held now (`/proc/self/clear_refs`), so what came
    before does not count, once the C library has given back what it kept of it (see `keep_freed_memory`). Elsewhere the
    mark of the whole life of the process is all there is: it is this measurement's only where it has risen since.
    """

    def __init__(self) -> None:
        """Give back freed memory and begin."""
        gc.collect()
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)
        self._is_reset = False
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
            self._is_reset = True
        self._before = _life_peak_bytes()

    def megabytes(self) -> float | None:
        """Return the peak so far, in 2**20 bytes; None where the system cannot tell."""
        peak = _status_peak_bytes() if self._is_reset else None
        if peak is None:
            peak = _life_peak_bytes()
            if peak is None or peak == self._before:
                return None
        return round(peak / 2**20, 1)


def _status_peak_bytes() -> int | None:
    with suppress(OSError, ValueError):
        for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return None


def _life_peak_bytes() -> int | None:
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def package_version(package: str) -> str | None:
    """Return the version of an installed package, or None."""
    with suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(package)
    return None


def _package_versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        version = package_version(name)
        if version:
            found[name] = version
    return found


def _cpu_name() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, name = line.partition(":")
            if key.strip() == "model name" and name.strip():
                return name.strip()
    return platform.processor() or platform.machine()


def _git_commit() -> str | None:
    with suppress(OSError, subprocess.SubprocessError):
        command = ["git", "rev-parse", "HEAD"]
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
    return None
