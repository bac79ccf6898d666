"""How to train, as the loop wants to know it. Importing this module loads no torch."""

from dataclasses import dataclass, field

from headstart.types import StepChoice


@dataclass(frozen=True)
class FitSettings:
    """How to train; see the fields of the same names in `headstart.config.Config`.

    Attributes:
        selects: Whether the held-out images choose the epoch of each phase (ties to the earlier).
        select_by: Lowest `loss` or highest `accuracy`.
        memory_limit: The most memory that training may take, 10**9 bytes; None: a share of the machine's.
        step: How steps run where nothing else is chosen for a phase.
    """

    optimizer: str = "adamw"
    momentum: float = 0.9
    weight_decay: float = 0.01
    decay_all: bool = False
    loss_reduction: str = "mean"
    schedule: str = "one-cycle"
    warmup: float = 0.1
    step_epochs: int = 7
    clip_norm: float | None = None
    accumulate: int = 1
    label_smoothing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    ema: float = 0.0
    seed: int = 0
    selects: bool = False
    select_by: str = "loss"
    patience: int | None = None
    memory_limit: float | None = None
    step: StepChoice = field(default_factory=StepChoice)
