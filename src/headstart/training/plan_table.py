"""What `headstart plan` prints: a plan as a table per phase. Importing this module loads no torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from headstart.training.plan import Plan, ResolvedPhase, Solver, resolve
from headstart.types import Stage

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class StageRow:
    """One line of the printed plan: a stage within a phase.

    Attributes:
        stage: Name of the stage.
        parameters: How many numbers it has.
        trainable: How many of them train.
        learning_rates: Each different rate once, in rising order.
    """

    stage: str
    parameters: int
    trainable: int
    learning_rates: tuple[float, ...]


@dataclass(frozen=True)
class PhaseTable:
    """What `headstart plan` prints of a phase."""

    name: str
    epochs: int
    batch_norm: str
    boundary: str
    parameters: int
    trainable: int
    stages: tuple[StageRow, ...] = ()
    solver: Solver = "loop"
    penalty: str = ""

    @property
    def share(self) -> str:
        """Trainable of all parameters: `1,026 / 11,177,538 (0.01 %)`."""
        return share(self.trainable, self.parameters)


def share(part: int, whole: int) -> str:
    """Format a count of a count: `1,026 / 11,177,538 (0.01 %)`."""
    percent = 100 * part / whole if whole else 0
    return f"{part:,} / {whole:,} ({percent:.2f} %)"


def tabulate_plan(plan: Plan, network: "nn.Module", stages: tuple[Stage, ...]) -> tuple[PhaseTable, ...]:
    """Tabulate a plan per phase and stage, before anything runs.

    Raises:
        PlanError: The table does not fit the network.
    """
    counts = {name: parameter.numel() for name, parameter in network.named_parameters()}
    tables = []
    for phase in plan.phases:
        resolved = resolve(phase, network, stages)
        boundary = "none: everything runs"
        if resolved.boundary:
            boundary = f"after {stages[resolved.boundary - 1].name}"
        rows = [_stage_row(stage, counts, resolved) for stage in stages]
        trainable = sum(counts[name] for name in resolved.learning_rates)
        tables.append(
            PhaseTable(
                phase.name,
                phase.epochs_to_run,
                batch_norm="batch" if resolved.trains_batch_statistics else "fixed",
                boundary=boundary,
                parameters=sum(counts.values()),
                trainable=trainable,
                stages=tuple(rows),
                solver=phase.solver,
                penalty=str(phase.penalty or ""),
            )
        )
    return tuple(tables)


def _stage_row(stage: Stage, counts: Mapping[str, int], resolved: ResolvedPhase) -> StageRow:
    """Count a stage's parameters, from the number of values of each parameter of the network."""
    num_all = 0
    num_trainable = 0
    rates = set()
    for name, count in counts.items():
        if not stage.owns(name):
            continue
        num_all += count
        if name in resolved.learning_rates:
            num_trainable += count
            rates.add(resolved.learning_rates[name])
    return StageRow(stage.name, num_all, num_trainable, tuple(sorted(rates)))
