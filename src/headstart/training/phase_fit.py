"""One phase of training: its steps, its epochs, and the choice of its weights.

`training.loop.Fit` runs a plan of such phases; it holds the network and the position, which outlive a phase.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

from torch import Tensor

from headstart.data.loading import Batch
from headstart.errors import DivergedError
from headstart.models.delta import digest
from headstart.training.batches import epoch_batches
from headstart.training.checkpoint import optimizer_tensors, restore_optimizer, with_prefix, without_prefix
from headstart.training.events import EpochDone, Event, StepDone
from headstart.training.memory import fit_memory, measure_step, memory_limit
from headstart.training.optim import WeightAverage, build_optimizer, set_learning_rate
from headstart.training.plan import Phase, ResolvedPhase, apply_modes
from headstart.training.schedules import lr_factor
from headstart.training.step import StepResult, TrainingStep
from headstart.types import StepChoice

if TYPE_CHECKING:
    from headstart.training.loop import Fit

_EPOCHS_OF_A_PHASE = 1_000_003  # more than a phase can have

RateFactor = Callable[[int], float]  # from the number of a step within its phase to what multiplies the base rates


class PhaseFit:
    """One phase of a fit: its optimizer, its inputs, its epochs and the weights that it ends with.

    Attributes:
        inputs: What it trains on.
        choice: How its steps run.
        num_images: How many images its epochs to come train on.
    """

    def __init__(self, fit: "Fit", phase: Phase, resolved: ResolvedPhase) -> None:
        self.fit = fit
        self.phase = phase
        self.resolved = resolved
        settings = fit.settings
        self.optimizer = build_optimizer(
            settings.optimizer,
            fit.parameters,
            resolved.learning_rates,
            momentum=settings.momentum,
            weight_decay=0.0 if phase.penalty else settings.weight_decay,
            decay_all=settings.decay_all,
        )
        self._average = WeightAverage(fit.network, resolved.frozen, settings.ema) if settings.ema else None
        epochs = range(fit.position.epoch, phase.epochs_to_run)
        keys = [self._epoch_key(epoch) for epoch in epochs]
        self.inputs = fit.supply.phase(resolved.boundary, keys)
        self.choice = self._memory_fitted_choice(settings.step)
        self.num_images = len(epochs) * fit.supply.train.num_images

    def _memory_fitted_choice(self, step: StepChoice) -> StepChoice:
        """Return a way to run steps in which a batch fits into memory."""
        module = self.inputs.module
        device = self.fit.fabric.device
        memory = measure_step(module, self.inputs.shape, step, device)
        limit = memory_limit(device, module, self.fit.settings.memory_limit)
        return fit_memory(step, memory, self.inputs.train.batch_size, limit)

    @property
    def number(self) -> int:
        """The phase's number, from 0."""
        return self.fit.position.phase

    def first_batch(self) -> Batch:
        """Return the batch that the next epoch begins with."""
        key = self._epoch_key(self.fit.position.epoch)
        return next(iter(self.inputs.train.epoch(key)))

    def _epoch_key(self, epoch: int) -> int:
        """Return the number of an epoch of this phase within the whole plan; order and augmentation follow from it."""
        return (self.fit.first_phase + self.number) * _EPOCHS_OF_A_PHASE + epoch

    def state(self) -> dict[str, Tensor]:
        """Return the tensors of the optimizer and the average."""
        names = {parameter: name for name, parameter in self.fit.parameters.items()}
        tensors = with_prefix("optimizer", optimizer_tensors(self.optimizer, names))
        if self._average is not None:
            tensors |= with_prefix("average", self._average.shadow)
        return tensors

    def events(self, saved: Mapping[str, Tensor] | None) -> Iterator[Event]:
        """Train the phase, going on from saved tensors where there are any."""
        self._step = self._training_step()
        if saved is not None:
            self._restore(saved)

        position = self.fit.position
        while position.epoch < self.phase.epochs_to_run and not self._is_out_of_patience():
            yield from self._train_epoch()
            yield self._end_epoch()

        self._note_unchanged()
        num_chosen = position.best_epoch if self.fit.settings.selects else position.epoch
        self.fit.note_end(position.epoch, num_chosen)
        self._choose_weights()
        # After the weights are chosen, so that averaged and restored ones are proven too.
        self.fit.check_frozen(self.phase, self.resolved)

    def _training_step(self) -> TrainingStep:
        """Prepare the module for steps in the chosen way, with the penalty of the phase."""
        fit = self.fit
        add_penalty = None
        if self.phase.penalty is not None:
            trained = {name: fit.parameters[name] for name in self.resolved.learning_rates}
            add_penalty = partial(self.phase.penalty.add_gradient, trained, fit.pretrained)
        step = TrainingStep(
            fit.model, self.inputs.module, self.optimizer, fit.settings, fit.fabric, self.choice, add_penalty
        )
        # Fabric's wrapper starts in training mode and hands that down.
        apply_modes(fit.network, self.resolved)
        return step

    def _restore(self, saved: Mapping[str, Tensor]) -> None:
        """Go on from a checkpoint's optimizer and average; the parameters have their memory format by now."""
        position = self.fit.position
        restore_optimizer(self.optimizer, self.fit.parameters, without_prefix("optimizer", saved))
        if self._average is not None:
            self._average.num_updates = position.epoch * self.fit.steps_per_epoch + position.step
            for name, tensor in without_prefix("average", saved).items():
                self._average.shadow[name].copy_(tensor)

    def _is_out_of_patience(self) -> bool:
        """Tell whether too many epochs have passed since the best one."""
        patience = self.fit.settings.patience
        if patience is None:
            return False
        position = self.fit.position
        return position.epoch - position.best_epoch >= patience

    def _train_epoch(self) -> Iterator[Event]:
        """Take the steps of the epoch that are left, and add up what they saw."""
        position = self.fit.position
        accumulate = self.fit.settings.accumulate
        apply_modes(self.fit.network, self.resolved)
        started = time.monotonic() - position.epoch_s
        key = self._epoch_key(position.epoch)
        batches = epoch_batches(self.inputs.train, key, start=position.step * accumulate)
        # Of an epoch that was saved after its last step, a last batch of one image is still there, joined to nothing.
        for _ in range(self.fit.steps_per_epoch - position.step):
            group = list(islice(batches, accumulate))
            self._set_rate(position.step)
            result = self._take_step(group)
            for loss in result.losses:
                position.loss_sum += loss
            position.num_correct += result.num_correct
            position.num_seen += result.num_images
            position.step += 1
            position.epoch_s = time.monotonic() - started
            yield StepDone(result)

    def _take_step(self, group: list[Batch]) -> StepResult:
        """Take a step with a group of batches, and follow it with the average of weights."""
        position = self.fit.position
        counter = (self.fit.settings.seed, position.phase, position.epoch, position.step)
        try:
            result = self._step.run(group, counter)
        except DivergedError as error:
            raise self._with_place(error) from error
        if self._average is not None:
            self._average.update()
        return result

    def _with_place(self, error: DivergedError) -> DivergedError:
        """Add to an error where training was, and what to do."""
        position = self.fit.position
        rate = max(group["lr"] for group in self.optimizer.param_groups)
        step = min(position.step + 1, self.fit.steps_per_epoch)  # after the last one the epoch is evaluated
        return DivergedError(
            f"{error} in phase {self.phase.name!r}, epoch {position.epoch + 1}, step {step} "
            f"(learning rate {rate:.2e}); lower --lr, or clip gradients with --clip-norm 1"
        )

    def _set_rate(self, step: int) -> None:
        """Set the learning rates of a step of this epoch."""
        fit = self.fit
        settings = fit.settings
        done = fit.position.epoch * fit.steps_per_epoch + step
        if fit.rate_factor is not None:
            factor = fit.rate_factor(done)
        else:
            num_steps = fit.steps_per_epoch * self.phase.epochs
            decay_steps = fit.steps_per_epoch * settings.step_epochs
            factor = lr_factor(settings.schedule, done, num_steps, settings.warmup, decay_steps)
        set_learning_rate(self.optimizer, factor)

    def _end_epoch(self) -> EpochDone:
        """Evaluate, write the row of the epoch, and stand before the next one."""
        position = self.fit.position
        started = time.monotonic()
        loss, accuracy = self._evaluate()
        self._set_rate(position.step - 1)  # which a run that was resumed after that step has not set
        rates = [group["lr"] for group in self.optimizer.param_groups]
        row = {
            **self.fit.names,
            "phase": position.phase + 1,
            "phase_name": self.phase.name,
            "epoch": position.epoch + 1,
            "step": position.step,
            "lr": min(rates),
            "head_lr": self._head_rate(),
            "train_loss": position.loss_sum / max(position.num_seen, 1),
            "train_accuracy": position.num_correct / max(position.num_seen, 1),
            "val_loss": loss,
            "val_accuracy": accuracy,
            "time_s": round(position.epoch_s + time.monotonic() - started, 3),
        }
        position.start_epoch(position.epoch + 1)
        position.num_rows += 1

        score = loss
        if self.fit.settings.select_by != "loss" and accuracy is not None:
            score = 1 - accuracy
        is_best = self._note_best(score)
        return EpochDone(row, position.best_name if is_best else "")

    def _head_rate(self) -> float | None:
        """Return the rate of the head at this step, None where it is frozen."""
        head_stage = self.fit.model.stages[-1]
        head = {id(parameter) for name, parameter in self.fit.parameters.items() if head_stage.owns(name)}
        for group in self.optimizer.param_groups:
            members = {id(parameter) for parameter in group["params"]}
            if not members.isdisjoint(head):
                return float(group["lr"])
        return None

    def _evaluate(self) -> tuple[float | None, float | None]:
        """Return the held-out loss and accuracy; None where no images are held out."""
        if self.inputs.held_out is None:
            return None, None
        with self._averaged():
            loss, accuracy = self._step.evaluate(self.inputs.held_out)
        if not math.isfinite(loss):
            raise self._with_place(DivergedError(f"the held-out loss became {loss}"))
        return loss, accuracy

    def _note_best(self, score: float | None) -> bool:
        """Keep the weights of the epoch with the lowest score: its loss, or its share of errors."""
        position = self.fit.position
        if not self.fit.settings.selects or score is None:
            return False
        if position.best_loss is not None and score >= position.best_loss:
            return False
        position.best_loss = score
        position.best_epoch = position.epoch
        with self._averaged():
            self.fit.keep_best()
        return True

    def _averaged(self) -> AbstractContextManager[None]:
        """Return a block in which the network has its averaged weights, where there are any."""
        return self._average.applied() if self._average is not None else nullcontext()

    def _note_unchanged(self) -> None:
        """Note what should have changed and did not."""
        position = self.fit.position
        if not position.epoch:
            return
        for name in self.resolved.learning_rates:
            if digest([(name, self.fit.parameters[name])]) == position.start_digests[name]:
                position.unchanged.append(f"{self.phase.name}: {name}")

    def _choose_weights(self) -> None:
        """Leave the network with what the next phase, or the saved model, starts from."""
        fit = self.fit
        position = fit.position
        following = fit.plan.phases[position.phase + 1 :]
        wants_best = not following or following[0].start == "best"
        if fit.settings.selects and wants_best and position.best_epoch:
            fit.load_best()
        elif self._average is not None and position.epoch:
            self._average.copy_to_network()
