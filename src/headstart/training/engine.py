"""The one training loop: it runs any plan, and can stop and go on at any step with the same bits.

All randomness of a step follows from (seed, phase, epoch, step), so a checkpoint holds a position instead of the states
of random generators, and a run that was killed and resumed ends in the same weights as one that was not.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from itertools import islice

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn import functional

from headstart.data.loading import Batch, BatchSource
from headstart.errors import RunError, TrainingError
from headstart.features.supply import FeatureSupply, PhaseInputs, network_input
from headstart.history import MetricsLog
from headstart.machine import keep_freed_memory
from headstart.models.classifier import ClassifierNetwork
from headstart.models.heads import head_of
from headstart.training.batches import epoch_batches, num_batches
from headstart.training.checkpoint import (
    Checkpoints,
    digest,
    optimizer_tensors,
    restore_optimizer,
    with_prefix,
    without_prefix,
)
from headstart.training.mixing import mix_batch
from headstart.training.observers import Observer, TensorBoardLog
from headstart.training.optim import WeightAverage, build_optimizer, set_learning_rate
from headstart.training.penalties import pretrained_start
from headstart.training.plan import Phase, Plan, ResolvedPhase, apply_modes, resolve
from headstart.training.schedules import lr_factor
from headstart.training.solve import solve_head
from headstart.training.tuning import StepChoice

ChooseStep = Callable[[int, nn.Module, Callable[[], Batch], int], StepChoice]


@dataclass(frozen=True)
class FitSettings:
    """How to train; see the fields of the same names in `headstart.config.Config`.

    Attributes:
        selects: Whether the held-out images choose the epoch of each phase (ties to the earlier).
        select_by: Lowest `loss` or highest `accuracy`.
        step: How steps run where `fit` is given no `choose_step`.
        checkpoint_every_s: Seconds after which a long epoch is saved in its middle.
    """

    optimizer: str = "adamw"
    momentum: float = 0.9
    weight_decay: float = 0.01
    decay_all: bool = False
    loss_reduction: str = "mean"
    schedule: str = "one-cycle"
    warmup: float = 0.1
    step_epochs: int = 7
    clip_norm: float | None = None
    accumulate: int = 1
    label_smoothing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    ema: float = 0.0
    seed: int = 0
    selects: bool = False
    select_by: str = "loss"
    patience: int | None = None
    step: StepChoice = field(default_factory=StepChoice)
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
    supply: FeatureSupply,
    settings: FitSettings,
    *,
    fabric: Fabric,
    checkpoints: Checkpoints,
    log: MetricsLog | TensorBoardLog,
    observer: Observer,
    held_out_name: str | None = "validation",
    log_name: str = "final",
    choose_step: ChooseStep | None = None,
) -> FitResult:
    """Train `model.network` in place by a plan, going on from the checkpoint where there is one.

    Args:
        model: Network, stages and labels.
        plan: Phases to run.
        supply: Gives each phase its batches; held-out ones select only where `settings.selects`.
        settings: How to train.
        fabric: Device and precision.
        checkpoints: Where to save, and to resume from.
        log: Receives a row per epoch.
        observer: Watches.
        held_out_name: Split of the held-out batches, for the rows.
        log_name: What the rows call this fit (`selection` or `final`).
        choose_step: Given the number of a phase, the module that it trains, a function that returns its first batch,
            and how many images it will train on, returns how its steps run.

    Raises:
        TrainingError: The loss is not finite, or a frozen tensor changed.
        PlanError: The plan does not fit the network.
    """
    if fabric.device.type == "cpu":
        keep_freed_memory()
    names = {"fit": log_name, "val_split": held_out_name}
    return _Loop(model, plan, supply, settings, fabric, checkpoints, log, observer, names, choose_step).run()


def step_seed(*position: int) -> int:
    """Derive a seed from a position such as (seed, phase, epoch, step)."""
    return int(np.random.SeedSequence(position).generate_state(1, np.uint64)[0])


@dataclass
class _Loop:
    """A running fit; the fields are the arguments of `fit`."""

    model: ClassifierNetwork
    plan: Plan
    supply: FeatureSupply
    settings: FitSettings
    fabric: Fabric
    checkpoints: Checkpoints
    log: MetricsLog | TensorBoardLog
    observer: Observer
    names: dict[str, str | None]
    choose_step: ChooseStep | None
    progress: _Progress = field(default_factory=_Progress)

    def __post_init__(self) -> None:
        self.network = self.fabric.to_device(self.model.network)
        # What no phase up to now has trained is as it was built, so no checkpoint holds it.
        self.resolved = [resolve(phase, self.network, self.model.stages) for phase in self.plan.phases]
        self.parameters = dict(self.network.named_parameters())
        # Before a checkpoint is loaded: a resumed run is pulled to where it began, too.
        penalised = any(phase.penalty for phase in self.plan.phases)
        self.pretrained = pretrained_start(self.network, self.model.stages[-1]) if penalised else {}
        self.parameter_names: dict[Tensor, str] = {parameter: name for name, parameter in self.parameters.items()}
        self.steps_per_epoch = math.ceil(num_batches(self.supply.train) / self.settings.accumulate)
        self.saved_at = time.monotonic()

    def run(self) -> FitResult:
        saved = self.checkpoints.load("last")
        if saved is not None:
            try:
                self.progress = _Progress(**saved[1])
            except TypeError as error:
                where = self.checkpoints.folder
                raise RunError(f"the checkpoints in {where} are another version's; start a new run") from error
            self.load(saved[0])
            if self.frozen_digest(self.resolved[self.progress.phase]) != self.progress.frozen_digest:
                raise TrainingError("the untrained weights are not those that the run began with; start a new run")
        self.log.truncate_to(self.progress.num_rows)
        lengths = [phase.epochs_to_run if phase.solver == "loop" else 0 for phase in self.plan.phases]
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
        phase, settings, resolved = self.plan.phases[index], self.settings, self.resolved[index]
        apply_modes(self.network, resolved)
        if saved is None:
            self._note_start(index, resolved)
        if phase.solver == "lbfgs":
            if saved is None and self._solve(phase, resolved):  # only what is trained saves: it could not be solved
                return
            phase = replace(phase, stop_after=phase.stop_after or None)  # none were chosen for a head that was solved
        if not phase.epochs_to_run:  # no inputs to prepare: a classifier that starts from its source's rows is ready
            self.progress.epochs_run.append(0)
            self.progress.best_epochs.append(0)
            return
        optimizer = build_optimizer(
            settings.optimizer,
            self.parameters,
            resolved.learning_rates,
            momentum=settings.momentum,
            weight_decay=0.0 if phase.penalty else settings.weight_decay,
            decay_all=settings.decay_all,
        )
        average = WeightAverage(self.network, resolved.frozen, settings.ema) if settings.ema else None
        running = _Phase(self, phase, resolved, optimizer, average)
        if saved is not None:
            running.restore(saved)
        running.run()

    def _solve(self, phase: Phase, resolved: ResolvedPhase) -> bool:
        """Solve the head to its optimum; False where that cannot be done and the phase must be trained."""
        inputs = solver_inputs(self.model, resolved.boundary, self.supply)
        if isinstance(inputs, str):
            self.supply.say(f"phase {phase.name!r} is trained: {inputs}")
            return False
        started, progress = time.monotonic(), self.progress  # the supply counts what the features take
        head, features = head_of(self.network, self.model.stages), inputs.features
        assert isinstance(head, nn.Linear)
        assert features is not None
        solved = solve_head(
            features, features.targets, self.model.labels, groups=features.groups, seed=self.settings.seed
        )
        with torch.no_grad():
            head.weight.copy_(torch.from_numpy(solved.weight))
            head.bias.copy_(torch.from_numpy(solved.bias))
        loss, accuracy = None, None
        if inputs.held_out is not None:
            loss, accuracy = evaluate_loss(self.model, inputs.module, inputs.held_out, self.fabric, StepChoice())
        row = {
            **self.names,
            "phase": progress.phase + 1,
            "phase_name": phase.name,
            "epoch": 0,
            "step": 0,
            "train_loss": solved.train_loss,
            "train_accuracy": solved.train_accuracy,
            "val_loss": loss,
            "val_accuracy": accuracy,
            "time_s": round(time.monotonic() - started, 3),
        }
        self.log.append(row)
        self.observer.on_epoch(row)
        progress.num_rows += 1
        progress.epochs_run.append(0)
        progress.best_epochs.append(0)
        self.check_frozen(phase, resolved)
        return True

    def check_frozen(self, phase: Phase, resolved: ResolvedPhase) -> None:
        """Raise a `TrainingError` where a frozen tensor is not what it was when the phase began."""
        if self.frozen_digest(resolved) != self.progress.frozen_digest:
            raise TrainingError(f"a frozen tensor changed in phase {phase.name!r}; please report this as a bug")

    def _note_start(self, index: int, resolved: ResolvedPhase) -> None:
        progress = self.progress
        progress.phase = index
        progress.start_epoch(0)
        progress.best_loss, progress.best_epoch = None, 0
        progress.frozen_digest = self.frozen_digest(resolved)
        progress.start_digests = {name: digest([(name, self.parameters[name])]) for name in resolved.learning_rates}

    def tensors(self) -> dict[str, Tensor]:
        """Return what training may have changed so far, under the network's names."""
        constant = frozenset.intersection(*(resolved.frozen for resolved in self.resolved[: self.progress.phase + 1]))
        state = self.network.state_dict()
        return with_prefix("network", {name: tensor for name, tensor in state.items() if name not in constant})

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what `tensors` gave."""
        self.network.load_state_dict(self.network.state_dict() | without_prefix("network", tensors))

    def frozen_digest(self, resolved: ResolvedPhase) -> str:
        named = (*self.network.named_parameters(), *self.network.named_buffers())
        frozen = [(name, tensor) for name, tensor in named if name in resolved.frozen]
        return digest([*frozen, *with_prefix("pretrained", self.pretrained).items()])


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
        progress = loop.progress
        epochs = range(progress.epoch, phase.epochs_to_run)
        self.inputs = loop.supply.phase(resolved.boundary, [_epoch_key(progress.phase, epoch) for epoch in epochs])
        self.step = loop.settings.step
        if loop.choose_step is not None:
            num_images = len(epochs) * loop.supply.train.num_images
            self.step = loop.choose_step(progress.phase, self.inputs.module, self._first_batch, num_images)
        module = self.step.prepare(self.inputs.module)
        self.module, self.fabric_optimizer = loop.fabric.setup(module, optimizer)
        # Fabric's wrapper starts in training mode and hands that down.
        apply_modes(loop.network, resolved)

    def _first_batch(self) -> Batch:
        key = _epoch_key(self.loop.progress.phase, self.loop.progress.epoch)
        return next(iter(self.inputs.train.epoch(key)))

    def restore(self, saved: Mapping[str, Tensor]) -> None:
        """Go on from a checkpoint's optimizer and average; the parameters have their memory format by now."""
        loop, progress = self.loop, self.loop.progress
        restore_optimizer(self.optimizer, loop.parameters, without_prefix("optimizer", saved))
        if self.average is not None:
            self.average.num_updates = progress.epoch * loop.steps_per_epoch + progress.step
            for name, tensor in without_prefix("average", saved).items():
                self.average.shadow[name].copy_(tensor)

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
        loop.check_frozen(self.phase, self.resolved)
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
        key = _epoch_key(progress.phase, progress.epoch)
        batches = epoch_batches(self.inputs.train, key, start=progress.step * settings.accumulate)
        # Of an epoch that was saved after its last step, a last batch of one image is still there, joined to nothing.
        groups = iter(lambda: list(islice(batches, settings.accumulate)), [])
        for group in islice(groups, loop.steps_per_epoch - progress.step):
            self._set_rate(progress.step)
            self._step(group)
            progress.step += 1
            progress.epoch_s = time.monotonic() - started
            loop.observer.on_step()
            if time.monotonic() - loop.saved_at > settings.checkpoint_every_s:
                self._save()

    def _set_rate(self, step: int) -> None:
        loop, settings = self.loop, self.loop.settings
        done = loop.progress.epoch * loop.steps_per_epoch + step
        num_steps, decay_steps = (loop.steps_per_epoch * n for n in (self.phase.epochs, settings.step_epochs))
        set_learning_rate(self.optimizer, lr_factor(settings.schedule, done, num_steps, settings.warmup, decay_steps))

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
                network_input(loop.model, pixels),
                targets,
                len(loop.model.labels),
                mixup=settings.mixup,
                cutmix=settings.cutmix,
                rng=rng,
            )
            with self.step.autocast(loop.fabric.device):
                logits = self.module(inputs).float()
            loss = functional.cross_entropy(logits, wanted, reduction="sum", label_smoothing=settings.label_smoothing)
            loop.fabric.backward(loss if settings.loss_reduction == "sum" else loss / num_images)
            progress.loss_sum += _finite(loss.item(), self.phase, progress, self.optimizer)
            progress.num_correct += (logits.argmax(1) == targets).sum().item()
        progress.num_seen += num_images
        if self.phase.penalty is not None:
            trained = {name: loop.parameters[name] for name in self.resolved.learning_rates}
            self.phase.penalty.add_gradient(trained, loop.pretrained)
        if settings.clip_norm is not None:
            loop.fabric.clip_gradients(self.module, self.fabric_optimizer, max_norm=settings.clip_norm)
        self.fabric_optimizer.step()
        if self.average is not None:
            self.average.update()

    def _end_epoch(self) -> None:
        loop, progress, settings = self.loop, self.loop.progress, self.loop.settings
        started = time.monotonic()
        loss, accuracy = self._evaluate()
        if loss is not None:
            _finite(loss, self.phase, progress, self.optimizer)
        self._set_rate(progress.step - 1)  # which a run that was resumed after that step has not set
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
        self._note_best(loss if settings.select_by == "loss" or accuracy is None else 1 - accuracy)
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
        if self.inputs.held_out is None:
            return None, None
        with self._averaged():
            return evaluate_loss(loop.model, self.module, self.inputs.held_out, loop.fabric, self.step)

    def _note_best(self, score: float | None) -> None:
        """Keep the weights of the epoch with the lowest score: its loss, or its share of errors."""
        progress = self.loop.progress
        if not self.loop.settings.selects or score is None:
            return
        if progress.best_loss is None or score < progress.best_loss:
            progress.best_loss, progress.best_epoch = score, progress.epoch
            with self._averaged():
                self.loop.checkpoints.save(self._best_name, self.loop.tensors(), {})

    def _averaged(self) -> AbstractContextManager[None]:
        """Return a block in which the network has its averaged weights, where there are any."""
        return self.average.applied() if self.average is not None else nullcontext()

    def _save(self) -> None:
        loop = self.loop
        tensors = loop.tensors()
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
            loop.load(best[0])
        elif self.average is not None and progress.epoch:
            self.average.copy_to_network()


