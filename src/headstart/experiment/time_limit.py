"""How long each phase may be so that a run ends within its time limit: decided before training."""

import time
from collections.abc import Callable, Sequence

import torch

from headstart.experiment.experiment import Experiment
from headstart.experiment.fits import INNER_VALIDATION
from headstart.training.budget import StepTiming, epoch_seconds, fit_to_time, time_steps
from headstart.training.phase_fit import PhaseFit
from headstart.types import StepChoice

_NUM_IMAGES = 8  # of a forward pass that is timed


def within_time_limit(
    experiment: Experiment, started: float, *, clock: Callable[[], float] = time.monotonic
) -> Experiment:
    """Shorten the plan to the time limit, unless a run that is repeated did so.

    The limit is for the run: reading the data, computing features, all of its fits, also the one that only scores, and
    the evaluation of the model. How steps run is chosen here, so that what is timed is what will run.

    Args:
        experiment: All that is decided.
        started: When the run began, by the clock.
        clock: Gives seconds.
    """
    config = experiment.config
    plan = experiment.plan
    if config.time_limit is None or experiment.resolved.is_timed:
        return experiment
    manifest = experiment.manifest
    held_out = manifest.of_split(manifest.reported) if config.monitor else None

    def choose_step(number: int, phase: PhaseFit) -> StepChoice:
        """Decide how the steps of a phase run, as training will."""
        return experiment.choose_step(phase, number)

    timings = time_steps(
        experiment.model,
        plan,
        lambda trial: experiment.supply(experiment.train, held_out, model=trial),
        experiment.fit_settings,
        experiment.fabric,
        choose_step=choose_step,
        clock=clock,
    )
    evaluation_s = _evaluation_seconds(experiment, clock)
    spent_s = clock() - started
    left_s = config.time_limit - spent_s - evaluation_s
    epochs, training_s = fit_to_time(plan, _seconds_per_epoch(experiment, timings), left_s)

    expected_s = spent_s + training_s + evaluation_s
    experiment.display.say(
        f"time limit {config.time_limit:.0f} s: epochs per phase {list(epochs)}, about {expected_s:.0f} s in all"
    )
    if training_s > left_s:
        experiment.display.note(
            "the time limit is too short for one epoch of each phase; one epoch is the least that can be run"
        )
    resolved = experiment.resolved.replace(epochs=epochs, is_timed=True)
    for number, timing in enumerate(timings):
        if timing.choice is not None:
            resolved = resolved.with_step(number, timing.choice)
    return experiment.with_resolved(resolved)


def _seconds_per_epoch(experiment: Experiment, timings: Sequence[StepTiming]) -> tuple[float, ...]:
    """Return what an epoch of each phase takes in all fits together; each fit runs the same number of epochs."""
    images_per_step = experiment.resolved.batch_size * experiment.config.accumulate
    seconds = [0.0] * len(timings)
    for fit in experiment.fits():
        num_train = len(experiment.images(fit.train))
        num_held_out = len(experiment.images(fit.held_out)) if fit.held_out is not None else 0
        for number, timing in enumerate(timings):
            seconds[number] += epoch_seconds(timing, num_train, num_held_out, images_per_step)
    return tuple(seconds)


def _evaluation_seconds(experiment: Experiment, clock: Callable[[], float]) -> float:
    """Estimate how long evaluating takes, by a forward pass in PyTorch; an engine is faster once it is open."""
    manifest = experiment.manifest
    config = experiment.config
    num_images = len(manifest.of_split(manifest.reported))
    if config.selection_score:
        num_images += len(experiment.images(manifest.selection or INNER_VALIDATION))
    device = experiment.fabric.device
    network = experiment.model.network.to(device).eval()
    pixels = torch.zeros(_NUM_IMAGES, 3, *experiment.model.spec.size, device=device)
    seconds = []
    with torch.inference_mode():
        for _ in range(2):  # the first one warms up
            started = clock()
            network(pixels).sum().item()
            seconds.append(clock() - started)
    return min(seconds) / _NUM_IMAGES * num_images
