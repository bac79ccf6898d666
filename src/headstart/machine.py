"""What a run writes down about the machine it runs on. Importing this module loads no torch."""

import ctypes
import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

_PACKAGES = (
    "headstart", "torch", "torchvision", "timm", "lightning-fabric", "openvino", "numpy", "scipy", "pillow",
    "scikit-learn", "pyarrow", "safetensors",
)  # fmt: skip

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
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "git_commit": _git_commit(),
        "packages": {name: version for name in _PACKAGES if (version := _version(name))},
    }


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


def _version(package: str) -> str | None:
    with suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(package)
    return None


def _cpu_name() -> str:
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
        if name := next(names, ""):
            return name
    return platform.processor() or platform.machine()


def _git_commit() -> str | None:
    with suppress(OSError, subprocess.SubprocessError):
        command = ["git", "rev-parse", "HEAD"]
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
    return None
