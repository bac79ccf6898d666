"""What happens while a network trains, and where training stands."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from headstart.training.step import StepResult

if TYPE_CHECKING:
    from headstart.training.phase_fit import PhaseFit


@dataclass(frozen=True)
class FitStarted:
    """Training begins, or goes on.

    Attributes:
        num_steps: Optimizer steps of the whole plan.
        num_done: How many of them were done before.
        num_rows: How many rows were written before.
    """

    num_steps: int
    num_done: int
    num_rows: int


@dataclass(frozen=True)
class PhaseStarted:
    """A phase is about to take its first step; a consumer may still set `phase.choice`, how its steps run."""

    phase: "PhaseFit"


@dataclass(frozen=True)
class StepDone:
    """An optimizer step is done."""

    result: StepResult


@dataclass(frozen=True)
class HeadSolved:
    """A phase was solved instead of trained; its row of metrics.csv has epoch 0."""

    row: Mapping[str, Any]


@dataclass(frozen=True)
class EpochDone:
    """An epoch is done.

    Attributes:
        row: The row of metrics.csv.
        best: Name to keep the weights under that are the best of their phase so far, or '' where they are not.
    """

    row: Mapping[str, Any]
    best: str


Event = FitStarted | PhaseStarted | StepDone | HeadSolved | EpochDone


@dataclass(frozen=True)
class FitResult:
    """What training did.

    Attributes:
        epochs_run: How many epochs each phase ran.
        best_epochs: The chosen number of epochs of each phase (all of them where nothing was selected).
        unchanged: Trainable tensors that a phase left as they were, as `phase: name` (a rate too small to matter).
    """

    epochs_run: tuple[int, ...]
    best_epochs: tuple[int, ...]
    unchanged: tuple[str, ...]


@dataclass
class Position:
    """Where training stands; all of it goes into a checkpoint."""

    phase: int = 0
    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    num_correct: float = 0.0
    num_seen: int = 0
    epoch_s: float = 0.0
    best_loss: float | None = None
    best_epoch: int = 0
    num_rows: int = 0
    frozen_digest: str = ""
    start_digests: dict[str, str] = field(default_factory=dict)
    epochs_run: list[int] = field(default_factory=list)
    best_epochs: list[int] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)

    def start_epoch(self, epoch: int) -> None:
        """Stand before the first step of an epoch."""
        self.epoch = epoch
        self.step = 0
        self.loss_sum = 0.0
        self.num_correct = 0.0
        self.num_seen = 0
        self.epoch_s = 0.0

    @property
    def best_name(self) -> str:
        """The name of the best weights; one per phase, so that a kill in the next phase loses nothing that it needs."""
        return f"best-{self.phase + 1}"
