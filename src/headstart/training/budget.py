"""How many epochs fit into a time limit: decided before training, by timing a throw-away copy."""

import copy
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from lightning_fabric import Fabric

from headstart.data.loading import Batch
from headstart.models.classifier import ClassifierNetwork
from headstart.training.checkpoint import Checkpoints
from headstart.training.engine import BatchSource, FitSettings, fit
from headstart.training.observers import Row, SilentProgress
from headstart.training.plan import Plan


@dataclass(frozen=True)
class _FirstBatches:
    """The first few batches of a source."""

    source: BatchSource
    limit: int

    @property
    def num_images(self) -> int:
        return min(self.source.num_images, self.limit * self.source.batch_size)

    @property
    def batch_size(self) -> int:
        return self.source.batch_size

    def __len__(self) -> int:
        return min(len(self.source), self.limit)

    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[Batch]:
        return islice(self.source.epoch(epoch, start=start), self.limit)


class _Stopwatch(SilentProgress):
    """Notes when each step ended, and how long the evaluation after the last one took."""

    def __init__(self) -> None:
        self.stamps: list[float] = []
        self.evaluations_s: list[float] = []

    def on_step(self) -> None:
        self.stamps.append(time.monotonic())

    def on_epoch(self, row: Row) -> None:
        self.evaluations_s.append(time.monotonic() - self.stamps[-1])


class _NoLog:
    def append(self, row: Row) -> None:
        """Forget it."""

    def truncate_to(self, num_rows: int) -> None:
        """Nothing is there."""


def epoch_seconds(
    model: ClassifierNetwork,
    plan: Plan,
    train: BatchSource,
    held_out: BatchSource | None,
    settings: FitSettings,
    fabric: Fabric,
    num_steps: int = 3,
) -> tuple[float, ...]:
    """Estimate the seconds per epoch of each phase, evaluation included, on a copy of the model.

    The first step of a phase is left out: it allocates and warms up.
    """
    train_steps = -(-len(train) // settings.accumulate)
    seconds = []
    for phase in plan.phases:
        trial = replace(model, network=copy.deepcopy(model.network))
        watch = _Stopwatch()
        short = Plan(plan.strategy, (replace(phase, epochs=1, stop_after=None),), plan.is_pretrained)
        few = _FirstBatches(train, (num_steps + 1) * settings.accumulate)
        few_held_out = _FirstBatches(held_out, 2) if held_out is not None else None
        with tempfile.TemporaryDirectory(prefix="headstart-") as folder:
            fit(
                trial,
                short,
                few,
                few_held_out,
                replace(settings, selects=False, patience=None),
                fabric=fabric,
                checkpoints=Checkpoints(Path(folder)),
                log=_NoLog(),
                observer=watch,
            )
        gaps = [after - before for before, after in zip(watch.stamps, watch.stamps[1:], strict=False)]
        step_s = sum(gaps) / len(gaps) if gaps else 0.0
        evaluation_s = 0.0
        if held_out is not None and few_held_out is not None:
            evaluation_s = watch.evaluations_s[0] * len(held_out) / len(few_held_out)
        seconds.append(step_s * train_steps + evaluation_s)
    return tuple(seconds)


def fit_to_time(plan: Plan, seconds_per_epoch: tuple[float, ...], limit_s: float) -> tuple[tuple[int, ...], float]:
    """Shorten all phases in proportion until they fit.

    Returns:
        Epochs per phase (at least 1 where there were any), and the seconds that they are expected to take.
    """
    lengths = [phase.epochs for phase in plan.phases]
    total = sum(length * each for length, each in zip(lengths, seconds_per_epoch, strict=True))
    if total > limit_s:
        lengths = [max(1, int(length * limit_s / total)) if length else 0 for length in lengths]
    return tuple(lengths), sum(length * each for length, each in zip(lengths, seconds_per_epoch, strict=True))
