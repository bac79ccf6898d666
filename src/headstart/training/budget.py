"""How many epochs fit into a time limit: decided before training, by timing a throw-away copy."""

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

from lightning_fabric import Fabric

from headstart.features.supply import FeatureSupply
from headstart.models.classifier import ClassifierNetwork
from headstart.training.events import PhaseStarted, StepDone
from headstart.training.loop import Fit, solver_inputs
from headstart.training.phase_fit import PhaseFit
from headstart.training.plan import Phase, Plan, apply_modes, resolve
from headstart.training.settings import FitSettings
from headstart.types import StepChoice


@dataclass(frozen=True)
class StepTiming:
    """How the steps of a phase run, and how long one takes.

    Attributes:
        seconds: Duration of an optimizer step; 0 where the phase is solved instead.
        choice: How steps ran while they were timed, and are to run; None of a phase that is solved.
    """

    seconds: float
    choice: StepChoice | None


def time_steps(
    model: ClassifierNetwork,
    plan: Plan,
    make_supply: Callable[[ClassifierNetwork], FeatureSupply],
    settings: FitSettings,
    fabric: Fabric,
    *,
    choose_step: Callable[[int, PhaseFit], StepChoice] | None = None,
    num_steps: int = 3,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[StepTiming, ...]:
    """Time the steps of each phase, on a copy of the model, in the way in which they will run.

    Features below a boundary are computed for all epochs to come, which training then finds in the cache, so that the
    caller's clock has counted them. A phase that is solved takes no steps, one that has to be trained instead does.

    Args:
        model: The network.
        plan: What trains when.
        make_supply: Feeds a copy of the model.
        settings: How to train.
        fabric: Fabric of the device that trains.
        choose_step: Says how the steps of the phase of a number, from 0, run; default: as in `settings`.
        num_steps: How many steps count.
        clock: Gives seconds.
    """
    timings = []
    for number, phase in enumerate(plan.phases):
        trial = replace(model, network=copy.deepcopy(model.network))
        supply = make_supply(trial)
        if _can_be_solved(trial, phase, supply):
            timings.append(StepTiming(0.0, None))
            continue
        choose = None if choose_step is None else partial(choose_step, number)
        plan_of_one = Plan("time limit", (replace(phase, solver="loop"),))
        fit_settings = replace(settings, selects=False, patience=None)
        fit = Fit(trial, plan_of_one, supply, fit_settings, fabric, first_phase=number)
        timings.append(_time_step(fit, choose, num_steps, clock))
    return tuple(timings)


def epoch_seconds(timing: StepTiming, num_train: int, num_held_out: int, images_per_step: int) -> float:
    """Estimate the seconds of an epoch, evaluation included.

    Args:
        timing: Durations of the phase's steps.
        num_train: Images that train.
        num_held_out: Images that are evaluated after every epoch. Such an image takes half of one that trains.
        images_per_step: Images of an optimizer step.
    """
    num_steps = -(-num_train // images_per_step)
    return timing.seconds * (num_steps + num_held_out / images_per_step / 2)


def _can_be_solved(trial: ClassifierNetwork, phase: Phase, supply: FeatureSupply) -> bool:
    if phase.solver != "lbfgs":
        return False
    resolved = resolve(phase, trial.network, trial.stages)
    apply_modes(trial.network, resolved)
    return not isinstance(solver_inputs(trial, resolved.boundary, supply), str)


def _time_step(
    fit: Fit, choose_step: Callable[[PhaseFit], StepChoice] | None, num_steps: int, clock: Callable[[], float]
) -> StepTiming:
    """Time a few steps of a fit of one phase.

    The first step of a phase is left out: it allocates and warms up. Of the others the shortest counts, since one may
    hold an evaluation or a busy moment.
    """
    choice = fit.settings.step
    ended_at: list[float] = []
    for event in fit.events():
        if isinstance(event, PhaseStarted):
            if choose_step is not None:
                event.phase.choice = choose_step(event.phase)
            choice = event.phase.choice
        if isinstance(event, StepDone):
            ended_at.append(clock())
            if len(ended_at) > num_steps:
                break
    seconds = min((after - before for before, after in pairwise(ended_at)), default=0.0)
    return StepTiming(seconds, choice)


def fit_to_time(plan: Plan, seconds_per_epoch: tuple[float, ...], limit_s: float) -> tuple[tuple[int, ...], float]:
    """Shorten all phases in proportion until they fit.

    Args:
        plan: What trains when.
        seconds_per_epoch: What an epoch of each phase takes.
        limit_s: Seconds that all of them may take together.

    Returns:
        Epochs per phase (at least 1 where there were any), and the seconds that they are expected to take.
    """
    lengths = [phase.epochs for phase in plan.phases]
    total_s = _total_seconds(lengths, seconds_per_epoch)
    if total_s > max(limit_s, 0):
        for number, length in enumerate(lengths):
            if length:
                lengths[number] = max(1, int(length * limit_s / total_s))
    return tuple(lengths), _total_seconds(lengths, seconds_per_epoch)


def _total_seconds(lengths: Sequence[int], seconds_per_epoch: Sequence[float]) -> float:
    """Return what phases of some lengths take together."""
    return sum(length * seconds for length, seconds in zip(lengths, seconds_per_epoch, strict=True))
