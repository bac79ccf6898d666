"""How many epochs fit into a time limit: decided before training, by timing a throw-away copy."""

import copy
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

from lightning_fabric import Fabric

from headstart.features.supply import FeatureSupply
from headstart.models.classifier import ClassifierNetwork
from headstart.training.events import StepDone
from headstart.training.loop import Fit, solver_inputs
from headstart.training.plan import Phase, Plan, apply_modes, resolve
from headstart.training.settings import FitSettings


def epoch_seconds(
    model: ClassifierNetwork,
    plan: Plan,
    make_supply: Callable[[ClassifierNetwork], FeatureSupply],
    settings: FitSettings,
    fabric: Fabric,
    num_steps: int = 3,
) -> tuple[float, ...]:
    """Estimate the seconds per epoch of each phase, evaluation included, on a copy of the model.

    Features below a boundary are computed for all epochs to come, which training then finds in the cache, so that the
    caller's clock has counted them. A phase that is solved takes no epoch's time, one that has to be trained instead
    does.
    """
    seconds = []
    for phase in plan.phases:
        trial = replace(model, network=copy.deepcopy(model.network))
        supply = make_supply(trial)
        if _can_be_solved(trial, phase, supply):
            seconds.append(0.0)
            continue
        step_s = _step_seconds(trial, phase, supply, settings, fabric, num_steps)
        num_held_out = supply.held_out.num_images if supply.held_out is not None else 0
        # An image that is evaluated takes half of one that trains.
        evaluation_steps = num_held_out / (supply.train.batch_size * settings.accumulate) / 2
        seconds.append(step_s * (-(-len(supply.train) // settings.accumulate) + evaluation_steps))
    return tuple(seconds)


def _can_be_solved(trial: ClassifierNetwork, phase: Phase, supply: FeatureSupply) -> bool:
    if phase.solver != "lbfgs":
        return False
    resolved = resolve(phase, trial.network, trial.stages)
    apply_modes(trial.network, resolved)
    return not isinstance(solver_inputs(trial, resolved.boundary, supply), str)


def _step_seconds(
    trial: ClassifierNetwork,
    phase: Phase,
    supply: FeatureSupply,
    settings: FitSettings,
    fabric: Fabric,
    num_steps: int,
) -> float:
    """Return the seconds of a step.

    The first step of a phase is left out: it allocates and warms up. Of the others the shortest counts, since one may
    hold an evaluation or a busy moment.
    """
    plan = Plan("time limit", (replace(phase, solver="loop"),))
    fit = Fit(trial, plan, supply, replace(settings, selects=False, patience=None), fabric)
    ended_at: list[float] = []
    for event in fit.events():
        if isinstance(event, StepDone):
            ended_at.append(time.monotonic())
            if len(ended_at) > num_steps:
                break
    return min((after - before for before, after in pairwise(ended_at)), default=0.0)


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
