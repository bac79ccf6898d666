"""The learning-rate range test: the training loop on a copy of the model that is thrown away."""

import copy
import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from lightning_fabric import Fabric

from headstart.errors import DivergedError, TrainingError
from headstart.features.supply import FeatureSupply
from headstart.models.classifier import ClassifierNetwork
from headstart.training.batches import num_batches
from headstart.training.events import StepDone
from headstart.training.loop import Fit
from headstart.training.plan import Phase, Plan
from headstart.training.settings import FitSettings

_WARM_UP = 10
_SMOOTHING = 0.9  # of the average of losses
_WORSE = 4.0  # times the lowest loss, where the test stops
# What acts on the whole of training is off in a range test.
LEFT_OUT: dict[str, Any] = {"mixup": 0.0, "cutmix": 0.0, "ema": 0.0, "clip_norm": None, "accumulate": 1}


@dataclass(frozen=True)
class RangeTest:
    """What the range test saw.

    Attributes:
        learning_rates: The rate of each step, of the lowest part that trains.
        losses: The smoothed loss of each step.
        suggestion: Rate at which the smoothed loss falls fastest per decade.
    """

    learning_rates: tuple[float, ...]
    losses: tuple[float, ...]
    suggestion: float


def find_lr(
    model: ClassifierNetwork,
    phase: Phase,
    make_supply: Callable[[ClassifierNetwork], FeatureSupply],
    settings: FitSettings,
    fabric: Fabric,
    *,
    low: float = 1e-6,
    high: float = 1.0,
    num_steps: int = 100,
) -> RangeTest:
    """Raise the rate exponentially over `num_steps` steps and watch the loss (Smith 2017, arXiv:1506.01186).

    The multipliers of the phase's table hold throughout, so the suggestion is a value for `lr`. The test stops where
    the smoothed loss exceeds four times its lowest value.

    Raises:
        TrainingError: The loss was never finite, or the test was too short to show a slope.
    """
    trial = replace(model, network=copy.deepcopy(model.network))
    fabric.to_device(trial.network)
    supply = make_supply(trial)
    num_epochs = math.ceil(num_steps / num_batches(supply.train))
    trial_phase = replace(phase, lr=1.0, epochs=num_epochs, stop_after=None, solver="loop")
    settings = replace(settings, **LEFT_OUT, selects=False, patience=None)

    def rate(step: int) -> float:
        """Return the rate of a step, from `low` at the first to `high` at the last."""
        return float(low * (high / low) ** (step / (num_steps - 1)))

    fit = Fit(trial, Plan("range test", (trial_phase,)), supply, settings, fabric, rate_factor=rate)
    rates: list[float] = []
    losses: list[float] = []
    average = 0.0
    with suppress(DivergedError):  # the end of what the test can see
        for event in fit.events():
            if not isinstance(event, StepDone):
                continue
            average = _SMOOTHING * average + (1 - _SMOOTHING) * event.result.loss
            rates.append(rate(len(rates)))
            losses.append(average / (1 - _SMOOTHING ** len(rates)))
            if len(rates) == num_steps or losses[-1] > _WORSE * min(losses):
                break
    return RangeTest(tuple(rates), tuple(losses), suggest(rates, losses))


def suggest(rates: list[float], losses: list[float]) -> float:
    """Return the rate at which the smoothed loss falls fastest per decade, before its lowest point.

    Raises:
        TrainingError: There are too few points.
    """
    bottom = int(np.argmin(losses)) + 1 if losses else 0
    if bottom < 5:
        raise TrainingError(
            f"the range test saw the loss fall over {bottom} steps only; expected at least 5. "
            "Begin lower (--low 1e-8), or look at the data with: headstart data show"
        )
    slope = np.gradient(np.asarray(losses[:bottom]), np.log10(rates[:bottom]))
    # The average of the first few losses is not smooth yet; their slope is noise.
    first = min(_WARM_UP, bottom - 2)
    return float(rates[first + int(np.argmin(slope[first:]))])
