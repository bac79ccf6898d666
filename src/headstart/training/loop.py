"""The one training loop: it runs any plan, yields what happens, and can go on from any step with the same bits.

All randomness of a step follows from (seed, phase, epoch, step), so a checkpoint holds a position instead of the states
of random generators, and a run that was killed and resumed ends in the same weights as one that was not.

The loop does nothing beside training. What watches it, writes it down or ends it early consumes its events; see
`training.consumers`.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
from functools import partial
from itertools import islice
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from headstart.data.loading import Batch
from headstart.errors import DivergedError, TrainingError
from headstart.features.supply import FeatureSupply, PhaseInputs
from headstart.models.classifier import ClassifierNetwork
from headstart.models.delta import digest
from headstart.models.heads import head_of
from headstart.training.batches import epoch_batches, num_batches
from headstart.training.checkpoint import optimizer_tensors, restore_optimizer, with_prefix, without_prefix
from headstart.training.events import (
    EpochDone,
    Event,
    FitResult,
    FitStarted,
    HeadSolved,
    PhaseStarted,
    Position,
    StepDone,
)
from headstart.training.memory import fit_memory, measure_step, memory_limit
from headstart.training.optim import WeightAverage, build_optimizer, set_learning_rate
from headstart.training.penalties import pretrained_start
from headstart.training.plan import Phase, Plan, ResolvedPhase, apply_modes, resolve
from headstart.training.schedules import lr_factor
from headstart.training.settings import FitSettings
from headstart.training.solve import solve_head
from headstart.training.step import StepResult, TrainingStep, evaluate_loss
from headstart.types import StepChoice

RateFactor = Callable[[int], float]  # from the number of a step within its phase to what multiplies the base rates


class Fit:
    """Trains a network in place by a plan, as a stream of events.

    Attributes:
        position: Where training stands.
        best: The best weights of the phase so far, where held-out images select.
    """

    def __init__(
        self,
        model: ClassifierNetwork,
        plan: Plan,
        supply: FeatureSupply,
        settings: FitSettings,
        fabric: Fabric,
        *,
        name: str = "final",
        held_out_name: str | None = None,
        rate_factor: RateFactor | None = None,
    ) -> None:
        """Put the network on its device and check that the plan fits it; nothing is trained yet.

        Args:
            model: Network, stages and labels.
            plan: Phases to run.
            supply: Gives each phase its batches; held-out ones select only where `settings.selects`.
            settings: How to train.
            fabric: Device.
            name: What the rows call this fit (`selection` or `final`).
            held_out_name: Split of the held-out batches, for the rows.
            rate_factor: In the place of the schedule.

        Raises:
            PlanError: The plan does not fit the network.
        """
        self.model = model
        self.plan = plan
        self.supply = supply
        self.settings = settings
        self.fabric = fabric
        self.names = {"fit": name, "val_split": held_out_name}
        self.rate_factor = rate_factor
        self.network = fabric.to_device(model.network)
        self.resolved = [resolve(phase, self.network, model.stages) for phase in plan.phases]
        self.parameters = dict(self.network.named_parameters())
        # Before a checkpoint is loaded: a resumed run is pulled to where it began, too.
        is_penalised = any(phase.penalty for phase in plan.phases)
        self.pretrained = pretrained_start(model) if is_penalised else {}
        self.steps_per_epoch = math.ceil(num_batches(supply.train) / settings.accumulate)
        self.position = Position()
        self.best: dict[str, Tensor] = {}
        self._saved: Mapping[str, Tensor] | None = None
        self._phase: PhaseFit | None = None

    def restore(self, tensors: Mapping[str, Tensor], position: Position, best: Mapping[str, Tensor]) -> None:
        """Go on from what `state` returned, and from the best weights of its phase.

        Raises:
            TrainingError: What does not train is not what the run began with.
        """
        self.position, self.best, self._saved = position, dict(best), tensors
        self._load(without_prefix("network", tensors))
        if self.frozen_digest(self.resolved[self.position.phase]) != self.position.frozen_digest:
            raise TrainingError("the untrained weights are not those that the run began with; start a new run")

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return what a resume needs: what training has changed, and where it stands."""
        tensors = with_prefix("network", self._changed())
        if self._phase is not None:
            tensors |= self._phase.state()
        return tensors, asdict(self.position)

    def result(self) -> FitResult:
        """Return what was done; whole once the events are over."""
        position = self.position
        return FitResult(tuple(position.epochs_run), tuple(position.best_epochs), tuple(position.unchanged))

    def events(self) -> Iterator[Event]:
        """Train, and yield what happens.

        Raises:
            DivergedError: The loss is not finite.
            TrainingError: A frozen tensor changed.
        """
        lengths = [phase.epochs_to_run if phase.solver == "loop" else 0 for phase in self.plan.phases]
        num_epochs_done = sum(lengths[: self.position.phase]) + self.position.epoch
        num_done = num_epochs_done * self.steps_per_epoch + self.position.step
        yield FitStarted(sum(lengths) * self.steps_per_epoch, num_done, self.position.num_rows)
        for index in range(self.position.phase, len(self.plan.phases)):
            yield from self._phase_events(index)

    def _phase_events(self, index: int) -> Iterator[Event]:
        phase, resolved = self.plan.phases[index], self.resolved[index]
        saved = self._saved
        self._saved = None  # for the phase that it was saved in
        apply_modes(self.network, resolved)
        if saved is None:
            self._note_start(index, resolved)
        if phase.solver == "lbfgs":
            # Only what is trained is saved, so that a phase that is resumed could not be solved before.
            row = self._solve(phase, resolved) if saved is None else None
            if row is not None:
                yield HeadSolved(row)
                self.check_frozen(phase, resolved)
                return
            phase = replace(phase, stop_after=phase.stop_after or None)  # none were chosen for a head that was solved
        if not phase.epochs_to_run:  # no inputs to prepare: a classifier that starts from its source's rows is ready
            self.note_end(0, 0)
            return
        self._phase = PhaseFit(self, phase, resolved)
        yield PhaseStarted(self._phase)
        yield from self._phase.events(saved)
        self._phase = None
        # The position is now the start of the next phase; what it needs is noted when that phase begins.

    def _solve(self, phase: Phase, resolved: ResolvedPhase) -> dict[str, Any] | None:
        """Solve the head to its optimum and return its row; None where that cannot be done and it must be trained."""
        inputs = solver_inputs(self.model, resolved.boundary, self.supply)
        if isinstance(inputs, str):
            self.supply.display.note(f"phase {phase.name!r} is trained: {inputs}")
            return None
        started = time.monotonic()  # the supply counts what the features take
        head = head_of(self.network, self.model.stages)
        features = inputs.features
        assert isinstance(head, nn.Linear)
        assert features is not None
        solved = solve_head(
            features, features.targets, self.model.labels, groups=features.groups, seed=self.settings.seed
        )
        if not solved.is_optimal:
            self.supply.display.note(
                f"phase {phase.name!r}: the search for the head's optimum ended before it, about "
                f"{100 * solved.distance:.0f} % of the head's size away; --solver loop trains the head instead"
            )
        with torch.no_grad():
            head.weight.copy_(torch.from_numpy(solved.weight))
            head.bias.copy_(torch.from_numpy(solved.bias))
        loss, accuracy = None, None
        if inputs.held_out is not None:
            device = self.fabric.device
            loss, accuracy = evaluate_loss(self.model, inputs.module, inputs.held_out, device, StepChoice())
        self.position.num_rows += 1
        self.note_end(0, 0)
        return {
            **self.names,
            "phase": self.position.phase + 1,
            "phase_name": phase.name,
            "epoch": 0,
            "step": 0,
            "train_loss": solved.train_loss,
            "train_accuracy": solved.train_accuracy,
            "val_loss": loss,
            "val_accuracy": accuracy,
            "time_s": round(time.monotonic() - started, 3),
        }

    def keep_best(self) -> None:
        """Remember the weights as they are now."""
        self.best = {name: tensor.detach().clone().cpu() for name, tensor in self._changed().items()}

    def load_best(self) -> None:
        """Put back what `keep_best` remembered."""
        self._load(self.best)

    def check_frozen(self, phase: Phase, resolved: ResolvedPhase) -> None:
        """Raise a `TrainingError` where a frozen tensor is not what it was when the phase began."""
        if self.frozen_digest(resolved) != self.position.frozen_digest:
            raise TrainingError(f"a frozen tensor changed in phase {phase.name!r}; please report this as a bug")

    def frozen_digest(self, resolved: ResolvedPhase) -> str:
        """Hash what a phase freezes, and the weights that a penalty pulls to."""
        named = (*self.network.named_parameters(), *self.network.named_buffers())
        frozen = [(name, tensor) for name, tensor in named if name in resolved.frozen]
        return digest([*frozen, *with_prefix("pretrained", self.pretrained).items()])

    def _note_start(self, index: int, resolved: ResolvedPhase) -> None:
        """Note what the phase starts from, to be compared with at its end."""
        position = self.position
        position.phase = index
        position.start_epoch(0)
        position.best_loss, position.best_epoch = None, 0
        position.frozen_digest = self.frozen_digest(resolved)
        position.start_digests = {name: digest([(name, self.parameters[name])]) for name in resolved.learning_rates}

    def note_end(self, epochs_run: int, best_epoch: int) -> None:
        """Note that the phase is over, after how many epochs, and how many of them were chosen."""
        self.position.epochs_run.append(epochs_run)
        self.position.best_epochs.append(best_epoch)

    def _changed(self) -> dict[str, Tensor]:
        """Return what training may have changed so far: what no phase up to now trains is as it was built."""
        begun = self.resolved[: self.position.phase + 1]
        constant = frozenset.intersection(*(resolved.frozen for resolved in begun))
        return {name: tensor for name, tensor in self.network.state_dict().items() if name not in constant}

    def _load(self, tensors: Mapping[str, Tensor]) -> None:
        self.network.load_state_dict(self.network.state_dict() | dict(tensors))