def _epoch_key(phase: int, epoch: int) -> int:
    """Number an epoch within the whole plan; order and augmentation follow from it."""
    return phase * 1_000_003 + epoch


def solver_inputs(model: ClassifierNetwork, boundary: int, supply: FeatureSupply) -> PhaseInputs | str:
    """Return a phase's inputs, with features, where its head can be solved for; else why it must be trained."""
    if boundary != len(model.stages) - 1 or not isinstance(head_of(model.network, model.stages), nn.Linear):
        return "only a linear head that trains alone can be solved for"
    inputs = supply.phase(boundary, [], all_views=True)
    return inputs if inputs.features is not None else "the head's inputs for all views cannot be had at once"


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
    model: ClassifierNetwork, module: nn.Module, batches: BatchSource, fabric: Fabric, step: StepChoice
) -> tuple[float, float]:
    """Return the mean cross-entropy and the accuracy over all images, in eval mode and the precision of the steps."""
    model.network.eval()
    loss_sum, num_correct = 0.0, 0.0
    for batch in batches.epoch(0):
        pixels, targets = batch.pixels.to(fabric.device), batch.targets.to(fabric.device)
        with step.autocast(fabric.device):
            logits = module(network_input(model, pixels)).float()
        loss_sum += functional.cross_entropy(logits, targets, reduction="sum").item()
        num_correct += (logits.argmax(1) == targets).sum().item()
    return loss_sum / batches.num_images, num_correct / batches.num_images
