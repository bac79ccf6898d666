"""What training will take in memory, estimated before it starts."""

from dataclasses import dataclass

import torch

from headstart.machine import resident_bytes
from headstart.models.classifier import ClassifierNetwork
from headstart.training.memory import fit_memory, fixed_bytes, measure_step, memory_limit
from headstart.training.plan import Phase, Plan, apply_modes, resolve
from headstart.training.settings import FitSettings
from headstart.types import StepChoice

_ENGINE_BYTES = 200 * 10**6  # loaded only when features are computed


@dataclass(frozen=True)
class PhaseMemory:
    """What a phase takes, and how its batches run so that they fit.

    Attributes:
        num_bytes: Most that the process, or the GPU, will hold at a time.
        limit_bytes: What it may take.
        batch_size: Images of a batch.
        step: How steps run.
    """

    num_bytes: int
    limit_bytes: int
    batch_size: int
    step: StepChoice

    @property
    def line(self) -> str:
        """The line that says what training will take."""
        line = f"memory: about {self.num_bytes / 1e9:.1f} GB"
        if self.step.piece_size:
            line += f"; of a batch of {self.batch_size} images {self.step.piece_size} run at a time"
        if self.step.recomputes:
            line += "; blocks are computed twice to take less, which takes about a quarter longer"
        return line

    @property
    def warning(self) -> str:
        """The sentence that says what to do where that is too much, or ''."""
        if self.num_bytes <= self.limit_bytes:
            return ""
        advice = "use a smaller --batch-size, or a smaller --image-size"
        if self.step.recomputes:
            advice = "use a smaller --batch-size, or --batch-norm fixed, with which a batch can run in pieces"
        return (
            f"training will take about {self.num_bytes / 1e9:.1f} GB of memory, and may take "
            f"{self.limit_bytes / 1e9:.1f} GB (--memory-limit); {advice}"
        )


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
    if device.type != "cuda":
        fixed = max(fixed, (resident_bytes() or 0) + _ENGINE_BYTES)
    return PhaseMemory(fixed + memory.bytes_of(step, batch_size, device), limit_bytes, batch_size, step)
