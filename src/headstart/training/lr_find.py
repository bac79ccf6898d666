"""The learning-rate range test, on a copy of the model that is thrown away."""

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import count

import numpy as np
import torch
from lightning_fabric import Fabric
from torch.nn import functional

from headstart.data.loading import Batch, BatchSource
from headstart.errors import TrainingError
from headstart.features.supply import FeatureSupply, network_input
from headstart.models.classifier import ClassifierNetwork
from headstart.training.batches import epoch_batches, num_batches
from headstart.training.engine import FitSettings, step_seed
from headstart.training.optim import build_optimizer, set_learning_rate
from headstart.training.penalties import pretrained_start
from headstart.training.plan import Phase, apply_modes, resolve

_WARM_UP = 10


@dataclass(frozen=True)
class RangeTest:
    """What the range test saw.

    Attributes:
        learning_rates: Per step, of the lowest part that trains.
        losses: Smoothed, per step.
        suggestion: Where the smoothed loss falls fastest per decade of the rate.
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
    network = fabric.to_device(trial.network)
    resolved = resolve(replace(phase, lr=1.0), network, trial.stages)
    optimizer = build_optimizer(
        settings.optimizer,
        dict(network.named_parameters()),
        resolved.learning_rates,
        momentum=settings.momentum,
        weight_decay=0.0 if phase.penalty else settings.weight_decay,
        decay_all=settings.decay_all,
    )
    start = pretrained_start(network, trial.stages[-1]) if phase.penalty else {}
    trained = {name: parameter for name, parameter in network.named_parameters() if name in resolved.learning_rates}
    apply_modes(network, resolved)
    supply = make_supply(trial)
    inputs = supply.phase(resolved.boundary, range(-(-num_steps // num_batches(supply.train))))
    module, fabric_optimizer = fabric.setup(settings.step.prepare(inputs.module), optimizer)
    apply_modes(network, resolved)
    rates, losses, average = [], [], 0.0
    for step, batch in zip(range(num_steps), _endless(inputs.train), strict=False):
        rate = low * (high / low) ** (step / (num_steps - 1))
        set_learning_rate(optimizer, rate)
        torch.manual_seed(step_seed(settings.seed, 0, 0, step))
        pixels, targets = batch.pixels.to(fabric.device), batch.targets.to(fabric.device)
        with settings.step.autocast(fabric.device):
            logits = module(network_input(trial, pixels))
        loss = functional.cross_entropy(
            logits.float(),
            targets,
            label_smoothing=settings.label_smoothing,
            reduction=settings.loss_reduction,
        )
        value = loss.item() / (len(targets) if settings.loss_reduction == "sum" else 1)
        if not math.isfinite(value):
            break
        average = 0.9 * average + 0.1 * value
        rates.append(rate)
        losses.append(average / (1 - 0.9 ** (step + 1)))
        if losses[-1] > 4 * min(losses):
            break
        fabric_optimizer.zero_grad()
        fabric.backward(loss)
        if phase.penalty is not None:
            phase.penalty.add_gradient(trained, start)
        fabric_optimizer.step()
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


def _endless(source: BatchSource) -> Iterator[Batch]:
    for epoch in count():
        yield from epoch_batches(source, epoch)
