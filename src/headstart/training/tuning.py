"""How training steps run fastest: memory format, precision and compilation, chosen by timing the step at hand."""

import copy
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace

import torch
from lightning_fabric import Fabric
from torch import nn

from headstart.data.loading import Batch
from headstart.models.classifier import ClassifierNetwork
from headstart.training.settings import FitSettings
from headstart.training.step import TrainingStep
from headstart.types import StepChoice

TakeStep = Callable[[], None]

_NUM_IMAGES = 8
_ROUNDS = 2
# Below these seconds of training there is too little to win; compiling costs about a minute of a CPU.
_WORTH_TUNING_S = 8.0
_WORTH_COMPILING_S = {"cpu": 1200.0, "cuda": 120.0}
_LEAST_TO_COMPILE = 10_000  # images: a busy machine stretches the seconds, not the number


def candidates(device: torch.device, precision: str, *, channels_last: bool) -> tuple[StepChoice, ...]:
    """List the ways in which a step may run; the first is what runs where nothing is timed.

    Args:
        device: Where training runs.
        precision: `auto`, or the only one.
        channels_last: Whether that memory format may be used.
    """
    precisions = [precision]
    if precision == "auto":
        precisions = ["bf16", "32"] if device.type == "cuda" else ["32", "bf16"]
    found = []
    for each in precisions:
        if channels_last:
            found.append(StepChoice(channels_last=True, precision=each))
        found.append(StepChoice(channels_last=False, precision=each))
    return tuple(found)


def find_batch_size(images_per_s: Callable[[int], float], *, start: int, most: int) -> int:
    """Double the batch while that makes training at least 5 % faster and the memory suffices.

    Args:
        images_per_s: Runs steps with so many images and returns the speed.
        start: First size to try; returned even if it does not fit.
        most: Largest size to try.
    """
    size = start
    best_size = start
    best_speed = 0.0
    while size <= most:
        try:
            speed = images_per_s(size)
        except torch.OutOfMemoryError:
            break
        if speed < 1.05 * best_speed:
            break
        best_size = size
        best_speed = speed
        size *= 2
    return best_size


class StepTrial:
    """Training steps of throw-away copies of a module, to be timed."""

    def __init__(
        self, model: ClassifierNetwork, module: nn.Module, batch: Batch, settings: FitSettings, fabric: Fabric
    ) -> None:
        """Remember what to time.

        Args:
            model: How images become inputs, and how many classes there are.
            module: Maps inputs to logits (N, C); in the phase's modes, on its device.
            batch: What steps are taken with; on a CPU the first few images of it.
            settings: Those of the loss are used.
            fabric: Says on which device.
        """
        if fabric.device.type == "cpu":  # of a few images a GPU's time is all overhead
            batch = Batch(batch.pixels[:_NUM_IMAGES], batch.targets[:_NUM_IMAGES], batch.indices[:_NUM_IMAGES])
        self.batch = batch
        self._model = model
        self._module = module
        self._settings = settings
        self._fabric = fabric

    def step(self, choice: StepChoice) -> TakeStep:
        """Return a function that takes a step in one way and waits until it is done."""
        module = copy.deepcopy(self._module)
        trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
        # The rate is 0 and there is no state to keep: the step costs time and memory, and changes nothing.
        optimizer = torch.optim.SGD(trained, lr=0.0)
        step = TrainingStep(self._model, module, optimizer, self._settings, self._fabric, choice)
        modes = {name: part.training for name, part in self._module.named_modules()}
        for name, part in module.named_modules():  # Fabric puts what it sets up in training mode
            part.training = modes[name]

        def take() -> None:
            """Take a step, and leave the random numbers as they were."""
            with torch.random.fork_rng(devices=[]):
                step.run([self.batch], (0,))
            if self._fabric.device.type == "cuda":
                torch.cuda.synchronize()

        return take

    def images_per_s(self, choice: StepChoice) -> float:
        """Return the speed of steps in one way."""
        return len(self.batch.targets) / _step_seconds(self.step(choice), time.monotonic, warm_up=2)


def choose_step(
    make_step: Callable[[StepChoice], TakeStep],
    options: Sequence[StepChoice],
    *,
    images_per_step: int,
    num_images: int,
    device_type: str = "cpu",
    clock: Callable[[], float] = time.monotonic,
) -> StepChoice:
    """Time steps and return the fastest way to take them.

    Each way is timed twice in turns, so that a busy moment of the machine does not decide, and its faster time counts.
    Another way than the first must be 5 % faster than it. Where there is much to do, compiling the fastest is tried; it
    has to save three times what the trial took, because training compiles again, for batches of every size.

    Args:
        make_step: Gives, for a way to run, a function that takes one step so; see `StepTrial.step`.
        options: The ways to choose from; see `candidates`.
        images_per_step: Images of such a step.
        num_images: How many images the phase will train on in all, over its epochs.
        device_type: `cpu` or `cuda`.
        clock: Gives seconds.
    """
    first = options[0]
    if len(options) == 1 or not num_images:
        return first
    num_steps = num_images / images_per_step
    if _step_seconds(make_step(first), clock, warm_up=1) * num_steps < _WORTH_TUNING_S:
        return first

    step_s = _step_times(make_step, options, clock)
    fastest = min(step_s, key=step_s.__getitem__)

    worth_s = _WORTH_COMPILING_S.get(device_type, float("inf"))
    can_compile = not fastest.recomputes  # what the compiler keeps of a step is its own decision
    if can_compile and num_images >= _LEAST_TO_COMPILE and step_s[fastest] * num_steps > worth_s:
        started = clock()
        compiled = replace(fastest, compiled=True)
        with suppress(Exception):  # without a C++ compiler, say, nothing can be compiled
            compiled_s = _step_times(make_step, [compiled], clock)[compiled]
            if (step_s[fastest] - compiled_s) * num_steps > 3 * (clock() - started):
                step_s[compiled] = compiled_s
                fastest = compiled

    if step_s[fastest] < 0.95 * step_s[first]:
        return fastest
    return first


def _step_times(
    make_step: Callable[[StepChoice], TakeStep], options: Sequence[StepChoice], clock: Callable[[], float]
) -> dict[StepChoice, float]:
    """Return the least seconds that a step took in each way, over a few turns."""
    steps = {option: make_step(option) for option in options}
    least_s = dict.fromkeys(options, float("inf"))
    for turn in range(_ROUNDS):
        for option, take in steps.items():
            least_s[option] = min(least_s[option], _step_seconds(take, clock, warm_up=1 - turn))
    return least_s


def _step_seconds(take_step: TakeStep, clock: Callable[[], float], *, warm_up: int) -> float:
    """Return the seconds of a step, after a few that do not count."""
    for _ in range(warm_up):
        take_step()
    started = clock()
    take_step()
    return clock() - started
