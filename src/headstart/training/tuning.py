"""How training steps run fastest: memory format, precision and compilation, chosen by timing the network at hand."""

import copy
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

_NUM_IMAGES = 8
_ROUNDS = 2
# Below this there is too little to win; compiling costs about a minute of a CPU.
_WORTH_TUNING_S, _WORTH_COMPILING_S = 8.0, {"cpu": 1200.0, "cuda": 120.0}
_LEAST_TO_COMPILE = 10_000  # images: a busy machine stretches the seconds, not the number


@dataclass(frozen=True)
class StepChoice:
    """How the steps of a phase run.

    Attributes:
        channels_last: Memory format of convolutions.
        precision: `32`, or `bf16`: matrix products and convolutions in bfloat16, weights and sums in 32 bits.
        compiled: Whether the network is compiled.
    """

    channels_last: bool = True
    precision: str = "32"
    compiled: bool = False

    def __str__(self) -> str:
        words = [self.precision, "channels-last" if self.channels_last else "contiguous"]
        return ", ".join([*words, "compiled"] if self.compiled else words)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for config.yaml."""
        return asdict(self)

    def prepare(self, module: nn.Module) -> nn.Module:
        """Set the memory format of a module's weights in place, and compile it where chosen."""
        memory_format = torch.channels_last if self.channels_last else torch.contiguous_format
        module.to(memory_format=memory_format)
        # A graph per batch size: one for all sizes would depend on which came first, and so on where a run was resumed.
        return torch.compile(module, dynamic=False) if self.compiled else module  # type: ignore[return-value]

    def autocast(self, device: torch.device) -> AbstractContextManager[None]:
        """Return the context in which the network runs forward."""
        return torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16")


def candidates(device: torch.device, precision: str, *, channels_last: bool) -> tuple[StepChoice, ...]:
    """List what may be chosen; the first is what runs where nothing is timed.

    Args:
        device: Where training runs.
        precision: `auto`, or the only one.
        channels_last: Whether that memory format may be used.
    """
    default = "bf16" if device.type == "cuda" else "32"
    precisions = {"auto": (default, "32" if default == "bf16" else "bf16")}.get(precision, (precision,))
    formats = (True, False) if channels_last else (False,)
    return tuple(StepChoice(each, p) for p in precisions for each in formats)


def find_batch_size(images_per_s: Callable[[int], float], *, start: int, most: int) -> int:
    """Double the batch while that makes training at least 5 % faster and the memory suffices.

    Args:
        images_per_s: Runs steps with so many images and returns the speed.
        start: First size to try; returned even if it does not fit.
        most: Largest size to try.
    """
    best, best_speed, size = start, 0.0, start
    while size <= most:
        try:
            speed = images_per_s(size)
        except torch.OutOfMemoryError:
            break
        if speed < 1.05 * best_speed:
            break
        best, best_speed, size = size, speed, 2 * size
    return best


def training_speed(
    module: nn.Module, inputs: Tensor, choice: StepChoice, sync: Callable[[], None] = lambda: None
) -> float:
    """Return the images per second of forward and backward passes of a copy of a module."""
    trial, targets = choice.prepare(copy.deepcopy(module)), torch.zeros(len(inputs), dtype=torch.long)
    return len(inputs) / _time_step(trial, inputs, targets.to(inputs.device), choice, sync, warm_up=2)


def choose_step(
    module: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    options: Sequence[StepChoice],
    *,
    num_images: int,
    sync: Callable[[], None] = lambda: None,
) -> StepChoice:
    """Time steps of copies of a module and return the fastest way.

    Each way is timed twice in turns, so that a busy moment of the machine does not decide, and its faster time counts.
    Another way than the first must be 5 % faster than it. Where there is much to do, compiling the fastest is tried; it
    has to save three times what the trial took, because training compiles again, for batches of every size.

    Args:
        module: Maps inputs to logits (N, C); in the phase's modes, on its device.
        inputs: (N, ...), normalised images or activations; only the first few are used.
        targets: (N,).
        options: From `candidates`.
        num_images: How many images the phase will train on in all, over its epochs.
        sync: Waits for the device.
    """
    few = _NUM_IMAGES if inputs.device.type == "cpu" else len(inputs)  # of a few images a GPU's time is all overhead
    inputs, targets = inputs[:few], targets[:few]
    first_s = _time_step(options[0].prepare(copy.deepcopy(module)), inputs, targets, options[0], sync, warm_up=1)
    num_steps = num_images / len(inputs)
    if len(options) == 1 or first_s * num_steps < _WORTH_TUNING_S:
        return options[0]
    best = _best_times(module, inputs, targets, options, sync)
    plain = min(best, key=best.__getitem__)
    worth_s = _WORTH_COMPILING_S.get(inputs.device.type, float("inf"))
    if num_images >= _LEAST_TO_COMPILE and best[plain] * num_steps > worth_s:
        started, compiled = time.monotonic(), replace(plain, compiled=True)
        with suppress(Exception):  # without a C++ compiler, say, nothing can be compiled
            compiled_s = _best_times(module, inputs, targets, [compiled], sync)[compiled]
            if (best[plain] - compiled_s) * num_steps > 3 * (time.monotonic() - started):
                best[compiled] = compiled_s
    fastest = min(best, key=best.__getitem__)
    return fastest if best[fastest] < 0.95 * best[options[0]] else options[0]


def _best_times(
    module: nn.Module, inputs: Tensor, targets: Tensor, options: Sequence[StepChoice], sync: Callable[[], None]
) -> dict[StepChoice, float]:
    modules = {option: option.prepare(copy.deepcopy(module)) for option in options}
    best = dict.fromkeys(options, float("inf"))
    for turn in range(_ROUNDS):
        for option, trial in modules.items():
            taken = _time_step(trial, inputs, targets, option, sync, warm_up=1 - turn)
            best[option] = min(best[option], taken)
    return best


def _time_step(
    module: nn.Module, inputs: Tensor, targets: Tensor, choice: StepChoice, sync: Callable[[], None], *, warm_up: int
) -> float:
    """Return the seconds of a forward and backward pass."""
    taken = 0.0
    with torch.random.fork_rng(devices=[]):
        for _ in range(warm_up + 1):
            sync()
            started = time.monotonic()
            with choice.autocast(inputs.device):
                logits = module(inputs)
            functional.cross_entropy(logits.float(), targets).backward()  # type: ignore[no-untyped-call]
            module.zero_grad()
            sync()
            taken = time.monotonic() - started
    return taken
