"""What training will take in memory, estimated before it starts."""

from dataclasses import dataclass

import torch

from headstart.machine import resident_bytes
from headstart.models.classifier import ClassifierNetwork
from headstart.training.memory import fit_memory, fixed_bytes, measure_step, memory_limit
from headstart.training.plan import Phase, Plan, apply_modes, resolve
from headstart.training.settings import FitSettings
from headstart.types import StepChoice

# An engine, decoded pictures and the pass over the held-out images, none of which is loaded before training starts.
_LATER_BYTES = 700 * 10**6


@dataclass(frozen=True)
class PhaseMemory:
    """What a phase takes, and how its batches run so that they fit.

    Attributes:
        num_bytes: The most bytes that the process will hold, or on a GPU what training will.
        fixed_bytes: Bytes of that which no other way to run batches would save: the process, the network, its averages.
        limit_bytes: The most bytes that it may hold.
        batch_size: Number of images in a batch.
        step: How steps run.
    """

    num_bytes: int
    fixed_bytes: int
    limit_bytes: int
    batch_size: int
    step: StepChoice

    @property
    def line(self) -> str:
        """The line that says what training will take."""
        line = f"memory: about {self.num_bytes / 1e9:.1f} GB"
        if self.step.piece_size:
            verb = "runs" if self.step.piece_size == 1 else "run"
            line += f"; of a batch of {self.batch_size} images {self.step.piece_size} {verb} at a time"
        if self.step.recomputes:
            line += "; blocks are computed twice to take less, which takes about a quarter longer"
        return line

    @property
    def warning(self) -> str:
        """The sentence that says what to do where that is too much, or ''."""
        if self.num_bytes <= self.limit_bytes:
            return ""
        return (
            f"training will take about {self.num_bytes / 1e9:.1f} GB of memory, and may take "
            f"{self.limit_bytes / 1e9:.1f} GB (--memory-limit); {self._advice}"
        )

    @property
    def _advice(self) -> str:
        """The settings that take less."""
        if self.fixed_bytes >= self.limit_bytes:
            return f"about {self.fixed_bytes / 1e9:.1f} GB of it does not depend on the batch, so raise the limit"
        if self.step.recomputes:
            return "use a smaller --batch-size, or --batch-norm fixed, with which a batch can run in pieces"
        if self.step.piece_size == 1:
            return "use a smaller --image-size, or another --backbone"
        return "use a smaller --batch-size, or a smaller --image-size"


def estimate_memory(
    model: ClassifierNetwork, plan: Plan, settings: FitSettings, batch_size: int, device: torch.device
) -> PhaseMemory:
    """Return what the phase of a plan takes that takes the most.

    Args:
        model: The network, on the CPU; its modules' modes change.
        plan: What trains when.
        settings: How to train.
        batch_size: Number of images in a batch.
        device: Where training will run.
    """
    phases = [_phase_memory(model, phase, settings, batch_size, device) for phase in plan.phases]
    return max(phases, key=lambda phase: phase.num_bytes)


def _phase_memory(
    model: ClassifierNetwork, phase: Phase, settings: FitSettings, batch_size: int, device: torch.device
) -> PhaseMemory:
    network = model.network
    apply_modes(network, resolve(phase, network, model.stages))
    # Below the freeze boundary nothing is kept for a backward pass, so that the whole network may be measured.
    memory = measure_step(network, (3, *model.spec.size), settings.step, torch.device("cpu"))
    limit = memory_limit(device, network, settings.memory_limit)
    step = fit_memory(settings.step, memory, batch_size, limit)
    fixed = fixed_bytes(device, network)
    limit_bytes = fixed + limit.whole
    if settings.memory_limit is not None:
        limit_bytes = int(settings.memory_limit * 1e9)
    if device.type != "cuda":
        fixed = max(fixed, (resident_bytes() or 0) + _LATER_BYTES)
    return PhaseMemory(
        num_bytes=fixed + memory.bytes_of(step, batch_size, device),
        fixed_bytes=fixed,
        limit_bytes=limit_bytes,
        batch_size=batch_size,
        step=step,
    )
