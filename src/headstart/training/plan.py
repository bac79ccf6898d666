"""A strategy as data: phases, each an ordered table from parameter names to learning-rate multipliers.

`resolve` turns a phase and a network into everything the training loop needs: what trains at which rate, which modules
run in training mode, what is frozen, and where the freeze boundary lies. Importing this module loads no torch.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Literal

from headstart.errors import PlanError, listed
from headstart.training.penalties import L2SP
from headstart.types import Stage

if TYPE_CHECKING:
    from torch import nn

BatchNormPolicy = Literal["batch", "fixed"]
Solver = Literal["loop", "lbfgs"]


@dataclass(frozen=True)
class Rule:
    """One line of a phase's table.

    Attributes:
        pattern: A glob on the parameter's name or on any leading part of it: `layer4` covers `layer4.0.conv1.weight`.
        multiplier: What the phase's learning rate is multiplied by, or None for frozen.
    """

    pattern: str
    multiplier: float | None

    def matches(self, name: str) -> bool:
        """Tell whether the rule applies to the parameter called `name`."""
        return fnmatchcase(name, self.pattern) or fnmatchcase(name, self.pattern + ".*")


@dataclass(frozen=True)
class Phase:
    """One stretch of training with a fresh optimizer.

    Attributes:
        name: What tables print.
        rules: First match wins; every parameter must be covered.
        lr: Learning rate that the multipliers refer to.
        epochs: Length, which the schedule spans.
        batch_norm: `fixed`: all BatchNorm statistics stay as they are; `batch`: where a BatchNorm's parameters train,
            it normalises by the batch and updates its running statistics.
        start: Which weights the phase starts from: the `last` of the phase before, or its `best` by selection loss.
        solver: `loop`: train; `lbfgs`: solve the head to its optimum, where it alone trains and its features fit.
        stop_after: Epochs after which to stop within the schedule (a refit for a chosen length), or None for all.
        penalty: Added to the loss in the place of weight decay, or None.
    """

    name: str
    rules: tuple[Rule, ...]
    lr: float
    epochs: int
    batch_norm: BatchNormPolicy = "fixed"
    start: Literal["last", "best"] = "best"
    stop_after: int | None = None
    solver: Solver = "loop"
    penalty: L2SP | None = None

    @property
    def epochs_to_run(self) -> int:
        """How many epochs run, at most `epochs`."""
        if self.stop_after is None:
            return self.epochs
        return min(self.epochs, self.stop_after)


@dataclass(frozen=True)
class Plan:
    """A strategy's phases.

    Attributes:
        strategy: Name of the strategy, or of the user's table.
        phases: Phases of training, in their order.
        is_pretrained: Whether the network starts from pretrained weights.
    """

    strategy: str
    phases: tuple[Phase, ...]
    is_pretrained: bool = True


@dataclass(frozen=True)
class ResolvedPhase:
    """A phase applied to a network.

    Attributes:
        learning_rates: Trainable parameter name -> learning rate at the top of the schedule.
        frozen: Names of the parameters and buffers that must stay bit-identical.
        training_modules: Names of the modules that run in training mode (the root is '').
        boundary: Number of leading stages in which nothing trains: below it the network is a pure function.
        trains_batch_statistics: Whether any BatchNorm normalises by the batch.
    """

    learning_rates: Mapping[str, float]
    frozen: frozenset[str]
    training_modules: frozenset[str]
    boundary: int
    trains_batch_statistics: bool


def resolve(phase: Phase, network: "nn.Module", stages: tuple[Stage, ...]) -> ResolvedPhase:
    """Apply a phase's table to a network.

    Raises:
        PlanError: A parameter is covered by no rule, a rule covers nothing, or nothing trains.
    """
    parameters = dict(network.named_parameters())
    rates = _learning_rates(phase, parameters)
    trained = set(rates)
    updated = _updated_buffers(network, trained, phase.batch_norm, stages)
    changing = trained | updated
    boundary = _freeze_boundary(stages, changing)
    everything = set(parameters) | set(dict(network.named_buffers()))
    return ResolvedPhase(
        learning_rates=rates,
        frozen=frozenset(everything - changing),
        training_modules=_training_modules(network, trained, updated, stages[:boundary]),
        boundary=boundary,
        trains_batch_statistics=bool(updated),
    )


def _freeze_boundary(stages: tuple[Stage, ...], changing: set[str]) -> int:
    """Return the number of leading stages in which nothing changes."""
    for number, stage in enumerate(stages):
        if any(stage.owns(name) for name in changing):
            return number
    return len(stages)


def _first_match(rules: Iterable[Rule], name: str) -> Rule | None:
    """Return the first rule that applies to a parameter, or None."""
    for rule in rules:
        if rule.matches(name):
            return rule
    return None


def _learning_rates(phase: Phase, names: Iterable[str]) -> dict[str, float]:
    """Return the rate of each parameter that trains, by the first rule that matches it.

    Raises:
        PlanError: A parameter is covered by no rule, a rule covers nothing, or nothing trains.
    """
    rates: dict[str, float] = {}
    uncovered = []
    used = set()
    for name in names:
        rule = _first_match(phase.rules, name)
        if rule is None:
            uncovered.append(name)
            continue
        used.add(rule)
        if rule.multiplier is not None:
            rates[name] = phase.lr * rule.multiplier

    where = f"phase {phase.name!r} of the strategy's table"
    if uncovered:
        left = listed(map(repr, uncovered), 1)
        raise PlanError(f"{where} covers no rate for {left}; add a last rule '*' (null for frozen)")
    unused = [rule.pattern for rule in phase.rules if rule not in used and rule.pattern != "*"]
    if unused:
        raise PlanError(
            f"{where}: the pattern {unused[0]!r} matches no parameter that an earlier rule left; "
            "see the names with: headstart model NAME --parameters"
        )
    if not rates:
        raise PlanError(f"{where} freezes every parameter; give at least one pattern a multiplier such as 1")
    return rates


def _is_batch_norm(module: "nn.Module") -> bool:
    """Tell whether a module is a BatchNorm, of any number of dimensions."""
    from torch.nn.modules.batchnorm import _BatchNorm

    return isinstance(module, _BatchNorm)


def _updated_buffers(
    network: "nn.Module", trained: set[str], policy: BatchNormPolicy, stages: tuple[Stage, ...]
) -> set[str]:
    """Name the buffers that training changes: the statistics of each BatchNorm that trains."""
    updated: set[str] = set()
    if policy == "fixed":
        return updated
    for name, module in network.named_modules():
        if _is_batch_norm(module) and _batch_norm_trains(name, module, trained, stages):
            updated.update(f"{name}.{buffer}" for buffer, _ in module.named_buffers())
    return updated


def _batch_norm_trains(name: str, module: "nn.Module", trained: set[str], stages: tuple[Stage, ...]) -> bool:
    """Tell whether any parameter of a BatchNorm trains.

    One without parameters (the first layer of Gluon's ResNets) goes with what trains in its stage.
    """
    own = [f"{name}.{key}" for key, _ in module.named_parameters()]
    if own:
        return not trained.isdisjoint(own)
    for stage in stages:
        if not stage.owns(name):
            continue
        if any(stage.owns(parameter) for parameter in trained):
            return True
    return False


def _training_modules(
    network: "nn.Module", trained: set[str], updated: set[str], frozen_stages: tuple[Stage, ...]
) -> frozenset[str]:
    """Name the modules in training mode.

    A module with parameters trains when one of them does; one without (dropout, drop-path) when it lies above the
    boundary. A BatchNorm's mode follows its statistics instead.
    """
    names = set()
    for name, module in network.named_modules():
        prefix = f"{name}." if name else ""
        own = [prefix + key for key, _ in module.named_parameters()]
        if _is_batch_norm(module):
            trains = any(prefix + key in updated for key, _ in module.named_buffers())
        elif own:
            trains = any(key in trained for key in own)
        else:
            trains = not any(stage.owns(name) for stage in frozen_stages)
        if trains:
            names.add(name)
    return frozenset(names)


def apply_modes(network: "nn.Module", resolved: ResolvedPhase) -> None:
    """Put each module in its mode and let gradients reach only what trains."""
    for name, module in network.named_modules():
        # `module.train()` recurses; the table has already decided for every module.
        module.training = name in resolved.training_modules
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name in resolved.learning_rates)
