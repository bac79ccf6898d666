"""Engines run a fixed network on pixels; one is used for a network only where it agrees with PyTorch in 32 bits."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from headstart.errors import ConfigError, did_you_mean
from headstart.features.engines.openvino_engine import OpenVINOEngine, convert
from headstart.features.engines.torch_engine import TorchEngine
from headstart.preprocessing import Pixels
from headstart.types import InputSpec

Rows = npt.NDArray[np.floating]

# Largest relative L2 error, and smallest share of images with the same most probable class where there is a head.
TOLERANCE = {"32": 1e-4, "bf16": 2e-2}
MIN_AGREEMENT = 0.995
_ENGINES, _PRECISIONS = ("auto", "openvino", "torch"), ("auto", "32", "bf16")
NUM_SAMPLES = 16


class Engine(Protocol):
    """Runs a network on `uint8` pixels.

    Attributes:
        name: `openvino` or `torch`.
        precision: `bf16` or `32`.
    """

    name: str
    precision: str

    def run(self, batches: Iterable[Pixels]) -> Iterator[npt.NDArray[np.float32]]:
        """Map batches `uint8` (N, H, W, 3) to `float32` (N, ...), in order."""


@dataclass(frozen=True)
class Choice:
    """Which engine to use, in which precision."""

    name: str
    precision: str

    def __str__(self) -> str:
        return f"{self.name} {self.precision}"


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
    return torch.device(kind, int(index)) if index and kind != "cpu" else torch.device(kind)


def choices(device: torch.device, *, engine: str = "auto", precision: str = "auto") -> tuple[Choice, ...]:
    """List the engines to try on a device, fastest first; the last is PyTorch in 32 bits.

    Raises:
        ConfigError: An engine or precision is not known, or the engine is not for this device.
    """
    for key, value, known in (("engine", engine, _ENGINES), ("precision", precision, _PRECISIONS)):
        if value not in known:
            raise ConfigError(f"{key}={value!r} is not one of {', '.join(known)}.{did_you_mean(value, known)}")
    if engine == "openvino" and device.type != "cpu":
        raise ConfigError(f"engine=openvino runs on a CPU, not on {device}; use engine=torch or device=cpu")
    if device.type == "cpu":
        fast = ("bf16",) if _has_bf16() else ()
        found = [Choice("openvino", each) for each in (*fast, "32")]
    else:
        found = [Choice("torch", "bf16")] if device.type == "cuda" else []
    # Where the processor has no bf16 the 32 bits of the same engine are the next best.
    found = [c for c in found if engine in ("auto", c.name) and (precision != "32" or c.precision == "32")]
    return (*found, Choice("torch", "32"))


def open_engine(
    module: nn.Module,
    spec: InputSpec,
    samples: Pixels,
    candidates: tuple[Choice, ...],
    *,
    device: torch.device,
    has_head: bool,
    say: Callable[[str], None],
) -> tuple[Engine, Rows, Rows]:
    """Find the first engine that agrees with PyTorch in 32 bits on some real images.

    Args:
        module: Maps normalised images (N, 3, H, W) to one tensor; in eval mode, on the device.
        spec: How images become its input.
        samples: `uint8` (N, H, W, 3), the first images of the work to be done.
        candidates: From `choices`.
        device: Where the module is.
        has_head: Whether the output is logits, so that the most probable class is compared too.
        say: Told which engine was refused, and why.

    Returns:
        The engine, PyTorch's results on the samples and the engine's.
    """
    plain = TorchEngine(module, spec, "32", device, fold=False, batch=NUM_SAMPLES)
    expected = next(iter(plain.run([samples])))
    converted = cache(partial(convert, module, spec))
    for choice in candidates:
        try:
            engine: Engine
            if choice.name == "openvino":
                engine = OpenVINOEngine(converted(), choice.precision)
            else:
                engine = TorchEngine(module, spec, choice.precision, device, batch=NUM_SAMPLES)
            found = np.concatenate(list(engine.run([samples])))
            reason = disagreement(found, expected, choice.precision, has_head=has_head)
        except Exception as error:  # converters, compilers and folding raise all kinds
            reason = " ".join(str(error).split())[:300] or type(error).__name__
        if not reason:
            return engine, expected, found
        say(f"engine {choice} is not used for this network: {reason}")
    return plain, expected, expected


def disagreement(found: Rows, expected: Rows, precision: str, *, has_head: bool) -> str:
    """Say how an engine's results differ by more than its precision allows, or return ''.

    Args:
        found: (N, ...), what the engine gives.
        expected: (N, ...), what PyTorch gives in 32 bits.
        precision: `bf16` or `32`.
        has_head: Whether they are logits.
    """
    if found.shape != expected.shape:
        return f"its results have shape {found.shape} instead of {expected.shape}"
    scale = float(np.linalg.norm(expected.astype(np.float64)))
    error = float(np.linalg.norm(found.astype(np.float64) - expected)) / (scale or 1.0)
    if not error <= TOLERANCE[precision]:  # also where it is not a number
        return f"relative error {error:.1e}, at most {TOLERANCE[precision]:.0e} is accepted"
    agreement = float((found.argmax(1) == expected.argmax(1)).mean()) if has_head else 1.0
    if agreement < MIN_AGREEMENT:
        return f"it gives {agreement:.1%} of the images the same class, at least {MIN_AGREEMENT:.1%} is accepted"
    return ""


def processor_features() -> str:
    """Return the instruction sets that decide which kernels run, as one line."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        import platform

        return f"{platform.machine()} {platform.processor()}"
    flags = next((line for line in text.splitlines() if line.startswith(("flags", "Features"))), "")
    return " ".join(sorted(w for w in flags.split() if w.startswith(("avx", "amx", "fma", "sve", "asimd", "bf16"))))


def _has_bf16() -> bool:
    words = processor_features().split()
    return "amx_bf16" in words or "avx512_bf16" in words or "bf16" in words
