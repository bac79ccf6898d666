"""One training step. Everything that trains a network, tests a rate or times a step takes this one."""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import nn
from torch.nn import functional

from headstart.data.loading import Batch, BatchSource
from headstart.errors import DivergedError
from headstart.features.supply import network_input
from headstart.models.classifier import ClassifierNetwork
from headstart.training.mixing import mix_batch
from headstart.training.recompute import blocks, recomputed
from headstart.training.settings import FitSettings
from headstart.types import StepChoice

AddPenalty = Callable[[], None]


@dataclass(frozen=True)
class StepResult:
    """What a step saw of its images.

    Attributes:
        losses: Sum over the images of each batch.
        num_correct: How many images were right.
        num_images: How many there were.
    """

    losses: tuple[float, ...]
    num_correct: float
    num_images: int

    @property
    def loss(self) -> float:
        """Mean loss of an image."""
        return sum(self.losses) / self.num_images


class TrainingStep:
    """Forward and backward pass of one or more batches, and the optimizer's step."""

    def __init__(
        self,
        model: ClassifierNetwork,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        settings: FitSettings,
        fabric: Fabric,
        choice: StepChoice,
        add_penalty: AddPenalty | None = None,
    ) -> None:
        """Prepare a module for a way of running; its memory format changes in place.

        Args:
            model: How images become inputs, and how many classes there are.
            module: Maps inputs to logits (N, C): the network, or its part above the freeze boundary.
            optimizer: Optimizer of the parameters that train.
            settings: Loss, mixing and clipping.
            fabric: Fabric of the device that trains.
            choice: Memory format, precision and compilation.
            add_penalty: Adds the gradient of a penalty on the weights to the gradients that are there.
        """
        self._model = model
        self._settings = settings
        self._fabric = fabric
        self._choice = choice
        self._add_penalty = add_penalty
        self._recomputed = blocks(module) if choice.recomputes else ()
        self.module, self._optimizer = fabric.setup(prepare_module(module, choice), optimizer)

    def run(self, batches: Sequence[Batch], position: tuple[int, ...]) -> StepResult:
        """Take the step; all its randomness follows from the position.

        Args:
            batches: One, or several whose gradients are added up.
            position: Numbers such as (seed, phase, epoch, step).

        Raises:
            DivergedError: A loss is not finite; the weights are those before the step.
        """
        settings = self._settings
        torch.manual_seed(step_seed(*position))
        rng = np.random.Generator(np.random.Philox(np.random.SeedSequence((*position, 1))))
        num_images = sum(len(batch.targets) for batch in batches)
        losses = []
        num_correct = 0.0
        self._optimizer.zero_grad()
        for batch in batches:
            loss, correct = self._backward(batch, num_images, rng)
            losses.append(loss)
            num_correct += correct
        if self._add_penalty is not None:
            self._add_penalty()
        if settings.clip_norm is not None:
            self._fabric.clip_gradients(self.module, self._optimizer, max_norm=settings.clip_norm)
        self._optimizer.step()
        return StepResult(tuple(losses), num_correct, num_images)

    def _backward(self, batch: Batch, num_images: int, rng: np.random.Generator) -> tuple[float, float]:
        """Add a batch's gradients; return the sum of its losses and how many of its images were right."""
        settings = self._settings
        device = self._fabric.device
        pixels = batch.pixels.to(device, non_blocking=True)
        targets = batch.targets.to(device, non_blocking=True)
        inputs, wanted = mix_batch(
            network_input(self._model, pixels),
            targets,
            len(self._model.labels),
            mixup=settings.mixup,
            cutmix=settings.cutmix,
            rng=rng,
        )

        # The gradient of a sum is the sum of gradients, so that a batch may run in pieces.
        value = 0.0
        num_correct = 0.0
        for piece in pieces(len(targets), self._choice):
            with autocast(self._choice, device), recomputed(self._recomputed):
                logits = self.module(inputs[piece]).float()
            loss = functional.cross_entropy(
                logits, wanted[piece], reduction="sum", label_smoothing=settings.label_smoothing
            )
            self._fabric.backward(loss if settings.loss_reduction == "sum" else loss / num_images)
            value += loss.item()
            num_correct += (logits.argmax(1) == targets[piece]).sum().item()
        if not math.isfinite(value):
            raise DivergedError(f"the loss became {value}")
        return value, num_correct

    def evaluate(self, batches: BatchSource) -> tuple[float, float]:
        """Return the mean loss and the accuracy over all images, in eval mode and the precision of the steps."""
        return evaluate_loss(self._model, self.module, batches, self._fabric.device, self._choice)


def step_seed(*position: int) -> int:
    """Derive a seed from a position such as (seed, phase, epoch, step)."""
    return int(np.random.SeedSequence(position).generate_state(1, np.uint64)[0])


def pieces(num_images: int, choice: StepChoice) -> list[slice]:
    """Return which images of a batch run at a time."""
    size = choice.piece_size or num_images
    return [slice(start, start + size) for start in range(0, num_images, size)]


def prepare_module(module: nn.Module, choice: StepChoice) -> nn.Module:
    """Set the memory format of a module's weights in place, and compile it where chosen."""
    module.to(memory_format=torch.channels_last if choice.channels_last else torch.contiguous_format)
    if not choice.compiled:
        return module
    # A graph per batch size: one for all sizes would depend on which came first, and so on where a run was resumed.
    return torch.compile(module, dynamic=False)  # type: ignore[return-value]


def autocast(choice: StepChoice, device: torch.device) -> AbstractContextManager[None]:
    """Return the context in which a network runs forward."""
    return torch.autocast(device.type, torch.bfloat16, enabled=choice.precision == "bf16")


@torch.inference_mode()
def evaluate_loss(
    model: ClassifierNetwork, module: nn.Module, batches: BatchSource, device: torch.device, choice: StepChoice
) -> tuple[float, float]:
    """Return the mean cross-entropy and the accuracy over all images; the network is left in eval mode."""
    model.network.eval()
    loss_sum = 0.0
    num_correct = 0.0
    for batch in batches.epoch(0):
        for piece in pieces(len(batch.targets), choice):
            pixels = batch.pixels[piece].to(device)
            targets = batch.targets[piece].to(device)
            with autocast(choice, device):
                logits = module(network_input(model, pixels)).float()
            loss_sum += functional.cross_entropy(logits, targets, reduction="sum").item()
            num_correct += (logits.argmax(1) == targets).sum().item()
    return loss_sum / batches.num_images, num_correct / batches.num_images
