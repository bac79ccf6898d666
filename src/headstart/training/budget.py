"""How many epochs fit into a time limit: decided before training, by timing a throw-away copy."""

import copy
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from lightning_fabric import Fabric

from headstart.features.supply import FeatureSupply
from headstart.history import MetricsLog
from headstart.models.classifier import ClassifierNetwork
from headstart.training.checkpoint import Checkpoints
from headstart.training.engine import FitSettings, fit, solver_inputs
from headstart.training.observers import SilentProgress
from headstart.training.plan import Plan, apply_modes, resolve


class _EnoughError(Exception):
    """Ends a trial."""


class _Stopwatch(SilentProgress):
    """Notes when each step ended, and stops training after a few."""

    def __init__(self, num_steps: int) -> None:
        self.stamps: list[float] = []
        self._num_steps = num_steps

    def on_step(self) -> None:
        self.stamps.append(time.monotonic())
        if len(self.stamps) > self._num_steps:
            raise _EnoughError


def epoch_seconds(
    model: ClassifierNetwork,
    plan: Plan,
    make_supply: Callable[[ClassifierNetwork], FeatureSupply],
    settings: FitSettings,
    fabric: Fabric,
    num_steps: int = 3,
) -> tuple[float, ...]:
    """Estimate the seconds per epoch of each phase, evaluation included, on a copy of the model.

    The first step of a phase is left out: it allocates and warms up. Of the others the shortest counts, since one may
    hold an evaluation or a busy moment; an image that is evaluated takes half of one that trains. Features below a
    boundary are computed for all epochs to come, which training then finds in the cache, so that the caller's clock has
    counted them. A phase that is solved takes no epoch's time, one that has to be trained instead does.
    """
    seconds = []
    for phase in plan.phases:
        trial, watch = replace(model, network=copy.deepcopy(model.network)), _Stopwatch(num_steps)
        supply = make_supply(trial)
        if phase.solver == "lbfgs":
            resolved = resolve(phase, trial.network, trial.stages)
            apply_modes(trial.network, resolved)
            if not isinstance(solver_inputs(trial, resolved.boundary, supply), str):
                seconds.append(0.0)
                continue
        with tempfile.TemporaryDirectory(prefix="headstart-") as folder, suppress(_EnoughError):
            fit(
                trial,
                Plan(plan.strategy, (replace(phase, solver="loop"),), plan.is_pretrained),
                supply,
                replace(settings, selects=False, patience=None),
                fabric=fabric,
                checkpoints=Checkpoints(Path(folder)),
                log=MetricsLog(Path(folder) / "metrics.csv"),
                observer=watch,
            )
        step_s = min((after - before for before, after in pairwise(watch.stamps)), default=0.0)
        num_held_out = supply.held_out.num_images if supply.held_out is not None else 0
        evaluation_steps = num_held_out / (supply.train.batch_size * settings.accumulate) / 2
        seconds.append(step_s * (-(-len(supply.train) // settings.accumulate) + evaluation_steps))
    return tuple(seconds)


def fit_to_time(plan: Plan, seconds_per_epoch: tuple[float, ...], limit_s: float) -> tuple[tuple[int, ...], float]:
    """Shorten all phases in proportion until they fit.

    Returns:
        Epochs per phase (at least 1 where there were any), and the seconds that they are expected to take.
    """
    lengths = [phase.epochs for phase in plan.phases]
    total = sum(length * each for length, each in zip(lengths, seconds_per_epoch, strict=True))
    if total > max(limit_s, 0):
        lengths = [max(1, int(length * limit_s / total)) if length else 0 for length in lengths]
    return tuple(lengths), sum(length * each for length, each in zip(lengths, seconds_per_epoch, strict=True))
