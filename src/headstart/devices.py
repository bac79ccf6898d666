"""Where PyTorch computes."""

import torch

from headstart.errors import ConfigError


def pick_device(name: str) -> torch.device:
    """Find a device by its name.

    Args:
        name: `cpu`, `cuda`, `cuda:N`, `mps`, or `auto`: a CUDA GPU if there is one, else the CPU.

    Raises:
        ConfigError: There is no such device, or PyTorch sees none here.
    """
    kind, _, index = name.partition(":")
    if kind == "auto":
        kind = "cuda" if torch.cuda.is_available() else "cpu"
    counts = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if kind not in counts or (index and not index.isdecimal()):
        raise ConfigError(f"device={name!r} is not one of auto, cpu, cuda, cuda:N, mps")
    if int(index or 0) >= counts[kind]:
        raise ConfigError(f"device={name!r}: no such device is visible to PyTorch here; use auto or cpu")
    if index and kind != "cpu":
        return torch.device(kind, int(index))
    return torch.device(kind)