class PhaseFit:
    """One phase of a fit.

    Attributes:
        inputs: What it trains on.
        choice: How its steps run.
        num_images: How many images its epochs to come train on.
    """

    def __init__(self, fit: Fit, phase: Phase, resolved: ResolvedPhase) -> None:
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
        keys = [_epoch_key(fit.position.phase, epoch) for epoch in epochs]
        self.inputs = fit.supply.phase(resolved.boundary, keys)
        self.choice = self._fitted(settings.step)
        self.num_images = len(epochs) * fit.supply.train.num_images

    def _fitted(self, step: StepChoice) -> StepChoice:
        """Return a way to run steps in which a batch fits into memory."""
        module, device = self.inputs.module, self.fit.fabric.device
        memory = measure_step(module, self.inputs.shape, step, device)
        limit = memory_limit(device, module, self.fit.settings.memory_limit)
        return fit_memory(step, memory, self.inputs.train.batch_size, limit)

    @property
    def number(self) -> int:
        """The phase's number, from 0."""
        return self.fit.position.phase

    def first_batch(self) -> Batch:
        """Return the batch that the next epoch begins with."""
        key = _epoch_key(self.fit.position.phase, self.fit.position.epoch)
        return next(iter(self.inputs.train.epoch(key)))

    def state(self) -> dict[str, Tensor]:
        """Return the tensors of the optimizer and the average."""
        names = {parameter: name for name, parameter in self.fit.parameters.items()}
        tensors = with_prefix("optimizer", optimizer_tensors(self.optimizer, names))
        if self._average is not None:
            tensors |= with_prefix("average", self._average.shadow)
        return tensors

    def events(self, saved: Mapping[str, Tensor] | None) -> Iterator[Event]:
        """Train the phase, going on from saved tensors where there are any."""
        self._step = self._make_step()
        if saved is not None:
            self._restore(saved)
        position = self.fit.position
        while position.epoch < self.phase.epochs_to_run and not self._is_out_of_patience():
            yield from self._train_epoch()
            yield self._end_epoch()
        self._note_unchanged()
        self.fit.note_end(position.epoch, position.best_epoch if self.fit.settings.selects else position.epoch)
        self._choose_weights()
        # After the weights are chosen, so that averaged and restored ones are proven too.
        self.fit.check_frozen(self.phase, self.resolved)

    def _make_step(self) -> TrainingStep:
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
        patience, position = self.fit.settings.patience, self.fit.position
        return patience is not None and position.epoch - position.best_epoch >= patience

    def _train_epoch(self) -> Iterator[Event]:
        fit, position, settings = self.fit, self.fit.position, self.fit.settings
        apply_modes(fit.network, self.resolved)
        started = time.monotonic() - position.epoch_s
        key = _epoch_key(position.phase, position.epoch)
        batches = epoch_batches(self.inputs.train, key, start=position.step * settings.accumulate)
        # Of an epoch that was saved after its last step, a last batch of one image is still there, joined to nothing.
        for _ in range(fit.steps_per_epoch - position.step):
            group = list(islice(batches, settings.accumulate))
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
        position = self.fit.position
        try:
            result = self._step.run(group, (self.fit.settings.seed, position.phase, position.epoch, position.step))
        except DivergedError as error:
            raise self._with_place(error) from error
        if self._average is not None:
            self._average.update()
        return result

    def _with_place(self, error: DivergedError) -> DivergedError:
        position = self.fit.position
        rate = max(group["lr"] for group in self.optimizer.param_groups)
        return DivergedError(
            f"{error} in phase {self.phase.name!r}, epoch {position.epoch + 1}, step {position.step + 1} "
            f"(learning rate {rate:.2e}); lower --lr, or clip gradients with --clip-norm 1"
        )

    def _set_rate(self, step: int) -> None:
        fit, settings = self.fit, self.fit.settings
        done = fit.position.epoch * fit.steps_per_epoch + step
        if fit.rate_factor is not None:
            factor = fit.rate_factor(done)
        else:
            num_steps = fit.steps_per_epoch * self.phase.epochs
            decay_steps = fit.steps_per_epoch * settings.step_epochs
            factor = lr_factor(settings.schedule, done, num_steps, settings.warmup, decay_steps)
        set_learning_rate(self.optimizer, factor)

    def _end_epoch(self) -> EpochDone:
        fit, position, settings = self.fit, self.fit.position, self.fit.settings
        started = time.monotonic()
        loss, accuracy = self._evaluate()
        self._set_rate(position.step - 1)  # which a run that was resumed after that step has not set
        rates = [group["lr"] for group in self.optimizer.param_groups]
        row = {
            **fit.names,
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
        is_best = self._note_best(loss if settings.select_by == "loss" or accuracy is None else 1 - accuracy)
        return EpochDone(row, position.best_name if is_best else "")

    def _head_rate(self) -> float | None:
        """Return the rate of the head at this step, None where it is frozen."""
        head_stage = self.fit.model.stages[-1]
        head = {id(parameter) for name, parameter in self.fit.parameters.items() if head_stage.owns(name)}
        for group in self.optimizer.param_groups:
            if any(id(parameter) in head for parameter in group["params"]):
                return float(group["lr"])
        return None

    def _evaluate(self) -> tuple[float | None, float | None]:
        if self.inputs.held_out is None:
            return None, None
        with self._averaged():
            loss, accuracy = self._step.evaluate(self.inputs.held_out)
        if not math.isfinite(loss):
            raise self._with_place(DivergedError(f"the loss became {loss}"))
        return loss, accuracy

    def _note_best(self, score: float | None) -> bool:
        """Keep the weights of the epoch with the lowest score: its loss, or its share of errors."""
        position = self.fit.position
        if not self.fit.settings.selects or score is None:
            return False
        if position.best_loss is not None and score >= position.best_loss:
            return False
        position.best_loss, position.best_epoch = score, position.epoch
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
        fit, position = self.fit, self.fit.position
        following = fit.plan.phases[position.phase + 1 :]
        wants_best = not following or following[0].start == "best"
        if fit.settings.selects and wants_best and position.best_epoch:
            fit.load_best()
        elif self._average is not None and position.epoch:
            self._average.copy_to_network()


def _epoch_key(phase: int, epoch: int) -> int:
    """Number an epoch within the whole plan; order and augmentation follow from it."""
    return phase * 1_000_003 + epoch


def solver_inputs(model: ClassifierNetwork, boundary: int, supply: FeatureSupply) -> PhaseInputs | str:
    """Return a phase's inputs, with features, where its head can be solved for; else why it must be trained."""
    if boundary != len(model.stages) - 1 or not isinstance(head_of(model.network, model.stages), nn.Linear):
        return "only a linear head that trains alone can be solved for"
    inputs = supply.phase(boundary, [], all_views=True)
    return inputs if inputs.features is not None else "the head's inputs cannot be computed for all views at once"
