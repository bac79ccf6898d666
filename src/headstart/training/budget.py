"""How many epochs fit into a time limit: decided before training, by timing a throw-away copy."""

import copy
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from lightning_fabric import Fabric

from headstart.data.loading import Batch, BatchSource
from headstart.features.supply import PhaseInputs, Supply
from headstart.models.classifier import ClassifierNetwork
from headstart.training.checkpoint import Checkpoints
from headstart.training.engine import FitSettings, fit
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


class _FirstSteps:
    """A supply of the first few batches, which notes how many there would be."""

    def __init__(self, supply: Supply, limit: int, num_epochs: int) -> None:
        self._supply, self._limit, self._num_epochs = supply, limit, num_epochs
        self.whole = supply.train
        self.train: BatchSource = _FirstBatches(supply.train, limit)
        self.held_out_share = 0.0

    def phase(self, boundary: int, epochs: Sequence[int], *, all_views: bool = False) -> PhaseInputs:
        # Whether features are kept depends on the number of epochs, of which the trial runs one.
        inputs = self._supply.phase(boundary, [*epochs] * self._num_epochs, all_views=True)
        held_out: BatchSource | None = None
        if inputs.held_out is not None:
            held_out = _FirstBatches(inputs.held_out, 2)
            self.held_out_share = len(inputs.held_out) / len(held_out)
        return replace(inputs, train=_FirstBatches(inputs.train, self._limit), held_out=held_out)


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
    make_supply: Callable[[ClassifierNetwork], Supply],
    settings: FitSettings,
    fabric: Fabric,
    num_steps: int = 3,
) -> tuple[float, ...]:
    """Estimate the seconds per epoch of each phase, evaluation included, on a copy of the model.

    The first step of a phase is left out: it allocates and warms up. Features below a boundary are computed for all
    views, which training then finds in the cache, so that the caller's clock has counted them. A phase that is solved
    takes no epoch's time.
    """
    seconds = []
    for phase in plan.phases:
        if phase.solver != "loop":
            seconds.append(0.0)
            continue
        trial = replace(model, network=copy.deepcopy(model.network))
        watch = _Stopwatch()
        short = Plan(plan.strategy, (replace(phase, epochs=1, stop_after=None),), plan.is_pretrained)
        supply = _FirstSteps(make_supply(trial), (num_steps + 1) * settings.accumulate, phase.epochs)
        with tempfile.TemporaryDirectory(prefix="headstart-") as folder:
            fit(
                trial,
                short,
                supply,
                replace(settings, selects=False, patience=None),
                fabric=fabric,
                checkpoints=Checkpoints(Path(folder)),
                log=_NoLog(),
                observer=watch,
            )
        gaps = [after - before for before, after in zip(watch.stamps, watch.stamps[1:], strict=False)]
        step_s = sum(gaps) / len(gaps) if gaps else 0.0
        evaluation_s = watch.evaluations_s[0] * supply.held_out_share if watch.evaluations_s else 0.0
        seconds.append(step_s * -(-len(supply.whole) // settings.accumulate) + evaluation_s)
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
