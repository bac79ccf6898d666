"""A strategy as data: phases, each an ordered table from parameter names to learning-rate multipliers.

`resolve` turns a phase and a network into everything the training loop needs: what trains at which rate, which modules
run in training mode, what is frozen, and where the freeze boundary lies.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from math import inf
from typing import Any, Literal

from torch import nn

from headstart.errors import PlanError, did_you_mean
from headstart.models.adapters import PARTS
from headstart.training.penalties import L2SP
from headstart.types import Stage

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
        return self.epochs if self.stop_after is None else min(self.epochs, self.stop_after)


@dataclass(frozen=True)
class Plan:
    """A strategy's phases.

    Attributes:
        strategy: Name of the strategy, or of the user's table.
        phases: In order.
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


def resolve(phase: Phase, network: nn.Module, stages: tuple[Stage, ...]) -> ResolvedPhase:
    """Apply a phase's table to a network.

    Raises:
        PlanError: A parameter is covered by no rule, a rule covers nothing, or nothing trains.
    """
    parameters = dict(network.named_parameters())
    rates = _learning_rates(phase, parameters)
    trained = {name for name in parameters if name in rates}
    updated = _updated_buffers(network, trained, phase.batch_norm, stages)
    boundary = next(
        (i for i, stage in enumerate(stages) if any(stage.owns(name) for name in (*trained, *updated))), len(stages)
    )
    training = _training_modules(network, trained, updated, stages[:boundary])
    everything = {*parameters, *(name for name, _ in network.named_buffers())}
    return ResolvedPhase(rates, frozenset(everything - trained - updated), training, boundary, bool(updated))


def _learning_rates(phase: Phase, names: Iterable[str]) -> dict[str, float]:
    rates: dict[str, float] = {}
    uncovered, used = [], set()
    for name in names:
        rule = next((rule for rule in phase.rules if rule.matches(name)), None)
        if rule is None:
            uncovered.append(name)
            continue
        used.add(rule)
        if rule.multiplier is not None:
            rates[name] = phase.lr * rule.multiplier
    where = f"phase {phase.name!r} of the strategy's table"
    if uncovered:
        more = f" and {len(uncovered) - 1} more" if len(uncovered) > 1 else ""
        raise PlanError(f"{where} covers no rate for {uncovered[0]!r}{more}; add a last rule '*' (null for frozen)")
    if unused := [rule.pattern for rule in phase.rules if rule not in used and rule.pattern != "*"]:
        raise PlanError(
            f"{where}: the pattern {unused[0]!r} matches no parameter that an earlier rule left; "
            "see the names with: headstart model NAME --parameters"
        )
    if not rates:
        raise PlanError(f"{where} freezes every parameter; give at least one pattern a multiplier such as 1")
    return rates


def _is_batch_norm(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.batchnorm._BatchNorm)


def _updated_buffers(
    network: nn.Module, trained: set[str], policy: BatchNormPolicy, stages: tuple[Stage, ...]
) -> set[str]:
    """Name the buffers that training changes: the statistics of each BatchNorm of which any parameter trains.

    One without parameters (the first layer of Gluon's ResNets) goes with what trains in its stage.
    """
    if policy == "fixed":
        return set()

    def trains(name: str, module: nn.Module) -> bool:
        if own := [f"{name}.{key}" for key, _ in module.named_parameters()]:
            return not trained.isdisjoint(own)
        return any(stage.owns(name) and any(map(stage.owns, trained)) for stage in stages)

    return {
        f"{module_name}.{buffer}"
        for module_name, module in network.named_modules()
        if _is_batch_norm(module) and trains(module_name, module)
        for buffer, _ in module.named_buffers()
    }


def _training_modules(
    network: nn.Module, trained: set[str], updated: set[str], frozen_stages: tuple[Stage, ...]
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


def apply_modes(network: nn.Module, resolved: ResolvedPhase) -> None:
    """Put each module in its mode and let gradients reach only what trains."""
    for name, module in network.named_modules():
        # `module.train()` recurses; the table has already decided for every module.
        module.training = name in resolved.training_modules
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name in resolved.learning_rates)


@dataclass(frozen=True)
class StageRow:
    """One line of the printed plan: a stage within a phase; `learning_rates` holds each different rate once."""

    stage: str
    parameters: int
    trainable: int
    learning_rates: tuple[float, ...]


@dataclass(frozen=True)
class PhaseTable:
    """What `headstart plan` prints of a phase."""

    name: str
    epochs: int
    batch_norm: str
    boundary: str
    parameters: int
    trainable: int
    stages: tuple[StageRow, ...] = field(default=())
    solver: Solver = "loop"
    penalty: str = ""

    @property
    def share(self) -> str:
        """Trainable of all parameters: `1,026 / 11,177,538 (0.01 %)`."""
        return share(self.trainable, self.parameters)


def share(part: int, whole: int) -> str:
    """Format a count of a count: `1,026 / 11,177,538 (0.01 %)`."""
    return f"{part:,} / {whole:,} ({100 * part / whole if whole else 0:.2f} %)"


def describe(plan: Plan, network: nn.Module, stages: tuple[Stage, ...]) -> tuple[PhaseTable, ...]:
    """Tabulate a plan per phase and stage, before anything runs.

    Raises:
        PlanError: The table does not fit the network.
    """
    counts = {name: parameter.numel() for name, parameter in network.named_parameters()}
    tables = []
    for phase in plan.phases:
        resolved = resolve(phase, network, stages)
        rows = tuple(_stage_row(stage, counts, resolved) for stage in stages)
        trains_norm = resolved.trains_batch_statistics
        boundary = f"after {stages[resolved.boundary - 1].name}" if resolved.boundary else "none: everything runs"
        trainable = sum(counts[name] for name in resolved.learning_rates)
        norm = "batch" if trains_norm else "fixed"
        tables.append(
            PhaseTable(
                phase.name,
                phase.epochs_to_run,
                norm,
                boundary,
                sum(counts.values()),
                trainable,
                rows,
                phase.solver,
                str(phase.penalty or ""),
            )
        )
    return tuple(tables)


