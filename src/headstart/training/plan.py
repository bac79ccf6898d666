"""A strategy as data: phases, each an ordered table from parameter names to learning-rate multipliers.

`resolve` turns a phase and a network into everything the training loop needs: what trains at which rate, which modules
run in training mode, what is frozen, and where the freeze boundary lies. Importing this module loads no torch.
"""

import reprlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from headstart.errors import PlanError, did_you_mean, listed
from headstart.training.penalties import L2SP
from headstart.types import Parts, Stage

if TYPE_CHECKING:
    from torch import nn

BatchNormPolicy = Literal["batch", "fixed"]
Solver = Literal["loop", "lbfgs"]
_Multiplier = Annotated[float | None, Field(gt=0), BeforeValidator(lambda value: None if value == "frozen" else value)]


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
    everything = {*parameters, *dict(network.named_buffers())}
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


def _learning_rates(phase: Phase, names: Iterable[str]) -> dict[str, float]:
    """Return the rate of each parameter that trains, by the first rule that matches it."""
    rates: dict[str, float] = {}
    uncovered = []
    used = set()
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
        left = listed(map(repr, uncovered), 1)
        raise PlanError(f"{where} covers no rate for {left}; add a last rule '*' (null for frozen)")
    if unused := [rule.pattern for rule in phase.rules if rule not in used and rule.pattern != "*"]:
        raise PlanError(
            f"{where}: the pattern {unused[0]!r} matches no parameter that an earlier rule left; "
            "see the names with: headstart model NAME --parameters"
        )
    if not rates:
        raise PlanError(f"{where} freezes every parameter; give at least one pattern a multiplier such as 1")
    return rates


def _is_batch_norm(module: "nn.Module") -> bool:
    from torch.nn.modules.batchnorm import _BatchNorm

    return isinstance(module, _BatchNorm)


def _updated_buffers(
    network: "nn.Module", trained: set[str], policy: BatchNormPolicy, stages: tuple[Stage, ...]
) -> set[str]:
    """Name the buffers that training changes: the statistics of each BatchNorm of which any parameter trains.

    One without parameters (the first layer of Gluon's ResNets) goes with what trains in its stage.
    """
    if policy == "fixed":
        return set()

    def trains(name: str, module: "nn.Module") -> bool:
        own = [f"{name}.{key}" for key, _ in module.named_parameters()]
        if own:
            return not trained.isdisjoint(own)
        return any(stage.owns(name) and any(map(stage.owns, trained)) for stage in stages)

    updated: set[str] = set()
    for name, module in network.named_modules():
        if _is_batch_norm(module) and trains(name, module):
            updated.update(f"{name}.{buffer}" for buffer, _ in module.named_buffers())
    return updated


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
    stages: tuple[StageRow, ...] = ()
    solver: Solver = "loop"
    penalty: str = ""

    @property
    def share(self) -> str:
        """Trainable of all parameters: `1,026 / 11,177,538 (0.01 %)`."""
        return share(self.trainable, self.parameters)


def share(part: int, whole: int) -> str:
    """Format a count of a count: `1,026 / 11,177,538 (0.01 %)`."""
    percent = 100 * part / whole if whole else 0
    return f"{part:,} / {whole:,} ({percent:.2f} %)"


def describe(plan: Plan, network: "nn.Module", stages: tuple[Stage, ...]) -> tuple[PhaseTable, ...]:
    """Tabulate a plan per phase and stage, before anything runs.

    Raises:
        PlanError: The table does not fit the network.
    """
    counts = {name: parameter.numel() for name, parameter in network.named_parameters()}
    tables = []
    for phase in plan.phases:
        resolved = resolve(phase, network, stages)
        boundary = f"after {stages[resolved.boundary - 1].name}" if resolved.boundary else "none: everything runs"
        tables.append(
            PhaseTable(
                phase.name,
                phase.epochs_to_run,
                batch_norm="batch" if resolved.trains_batch_statistics else "fixed",
                boundary=boundary,
                parameters=sum(counts.values()),
                trainable=sum(counts[name] for name in resolved.learning_rates),
                stages=tuple(_stage_row(stage, counts, resolved) for stage in stages),
                solver=phase.solver,
                penalty=str(phase.penalty or ""),
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


_UNKNOWN_KEY = ("extra_forbidden", "unexpected_keyword_argument")  # of a model, of a dataclass


class _Spec(BaseModel):
    # Numbers to text: YAML reads the name of a module such as `0` as a number.
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, coerce_numbers_to_str=True)


class _PhaseSpec(_Spec):
    """A phase of a user's table; of what it leaves out, `parse_table` has the defaults."""

    rules: dict[str, _Multiplier] = Field(min_length=1)
    name: str = ""
    lr: float = Field(0.0, gt=0)
    epochs: int = Field(0, ge=0)
    batch_norm: BatchNormPolicy = "fixed"
    start: Literal["last", "best"] = "best"
    solver: Solver = "loop"
    penalty: L2SP | None = None


class _TableSpec(_Spec):
    """A user's table."""

    phases: list[_PhaseSpec] = Field(min_length=1)
    name: str = ""
    pretrained: bool = Field(True, strict=True)
    parts: Parts | None = None


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
    try:
        spec = _TableSpec.model_validate(table)
    except ValidationError as error:
        raise PlanError(f"strategy table {name!r}: {_describe(error)}") from error
    defaults = {"lr": default_lr, "epochs": default_epochs, "batch_norm": default_batch_norm}
    phases = []
    for i, each in enumerate(spec.phases):
        if each.solver == "lbfgs" and each.penalty is not None:
            raise PlanError(
                f"strategy table {name!r}: phases[{i}] is solved, which takes no penalty; leave it out, or use "
                "solver: loop"
            )
        values: dict[str, Any] = {"name": f"phase {i + 1}", **defaults}
        values |= {key: getattr(each, key) for key in each.model_fields_set}
        values["rules"] = tuple(Rule(pattern, multiplier) for pattern, multiplier in each.rules.items())
        phases.append(Phase(**values))
    return Plan(spec.name or name, tuple(phases), spec.pretrained)


def _describe(error: ValidationError) -> str:
    """Say where the first error is, and what: `phases[0].epochs: input should be a valid integer; got 'many'`."""
    # What a misspelt key leaves missing is an error too, and says less.
    first = min(error.errors(), key=lambda each: each["type"] not in _UNKNOWN_KEY)
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"])[1:]
    if first["type"] in _UNKNOWN_KEY:
        # At depth 1 it is a key of the table, at 3 one of phases[0], at 4 one of phases[0].penalty.
        levels = [*_TableSpec.model_fields], [*_PhaseSpec.model_fields], [*L2SP.__dataclass_fields__]
        known = levels[len(first["loc"]) // 2]
        return f"unknown key {place}.{did_you_mean(str(first['loc'][-1]), known)}"
    message = "input should be a mapping" if "instance of" in first["msg"] else first["msg"]
    return (
        f"{place}: {message[:1].lower()}{message[1:]}; got {reprlib.repr(first['input'])}. "
        "A table is such as {phases: [{lr: 1e-3, epochs: 5, rules: {classifier: 10, '*': null}}]}; null freezes"
    )
