"""The one training loop: it runs any plan, and can stop and go on at any step with the same bits.

All randomness of a step follows from (seed, phase, epoch, step), so a checkpoint holds a position instead of the states
of random generators, and a run that was killed and resumed ends in the same weights as one that was not.
"""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Protocol

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn import functional

from headstart.data.loading import Batch
from headstart.errors import TrainingError
from headstart.machine import keep_freed_memory
from headstart.models.classifier import ClassifierNetwork
from headstart.training.checkpoint import (
    Checkpoints,
    digest,
    optimizer_tensors,
    restore_optimizer,
    with_prefix,
    without_prefix,
)
from headstart.training.mixing import mix_batch
from headstart.training.observers import Observer, Row
from headstart.training.optim import WeightAverage, build_optimizer, lr_factor, set_learning_rate
from headstart.training.plan import Phase, Plan, ResolvedPhase, apply_modes, resolve


class BatchSource(Protocol):
    """Batches whose content is a pure function of the epoch."""

    @property
    def num_images(self) -> int:
        """Images per epoch."""

    @property
    def batch_size(self) -> int:
        """Images per batch; the last batch of an epoch may be smaller."""

    def __len__(self) -> int:
        """Return the number of batches per epoch."""

    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch, from the one numbered `start`."""


class RowLog(Protocol):
    """Where rows of metrics.csv go."""

    def append(self, row: Row) -> None:
        """Add one row, durably."""

    def truncate_to(self, num_rows: int) -> None:
        """Forget the rows that a checkpoint does not know of."""


@dataclass(frozen=True)
class FitSettings:
    """How to train; see the fields of the same names in `headstart.config.Config`.

    Attributes:
        selects: Whether the held-out images choose the epoch of each phase (lowest loss, ties to the earlier).
        checkpoint_every_s: Seconds after which a long epoch is saved in its middle.
    """

    optimizer: str = "adamw"
    momentum: float = 0.9
    weight_decay: float = 0.01
    decay_all: bool = False
    loss_reduction: str = "mean"
    schedule: str = "one-cycle"
    warmup: float = 0.1
    clip_norm: float | None = None
    accumulate: int = 1
    label_smoothing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    ema: float = 0.0
    seed: int = 0
    selects: bool = False
    patience: int | None = None
    checkpoint_every_s: float = 120.0


@dataclass(frozen=True)
class FitResult:
    """What training did.

    Attributes:
        epochs_run: Per phase.
        best_epochs: Per phase, the chosen number of epochs (all of them where nothing was selected).
        unchanged: Trainable tensors that a phase left as they were, as `phase: name` (a rate too small to matter).
    """

    epochs_run: tuple[int, ...]
    best_epochs: tuple[int, ...]
    unchanged: tuple[str, ...]


@dataclass
class _Progress:
    """Where training stands; all of it goes into a checkpoint."""

    phase: int = 0
    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    num_correct: float = 0.0
    num_seen: int = 0
    epoch_s: float = 0.0
    best_loss: float | None = None
    best_epoch: int = 0
    num_rows: int = 0
    frozen_digest: str = ""
    start_digests: dict[str, str] = field(default_factory=dict)
    epochs_run: list[int] = field(default_factory=list)
    best_epochs: list[int] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)

    def start_epoch(self, epoch: int) -> None:
        self.epoch, self.step = epoch, 0
        self.loss_sum = self.num_correct = self.epoch_s = 0.0
        self.num_seen = 0


def fit(
    model: ClassifierNetwork,
    plan: Plan,
    train: BatchSource,
    held_out: BatchSource | None,
    settings: FitSettings,
    *,
    fabric: Fabric,
    checkpoints: Checkpoints,
    log: RowLog,
    observer: Observer,
    held_out_name: str = "validation",
    log_name: str = "final",
) -> FitResult:
    """Train `model.network` in place by a plan, going on from the checkpoint where there is one.

    Args:
        model: Network, stages and labels.
        plan: Phases to run.
        train: Training batches.
        held_out: Batches evaluated after every epoch; they select only where `settings.selects`.
        settings: How to train.
        fabric: Device and precision.
        checkpoints: Where to save, and to resume from.
        log: Receives a row per epoch.
        observer: Watches.
        held_out_name: Split of `held_out`, for the rows.
        log_name: What the rows call this fit (`selection` or `final`).

    Raises:
        TrainingError: The loss is not finite, or a frozen tensor changed.
        PlanError: The plan does not fit the network.
    """
    if fabric.device.type == "cpu":
        keep_freed_memory()
    names = {"fit": log_name, "val_split": held_out_name if held_out is not None else None}
    return _Loop(model, plan, train, held_out, settings, fabric, checkpoints, log, observer, names).run()


def step_seed(*position: int) -> int:
    """Derive a seed from a position such as (seed, phase, epoch, step)."""
    return int(np.random.SeedSequence(position).generate_state(1, np.uint64)[0])


@dataclass
class _Loop:
    """A running fit; the fields are the arguments of `fit`."""

    model: ClassifierNetwork
    plan: Plan
    train: BatchSource
    held_out: BatchSource | None
    settings: FitSettings
    fabric: Fabric
    checkpoints: Checkpoints
    log: RowLog
    observer: Observer
    names: dict[str, str | None]
    progress: _Progress = field(default_factory=_Progress)

    def __post_init__(self) -> None:
        self.network = self.fabric.to_device(self.model.network)
        self.parameters = dict(self.network.named_parameters())
        self.parameter_names: dict[Tensor, str] = {parameter: name for name, parameter in self.parameters.items()}
        # A last batch of one image would normalise by itself alone, so it joins the batch before.
        size, num_images = self.train.batch_size, self.train.num_images
        self.joins_last = num_images > size > 1 and num_images % size == 1
        self.steps_per_epoch = math.ceil((len(self.train) - self.joins_last) / self.settings.accumulate)
        self.saved_at = time.monotonic()

    def run(self) -> FitResult:
        saved = self.checkpoints.load("last")
        if saved is not None:
            self.progress = _Progress(**saved[1])
            self.network.load_state_dict(without_prefix("network", saved[0]))
        self.log.truncate_to(self.progress.num_rows)
        lengths = [phase.epochs_to_run for phase in self.plan.phases]
        done = sum(lengths[: self.progress.phase]) + self.progress.epoch
        self.observer.on_start(sum(lengths) * self.steps_per_epoch, done * self.steps_per_epoch + self.progress.step)
        try:
            for index in range(self.progress.phase, len(self.plan.phases)):
                self._run_phase(index, saved[0] if saved is not None else None)
                saved = None
        finally:
            self.observer.on_end()
        progress = self.progress
        return FitResult(tuple(progress.epochs_run), tuple(progress.best_epochs), tuple(progress.unchanged))

    def _run_phase(self, index: int, saved: dict[str, Tensor] | None) -> None:
        phase, settings = self.plan.phases[index], self.settings
        resolved = resolve(phase, self.network, self.model.stages)
        apply_modes(self.network, resolved)
        optimizer = build_optimizer(
            settings.optimizer,
            self.parameters,
            resolved.learning_rates,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
            decay_all=settings.decay_all,
        )
        average = WeightAverage(self.network, resolved.frozen, settings.ema) if settings.ema else None
        if saved is None:
            self._note_start(index, resolved)
        else:
            restore_optimizer(optimizer, self.parameters, without_prefix("optimizer", saved))
            if average is not None:
                average.num_updates = self.progress.epoch * self.steps_per_epoch + self.progress.step
                for name, tensor in without_prefix("average", saved).items():
                    average.shadow[name].copy_(tensor)
        _Phase(self, phase, resolved, optimizer, average).run()

    def _note_start(self, index: int, resolved: ResolvedPhase) -> None:
        progress = self.progress
        progress.phase = index
        progress.start_epoch(0)
        progress.best_loss, progress.best_epoch = None, 0
        progress.frozen_digest = self.frozen_digest(resolved)
        progress.start_digests = {name: digest([(name, self.parameters[name])]) for name in resolved.learning_rates}

    def frozen_digest(self, resolved: ResolvedPhase) -> str:
        named = (*self.network.named_parameters(), *self.network.named_buffers())
        return digest((name, tensor) for name, tensor in named if name in resolved.frozen)


class _Phase:
    """One phase of a running fit."""

    def __init__(
        self,
        loop: _Loop,
        phase: Phase,
        resolved: ResolvedPhase,
        optimizer: torch.optim.Optimizer,
        average: WeightAverage | None,
    ) -> None:
        self.loop, self.phase, self.resolved, self.average = loop, phase, resolved, average
        self.optimizer = optimizer
        self.module, self.fabric_optimizer = loop.fabric.setup(loop.network, optimizer)
        # Fabric's wrapper starts in training mode and hands that down.
        apply_modes(loop.network, resolved)

    def run(self) -> None:
        loop, progress = self.loop, self.loop.progress
        while progress.epoch < self.phase.epochs_to_run and not self._is_out_of_patience():
            self._train_epoch()
            self._end_epoch()
        self._note_unchanged()
        progress.epochs_run.append(progress.epoch)
        progress.best_epochs.append(progress.best_epoch if loop.settings.selects else progress.epoch)
        self._choose_weights()
        # After the weights are chosen, so that averaged and restored ones are proven too.
        if loop.frozen_digest(self.resolved) != progress.frozen_digest:
            raise TrainingError(f"a frozen tensor changed in phase {self.phase.name!r}; please report this as a bug")
        # The position is now the start of the next phase; what it needs is noted when that phase begins.

    @property
    def _best_name(self) -> str:
        # One file per phase: a kill between two files of the next phase must not lose what this one chose.
        return f"best-{self.loop.progress.phase + 1}"

    def _is_out_of_patience(self) -> bool:
        patience, progress = self.loop.settings.patience, self.loop.progress
        return patience is not None and progress.epoch - progress.best_epoch >= patience

    def _train_epoch(self) -> None:
        loop, progress, settings = self.loop, self.loop.progress, self.loop.settings
        apply_modes(loop.network, self.resolved)
        started = time.monotonic() - progress.epoch_s
        num_steps = loop.steps_per_epoch * self.phase.epochs
        key = progress.phase * 1_000_003 + progress.epoch
        batches = loop.train.epoch(key, start=progress.step * settings.accumulate)
        batches = _joined(batches) if loop.joins_last else batches
        for group in _groups(batches, settings.accumulate):
            done = progress.epoch * loop.steps_per_epoch + progress.step
            set_learning_rate(self.optimizer, lr_factor(settings.schedule, done, num_steps, settings.warmup))
            self._step(group)
            progress.step += 1
            progress.epoch_s = time.monotonic() - started
            loop.observer.on_step()
            if time.monotonic() - loop.saved_at > settings.checkpoint_every_s:
                self._save()

    def _step(self, group: Sequence[Batch]) -> None:
        loop, progress, settings = self.loop, self.loop.progress, self.loop.settings
        position = (settings.seed, progress.phase, progress.epoch, progress.step)
        torch.manual_seed(step_seed(*position))
        rng = np.random.Generator(np.random.Philox(np.random.SeedSequence((*position, 1))))
        num_images = sum(len(batch.targets) for batch in group)
        self.fabric_optimizer.zero_grad()
        for batch in group:
            pixels = batch.pixels.to(loop.fabric.device, non_blocking=True)
            targets = batch.targets.to(loop.fabric.device, non_blocking=True)
            inputs, wanted = mix_batch(
                loop.model.normalize(pixels),
                targets,
                len(loop.model.labels),
                mixup=settings.mixup,
                cutmix=settings.cutmix,
                rng=rng,
            )
            logits = self.module(inputs)
            loss = functional.cross_entropy(logits, wanted, reduction="sum", label_smoothing=settings.label_smoothing)
            loop.fabric.backward(loss if settings.loss_reduction == "sum" else loss / num_images)
            progress.loss_sum += _finite(loss.item(), self.phase, progress, self.optimizer)
            progress.num_correct += (logits.argmax(1) == targets).sum().item()
        progress.num_seen += num_images
        if settings.clip_norm is not None:
            loop.fabric.clip_gradients(self.module, self.fabric_optimizer, max_norm=settings.clip_norm)
        self.fabric_optimizer.step()
        if self.average is not None:
            self.average.update()

    def _end_epoch(self) -> None:
        loop, progress = self.loop, self.loop.progress
        started = time.monotonic()
        loss, accuracy = self._evaluate()
        if loss is not None:
            _finite(loss, self.phase, progress, self.optimizer)
        rates = [group["lr"] for group in self.optimizer.param_groups]
        row = {
            **loop.names,
            "phase": progress.phase + 1,
            "phase_name": self.phase.name,
            "epoch": progress.epoch + 1,
            "step": progress.step,
            "lr": min(rates),
            "head_lr": self._head_rate(),
            "train_loss": progress.loss_sum / max(progress.num_seen, 1),
            "train_accuracy": progress.num_correct / max(progress.num_seen, 1),
            "val_loss": loss,
            "val_accuracy": accuracy,
            "time_s": round(progress.epoch_s + time.monotonic() - started, 3),
        }
        progress.start_epoch(progress.epoch + 1)
        self._note_best(loss)
        loop.log.append(row)
        progress.num_rows += 1
        self._save()
        loop.observer.on_epoch(row)

    def _head_rate(self) -> float | None:
        """Return the rate of the head at this step, None where it is frozen."""
        head = {id(p) for name, p in self.loop.parameters.items() if self.loop.model.stages[-1].owns(name)}
        return next((g["lr"] for g in self.optimizer.param_groups if any(id(p) in head for p in g["params"])), None)

    def _evaluate(self) -> tuple[float | None, float | None]:
        loop = self.loop
        if loop.held_out is None:
            return None, None
        if self.average is None:
            return evaluate_loss(loop.model, self.module, loop.held_out, loop.fabric)
        with self.average.applied():
            return evaluate_loss(loop.model, self.module, loop.held_out, loop.fabric)

    def _note_best(self, loss: float | None) -> None:
        progress = self.loop.progress
        if not self.loop.settings.selects or loss is None:
            return
        if progress.best_loss is None or loss < progress.best_loss:
            progress.best_loss, progress.best_epoch = loss, progress.epoch
            if self.average is None:
                self._save_best()
            else:
                with self.average.applied():
                    self._save_best()

    def _save_best(self) -> None:
        tensors = with_prefix("network", self.loop.network.state_dict())
        self.loop.checkpoints.save(self._best_name, tensors, {})

    def _save(self) -> None:
        loop = self.loop
        tensors = with_prefix("network", loop.network.state_dict())
        tensors |= with_prefix("optimizer", optimizer_tensors(self.optimizer, loop.parameter_names))
        if self.average is not None:
            tensors |= with_prefix("average", self.average.shadow)
        loop.checkpoints.save("last", tensors, asdict(loop.progress))
        loop.saved_at = time.monotonic()

    def _note_unchanged(self) -> None:
        """Note what should have changed and did not."""
        loop, progress = self.loop, self.loop.progress
        if progress.epoch:
            current = {name: digest([(name, loop.parameters[name])]) for name in self.resolved.learning_rates}
            same = (name for name, value in current.items() if value == progress.start_digests[name])
            progress.unchanged += [f"{self.phase.name}: {name}" for name in same]

    def _choose_weights(self) -> None:
        """Leave the network with what the next phase, or the saved model, starts from."""
        loop, progress = self.loop, self.loop.progress
        following = loop.plan.phases[progress.phase + 1 :]
        wants_best = not following or following[0].start == "best"
        if loop.settings.selects and wants_best and progress.best_epoch:
            best = loop.checkpoints.load(self._best_name)
            if best is None:
                raise TrainingError(f"{loop.checkpoints.folder}/{self._best_name}.safetensors is gone; start again")
            loop.network.load_state_dict(without_prefix("network", best[0]))
        elif self.average is not None and progress.epoch:
            self.average.copy_to_network()


def _joined(batches: Iterator[Batch]) -> Iterator[Batch]:
    """Join a batch of one image to the batch before."""
    before: Batch | None = None
    for batch in batches:
        if before is not None and len(batch.targets) == 1:
            parts = ((before.pixels, batch.pixels), (before.targets, batch.targets), (before.indices, batch.indices))
            before = Batch(*(torch.cat(pair) for pair in parts))
            continue
        if before is not None:
            yield before
        before = batch
    if before is not None:
        yield before


def _groups(batches: Iterator[Batch], size: int) -> Iterator[list[Batch]]:
    group: list[Batch] = []
    for batch in batches:
        group.append(batch)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def _finite(loss: float, phase: Phase, progress: _Progress, optimizer: torch.optim.Optimizer) -> float:
    if math.isfinite(loss):
        return loss
    rate = max(group["lr"] for group in optimizer.param_groups)
    raise TrainingError(
        f"the loss became {loss} in phase {phase.name!r}, epoch {progress.epoch + 1}, step {progress.step + 1} "
        f"(learning rate {rate:.2e}); lower --lr, or clip gradients with --clip-norm 1"
    )


@torch.inference_mode()
def evaluate_loss(
    model: ClassifierNetwork, module: nn.Module, batches: BatchSource, fabric: Fabric
) -> tuple[float, float]:
    """Return the mean cross-entropy and the accuracy over all images, in eval mode."""
    model.network.eval()
    loss_sum, num_correct = 0.0, 0.0
    for batch in batches.epoch(0):
        pixels, targets = batch.pixels.to(fabric.device), batch.targets.to(fabric.device)
        logits = module(model.normalize(pixels)).float()
        loss_sum += functional.cross_entropy(logits, targets, reduction="sum").item()
        num_correct += (logits.argmax(1) == targets).sum().item()
    return loss_sum / batches.num_images, num_correct / batches.num_images
