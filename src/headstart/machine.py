"""What a run writes down about the machine it runs on. Importing this module loads no torch."""

import ctypes
import gc
import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import Any, final

_PACKAGES = (
    "headstart", "torch", "torchvision", "timm", "lightning-fabric", "openvino", "numpy", "scipy", "pillow",
    "scikit-learn", "pyarrow", "safetensors",
)  # fmt: skip

_INSTRUCTION_SETS = ("avx", "amx", "fma", "sve", "asimd", "bf16")

# What cgroups, version 2 and 1, let a container's processes have.
_CONTAINER_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")

_SPIN_COUNT = "4000"  # turns of a loop: some microseconds, about what falls between two layers

# Numbers of glibc's malloc.h, and its values at the start.
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4
_NEVER_TRIM = -1
_DEFAULT_TRIM_THRESHOLD = 128 * 1024
_DEFAULT_MMAP_MAX = 65536


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
    for line in text.splitlines():
        if line.startswith(("flags", "Features")):
            words = [word for word in line.split() if word.startswith(_INSTRUCTION_SETS)]
            return " ".join(sorted(words))
    return ""


def total_memory_bytes() -> int:
    """Return how much memory this process may use at most: the machine's, or what a container leaves it.

    Where the system does not say, 8 GB are assumed.
    """
    limits = []
    with suppress(AttributeError, ValueError, OSError):
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for file in _CONTAINER_LIMITS:
        with suppress(OSError, ValueError):
            limits.append(int(Path(file).read_text(encoding="ascii")))  # "max" is no number
    return min(limits, default=8 * 10**9)


def resident_bytes() -> int | None:
    """Return how much memory this process holds now; None where the system cannot tell."""
    with suppress(OSError, ValueError, IndexError, AttributeError):
        num_pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return num_pages * os.sysconf("SC_PAGE_SIZE")
    return None


def has_bf16() -> bool:
    """Return whether the processor multiplies numbers of 16 bits, bf16, in hardware."""
    return not {"amx_bf16", "avx512_bf16", "bf16"}.isdisjoint(processor_features().split())


def keep_freed_memory() -> bool:
    """Let the C library reuse large blocks of memory until the process ends; for commands.

    By default glibc maps each large tensor anew and unmaps it when it is freed, so that the kernel clears every page of
    every activation again in each step. Kept in the process, the same work took 0.5 to 0.65 of the time on a CPU
    (docs/decisions/0004-keep-freed-memory.md). The process then holds the most memory it ever needed until it ends.

    Returns:
        Whether it was done: not where the C library is another one, or where the user has set `MALLOC_...` variables.
    """
    global _num_keepers
    with _keepers_lock:
        is_done = _set_malloc(mmap_max=0, trim_threshold=_NEVER_TRIM)
        if is_done:
            _num_keepers += 1  # and never one less
    return is_done


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Within the block, do as `keep_freed_memory` does; then set the C library's defaults and give back what was kept.

    For what a library does on behalf of a program that is not its own. Blocks may overlap, in several threads; the last
    one gives back. One thing stays: glibc no longer moves its thresholds by itself, as it does until they are set.
    """
    global _num_keepers
    with _keepers_lock:
        is_done = _set_malloc(mmap_max=0, trim_threshold=_NEVER_TRIM)
        _num_keepers += 1
    try:
        yield
    finally:
        with _keepers_lock:
            _num_keepers -= 1
            gives_back = is_done and _num_keepers == 0
            if gives_back:
                _set_malloc(mmap_max=_DEFAULT_MMAP_MAX, trim_threshold=_DEFAULT_TRIM_THRESHOLD)
        if gives_back:
            give_back_freed_memory()


_num_keepers = 0
_keepers_lock = Lock()


def _set_malloc(*, mmap_max: int, trim_threshold: int) -> bool:
    """Set how many blocks glibc maps on their own, and how much free memory at its end a heap keeps."""
    if sys.platform != "linux" or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_M_MMAP_MAX, mmap_max) and mallopt(_M_TRIM_THRESHOLD, trim_threshold))


def has_foreign_allocator() -> bool:
    """Tell whether another library than C's own gives out memory, such as jemalloc or tcmalloc by LD_PRELOAD."""
    return "malloc" in os.environ.get("LD_PRELOAD", "")


def give_back_freed_memory() -> None:
    """Return memory that is free to the system, where the C library can."""
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


class _SignalStack(ctypes.Structure):
    """Linux's `stack_t`: where the handlers of signals that ask for it run, in one thread."""

    _fields_ = (("address", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@contextmanager
def signal_stack_kept() -> Iterator[None]:
    """After the block, this thread's signal handlers run where they did before it; for libraries that change that."""
    if sys.platform != "linux":
        yield
        return
    sigaltstack = ctypes.CDLL(None).sigaltstack
    before = _SignalStack()
    is_known = sigaltstack(None, ctypes.byref(before)) == 0
    try:
        yield
    finally:
        if is_known:
            sigaltstack(ctypes.byref(before), None)


def spin_briefly() -> None:
    """Let idle threads of GNU's OpenMP, which PyTorch uses on Linux, sleep soon; before it is loaded.

    By default they wait for work in a busy loop of many milliseconds. Where two trainings share the cores, the waiting
    threads of one hold the cores that the other's working ones need (docs/decisions/0017). What the user has set stays.
    """
    if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & set(os.environ):
        os.environ["GOMP_SPINCOUNT"] = _SPIN_COUNT


@final
class PeakMemory:
    """Measures the most memory that this process holds from the moment it is made.

    Linux keeps a high-water mark that can be set back to what is held now (`/proc/self/clear_refs`), so what came
    before does not count, once the C library has given back what it kept of it (see `keep_freed_memory`). Elsewhere the
    mark of the whole life of the process is all there is: it is this measurement's only where it has risen since.
    """

    def __init__(self) -> None:
        """Give back freed memory and begin."""
        give_back_freed_memory()
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
