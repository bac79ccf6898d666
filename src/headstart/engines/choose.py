"""The engines that there are, and which of them runs a network: the fastest that agrees with PyTorch in 32 bits."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from headstart.engines.conversion import OPENVINO
from headstart.engines.engine import NUM_SAMPLES, Engine, EngineKind
from headstart.engines.parity import Rows, disagreement
from headstart.engines.torch_engine import TORCH, TORCH_COMPILED, TorchEngine
from headstart.errors import ConfigError, did_you_mean
from headstart.preprocessing import Pixels
from headstart.types import InputSpec

# Fastest first, where several run on a device.
ENGINES: dict[str, EngineKind] = {"openvino": OPENVINO, "torch-compiled": TORCH_COMPILED, "torch": TORCH}
PRECISIONS = ("auto", "32", "bf16")


@dataclass(frozen=True)
class Choice:
    """Which engine to use, in which precision."""

    name: str
    precision: str

    def __str__(self) -> str:
        return f"{self.name} {self.precision}"


REFERENCE = Choice("torch", "32")


def choices(
    device: torch.device, *, engine: str = "auto", precision: str = "auto", num_images: int = 0
) -> tuple[Choice, ...]:
    """List the engines to try on a device, fastest first; the last is PyTorch in 32 bits.

    A precision that is asked for is tried first, and in 32 bits what is left where no engine agrees with it.

    Args:
        device: Where the network runs.
        engine: A key of `ENGINES`, or `auto`.
        precision: `auto`, `32` or `bf16`.
        num_images: How many images there are to compute, at the least; 0: that is not known.

    Raises:
        ConfigError: An engine or precision is not known, or the engine or the two together are not for this device.
    """
    _refuse_unknown("engine", engine, ("auto", *ENGINES))
    _refuse_unknown("precision", precision, PRECISIONS)
    kinds = _eligible_kinds(device, engine, num_images)
    found: list[Choice] = []
    if precision == "auto":
        for name, kind in kinds.items():
            found += [Choice(name, usual) for usual in kind.usual(device)]
    else:
        found = [Choice(name, precision) for name, kind in kinds.items() if precision in kind.usual(device)]
        if not found:
            found = [Choice(name, precision) for name, kind in kinds.items() if precision in kind.precisions(device)]
        if not found:
            raise ConfigError(
                f"engine={engine} has no precision={precision} on this {device}, whose hardware lacks it; "
                "use precision=auto, or engine=auto"
            )
        if precision != "32":
            found += [Choice(name, "32") for name in kinds]
    if REFERENCE not in found:
        found.append(REFERENCE)
    return tuple(found)


def _eligible_kinds(device: torch.device, engine: str, num_images: int) -> dict[str, EngineKind]:
    """Return the engines that may be tried on a device."""
    if engine == "auto":
        return {
            name: kind for name, kind in ENGINES.items() if kind.precisions(device) and num_images >= kind.least_images
        }
    if not ENGINES[engine].precisions(device):
        raise ConfigError(f"engine={engine} runs on {ENGINES[engine].runs_on}, not on {device}; use engine=auto")
    return {engine: ENGINES[engine]}


def open_engine(
    module: nn.Module,
    spec: InputSpec,
    samples: Pixels,
    candidates: tuple[Choice, ...],
    *,
    device: torch.device,
    has_head: bool,
    say: Callable[[str], None],
    may_vary: bool = False,
) -> tuple[Engine, Rows, Rows]:
    """Find the first engine that agrees with PyTorch in 32 bits on some images.

    Args:
        module: Maps normalised images (N, 3, H, W) to one tensor; in eval mode, on the device.
        spec: How images become its input.
        samples: `uint8` (N, H, W, 3), to compare on: the first images of the work to be done, or `made_pictures`.
        candidates: What `choices` returns.
        device: Where the module is.
        has_head: Whether the output is logits, so that the most probable class is compared too.
        say: Told which engine was refused, and why.
        may_vary: Whether in 32 bits the last digits of an image's result may depend on how many images go through the
            network together. Otherwise they do not: PyTorch's passes are filled up to one size.

    Returns:
        The engine, PyTorch's results on the samples and the engine's.
    """
    plain = TorchEngine(module, spec, "32", device, fold=False, batch=None if may_vary else NUM_SAMPLES)
    expected = next(iter(plain.run([samples])))
    makers: dict[str, Callable[[str], Engine]] = {}
    for choice in candidates:
        try:
            if choice.name not in makers:
                makers[choice.name] = ENGINES[choice.name].prepare(module, spec, device, may_vary)
            engine = makers[choice.name](choice.precision)
            found = np.concatenate(list(engine.run([samples])))
            reason = disagreement(found, expected, choice.precision, has_head=has_head)
        except Exception as error:  # converters, compilers and folding raise all kinds
            reason = " ".join(str(error).split())[:300] or type(error).__name__
        if not reason:
            return engine, expected, found
        say(f"engine {choice} is not used for this network: {reason}")
    return plain, expected, expected


def _refuse_unknown(key: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigError(f"{key}={value!r} is not one of {', '.join(known)}.{did_you_mean(value, known)}")