def _stage_row(stage: Stage, counts: Mapping[str, int], resolved: ResolvedPhase) -> StageRow:
    own = [name for name in counts if stage.owns(name)]
    rates = {name: resolved.learning_rates[name] for name in own if name in resolved.learning_rates}
    return StageRow(
        stage.name,
        sum(counts[name] for name in own),
        sum(counts[name] for name in rates),
        tuple(sorted(set(rates.values()))),
    )


def parse_table(
    table: Mapping[str, Any],
    *,
    name: str,
    default_lr: float,
    default_epochs: int,
    default_batch_norm: BatchNormPolicy = "fixed",
) -> Plan:
    """Read a user's own strategy.

    Args:
        table: `{pretrained: true, parts: lora, phases: [{name, epochs, lr, batch_norm, start, solver,
            penalty: {alpha, beta}, rules: {pattern: multiplier}}]}`,
            where a multiplier of null or `frozen` freezes, and only `rules` is required. `parts` are inserted before
            training: `lora` (`*.lora_a`, `*.lora_b`) or `adapter` (`*.adapter.*`).
        name: What the strategy is called.
        default_lr: Rate of a phase that names none.
        default_epochs: Length of a phase that names none.
        default_batch_norm: Policy of a phase that names none.

    Raises:
        PlanError: A key is unknown, missing or has a wrong value.
    """
    _check_keys(table, {"name", "pretrained", "parts", "phases"}, f"strategy table {name!r}")
    if table.get("parts") not in (None, *PARTS):
        raise PlanError(f"strategy table {name!r}: parts is {' or '.join(map(repr, PARTS))}; got {table['parts']!r}")
    phases = table.get("phases")
    if not isinstance(phases, list) or not phases:
        raise PlanError(f"strategy table {name!r} needs a list 'phases' with at least one phase; got {phases!r}")
    defaults = {
        "lr": default_lr,
        "epochs": default_epochs,
        "batch_norm": default_batch_norm,
        "start": "best",
        "solver": "loop",
    }
    return Plan(
        str(table.get("name", name)),
        tuple(_parse_phase(phase, i, defaults) for i, phase in enumerate(phases)),
        bool(table.get("pretrained", True)),
    )


def _parse_phase(phase: object, index: int, defaults: Mapping[str, Any]) -> Phase:
    where = f"phase {index + 1} of the strategy's table"
    if not isinstance(phase, Mapping):
        raise PlanError(f"{where} must be a mapping with 'rules'; got {phase!r}")
    _check_keys(phase, {"name", "epochs", "lr", "batch_norm", "start", "solver", "penalty", "rules"}, where)
    phase = {**defaults, **phase}
    rules = phase.get("rules")
    if not isinstance(rules, Mapping) or not rules:
        raise PlanError(f"{where} needs 'rules', a mapping such as {{classifier: 10, '*': 1}}; got {rules!r}")
    try:
        lr, epochs = float(phase["lr"]), int(phase["epochs"])
        parsed = tuple(
            Rule(str(pattern), None if value in (None, "frozen") else float(value)) for pattern, value in rules.items()
        )
    except (TypeError, ValueError) as error:
        raise PlanError(f"{where}: lr, epochs and multipliers must be numbers (null for frozen): {error}") from error
    batch_norm, start, solver = phase["batch_norm"], phase["start"], phase["solver"]
    if batch_norm not in ("batch", "fixed") or start not in ("last", "best") or solver not in ("loop", "lbfgs"):
        raise PlanError(
            f"{where}: batch_norm is 'batch' or 'fixed', start is 'last' or 'best', solver is 'loop' or 'lbfgs'"
        )
    if lr <= 0 or epochs < 0 or any(rule.multiplier is not None and rule.multiplier <= 0 for rule in parsed):
        raise PlanError(f"{where}: lr and multipliers must be above 0 (null for frozen) and epochs at least 0")
    name, penalty = str(phase.get("name", f"phase {index + 1}")), _parse_penalty(phase.get("penalty"), solver, where)
    return Phase(name, parsed, lr, epochs, batch_norm, start, solver=solver, penalty=penalty)


def _parse_penalty(values: object, solver: Solver, where: str) -> L2SP | None:
    if values is None:
        return None
    if not isinstance(values, Mapping):
        raise PlanError(f"{where}: penalty is a mapping such as {{alpha: 0.1, beta: 0.01}}; got {values!r}")
    _check_keys(values, {"alpha", "beta"}, f"{where}: penalty")
    try:
        penalty = L2SP(**{str(key): float(value) for key, value in values.items()})
    except (TypeError, ValueError) as error:
        raise PlanError(f"{where}: alpha and beta of the penalty must be numbers: {error}") from error
    if not (0 <= penalty.alpha < inf and 0 <= penalty.beta < inf):
        raise PlanError(f"{where}: alpha and beta of the penalty must be at least 0; got {dict(values)}")
    if solver == "lbfgs":
        raise PlanError(f"{where} is solved, which takes no penalty; leave it out, or use solver: loop")
    return penalty


def _check_keys(values: Mapping[Any, Any], known: set[str], where: str) -> None:
    if unknown := [str(key) for key in values if key not in known]:
        raise PlanError(f"{where}: unknown key {unknown[0]!r}.{did_you_mean(unknown[0], known)}")
