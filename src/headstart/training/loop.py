"""The one training loop: it runs any plan, yields what happens, and can go on from any step with the same bits.

All randomness of a step follows from (seed, phase, epoch, step), so a checkpoint holds a position instead of the states
of random generators, and a run that was killed and resumed ends in the same weights as one that was not.

The loop does nothing beside training. What watches it, writes it down or ends it early consumes its events; see
`training.consumers`.
"""

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from headstart.errors import TrainingError
from headstart.features.supply import FeatureSupply, PhaseInputs
from headstart.models.classifier import ClassifierNetwork
from headstart.models.delta import digest
from headstart.models.heads import head_of
from headstart.training.batches import num_batches
from headstart.training.checkpoint import with_prefix, without_prefix
from headstart.training.events import Event, FitResult, FitStarted, HeadSolved, PhaseStarted, Position
from headstart.training.penalties import pretrained_start
from headstart.training.phase_fit import PhaseFit, RateFactor
from headstart.training.plan import Phase, Plan, ResolvedPhase, apply_modes, resolve
from headstart.training.settings import FitSettings
from headstart.training.solve import solve_head
from headstart.training.step import evaluate_loss
from headstart.types import StepChoice


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
        first_phase: int = 0,
    ) -> None:
        """Put the network on its device and check that the plan fits it; nothing is trained yet.

        Args:
            model: Network, stages and labels.
            plan: Phases to run.
            supply: Gives each phase its batches; held-out ones select only where `settings.selects`.
            settings: How to train.
            fabric: Fabric of the device that trains.
            name: What the rows call this fit (`selection` or `final`).
            held_out_name: Split of the held-out batches, for the rows.
            rate_factor: What each rate is multiplied by, in the place of the schedule.
            first_phase: Number in the whole plan of the first of these phases; which views it sees follows from it.

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
        self.first_phase = first_phase
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
        self.position = position
        self.best = dict(best)
        self._saved = tensors
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
        lengths = []
        for phase in self.plan.phases:
            is_trained = phase.solver == "loop"
            lengths.append(phase.epochs_to_run if is_trained else 0)
        num_epochs_done = sum(lengths[: self.position.phase]) + self.position.epoch
        num_done = num_epochs_done * self.steps_per_epoch + self.position.step
        yield FitStarted(sum(lengths) * self.steps_per_epoch, num_done, self.position.num_rows)
        for index in range(self.position.phase, len(self.plan.phases)):
            yield from self._phase_events(index)

    def _phase_events(self, index: int) -> Iterator[Event]:
        """Solve or train a phase, from where it was saved if it was."""
        phase = self.plan.phases[index]
        resolved = self.resolved[index]
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
        loss = None
        accuracy = None
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
        named = [*self.network.named_parameters(), *self.network.named_buffers()]
        constant = [(name, tensor) for name, tensor in named if name in resolved.frozen]
        constant += with_prefix("pretrained", self.pretrained).items()
        return digest(constant)

    def _note_start(self, index: int, resolved: ResolvedPhase) -> None:
        """Note what the phase starts from, to be compared with at its end."""
        position = self.position
        position.phase = index
        position.start_epoch(0)
        position.best_loss = None
        position.best_epoch = 0
        position.frozen_digest = self.frozen_digest(resolved)
        position.start_digests = {name: digest([(name, self.parameters[name])]) for name in resolved.learning_rates}

    def note_end(self, epochs_run: int, best_epoch: int) -> None:
        """Note that the phase is over, after how many epochs, and how many of them were chosen."""
        self.position.epochs_run.append(epochs_run)
        self.position.best_epochs.append(best_epoch)

    def _changed(self) -> dict[str, Tensor]:
        """Return what training may have changed so far: what no phase up to now trains is as it was built."""
        begun = self.resolved[: self.position.phase + 1]
        constant = frozenset.intersection(*[resolved.frozen for resolved in begun])
        return {name: tensor for name, tensor in self.network.state_dict().items() if name not in constant}

    def _load(self, tensors: Mapping[str, Tensor]) -> None:
        self.network.load_state_dict(self.network.state_dict() | dict(tensors))


def solver_inputs(model: ClassifierNetwork, boundary: int, supply: FeatureSupply) -> PhaseInputs | str:
    """Return a phase's inputs, with features, where its head can be solved for; else why it must be trained."""
    if boundary != len(model.stages) - 1 or not isinstance(head_of(model.network, model.stages), nn.Linear):
        return "only a linear head that trains alone can be solved for"
    inputs = supply.phase(boundary, [], all_views=True)
    if inputs.features is None:
        return "the head's inputs cannot be computed for all views at once"
    return inputs
