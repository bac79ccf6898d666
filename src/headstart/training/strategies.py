"""The strategies by name: each a function of a few lines from the network's stages to a plan, and a row in a dict."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from headstart.errors import ConfigError, PlanError
from headstart.training.plan import BatchNormPolicy, Phase, Plan, Rule, Solver
from headstart.types import Stage


@dataclass(frozen=True)
class StrategyOptions:
    """What a strategy may use.

    Attributes:
        stages: The network's stages in forward order; the last is the head.
        has_known_stages: False where only the body and the head could be told apart.
        epochs: Length of each phase.
        lr: Learning rate of the lowest part that trains.
        head_lr: Learning rate of a new head beside, or before, pretrained parts.
        num_stages: `partial`: how many of the last stages train beside the head.
        num_phases: `gradual`: how many phases.
        layer_decay: `layerwise`: factor from a stage to the one below.
        batch_norm: Policy of the BatchNorm that trains.
        solver: How a phase of the head alone finds it; None: as the strategy would.
        phase_epochs: One length per phase, instead of `epochs`.
        phase_lrs: One rate per phase, instead of what the strategy would choose.
    """

    stages: tuple[Stage, ...]
    has_known_stages: bool
    epochs: int
    lr: float
    head_lr: float
    num_stages: int = 1
    num_phases: int = 3
    layer_decay: float = 0.75
    batch_norm: BatchNormPolicy = "fixed"
    solver: Solver | None = None
    phase_epochs: tuple[int, ...] | None = None
    phase_lrs: tuple[float, ...] | None = None

    @property
    def body(self) -> tuple[Stage, ...]:
        """All stages but the head."""
        return self.stages[:-1]

    def rules(self, *multipliers: tuple[Stage, float], rest: float | None) -> tuple[Rule, ...]:
        """Build a table from stages, then one rule for all the rest."""
        named = tuple(Rule(prefix, value) for stage, value in multipliers for prefix in stage.prefixes)
        return (*named, Rule("*", rest))

    def head_rule(self, lr: float) -> tuple[Stage, float]:
        """The head's line of a table whose rate is `lr`."""
        return self.stages[-1], self.head_lr / lr


def _phase(options: StrategyOptions, name: str, rules: tuple[Rule, ...], lr: float) -> Phase:
    return Phase(name, rules, lr, options.epochs, options.batch_norm)


def scratch(options: StrategyOptions) -> Plan:
    """Train everything at one rate from random weights: the baseline."""
    return Plan("scratch", (_phase(options, "all", options.rules(rest=1.0), options.lr),), is_pretrained=False)


def head(options: StrategyOptions) -> Plan:
    """Train the head only: feature extraction."""
    return Plan("head", (_head_phase(options, options.lr),))


def partial(options: StrategyOptions) -> Plan:
    """Train the head and the last `num_stages` stages."""
    name = f"head + last {options.num_stages}"
    return Plan("partial", (_phase(options, name, _last_stages(options, options.num_stages, options.lr), options.lr),))


def full(options: StrategyOptions) -> Plan:
    """Train everything, the new head at its own rate: discriminative learning rates."""
    rules = options.rules(options.head_rule(options.lr), rest=1.0)
    return Plan("full", (_phase(options, "all", rules, options.lr),))


def layerwise(options: StrategyOptions) -> Plan:
    """Train everything, stage i of n at lr x layer_decay^(n-i) (Clark et al. 2020, arXiv:2003.10555, section 3.1)."""
    top = len(options.body) - 1
    decayed = ((stage, options.layer_decay ** (top - i)) for i, stage in enumerate(options.body))
    rules = options.rules(options.head_rule(options.lr), *decayed, rest=options.layer_decay**top)
    return Plan("layerwise", (_phase(options, "all", rules, options.lr),))


def gradual(options: StrategyOptions) -> Plan:
    """Unfreeze from the top (Howard and Ruder 2018, arXiv:1801.06146): the head, then one more stage in each phase.

    All that trains in a phase has one rate; the rates fall geometrically from `head_lr` to `lr`.
    """
    num_phases = options.num_phases
    if num_phases > len(options.stages):
        raise ConfigError(f"gradual has one phase per stage at most: {len(options.stages)} here; got {num_phases}")
    rates = np.geomspace(options.head_lr, options.lr, num_phases) if num_phases > 1 else [options.head_lr]
    phases = [_head_phase(options, float(rates[0]))]
    for count in range(1, num_phases):
        opened = options.stages[-1 - count :]
        rules = options.rules(*((stage, 1.0) for stage in opened), rest=None)
        phases.append(_phase(options, f"+ {opened[0].name}", rules, float(rates[count])))
    return Plan("gradual", tuple(phases))


def lp_ft(options: StrategyOptions) -> Plan:
    """Solve the head to its optimum, then train everything at one rate (Kumar et al. 2022, arXiv:2202.10054)."""
    everything = _phase(options, "all", options.rules(rest=1.0), options.lr)
    return Plan("lp-ft", (_head_phase(options, options.head_lr, solver="lbfgs"), everything))


def _head_phase(options: StrategyOptions, lr: float, *, solver: Solver = "loop") -> Phase:
    phase = _phase(options, "head", options.rules((options.stages[-1], 1.0), rest=None), lr)
    return replace(phase, solver=options.solver or solver)


def _last_stages(options: StrategyOptions, count: int, lr: float) -> tuple[Rule, ...]:
    if count > len(options.body):
        raise ConfigError(f"stages={count}: the backbone has {len(options.body)} stages below its head")
    opened = ((stage, 1.0) for stage in options.body[len(options.body) - count :])
    return options.rules(options.head_rule(lr), *opened, rest=None)


class Strategy(NamedTuple):
    """A row of the table of strategies.

    Attributes:
        plan: Makes the plan.
        lr: Default learning rate with AdamW or Adam.
        sgd_lr: Default learning rate with SGD and momentum.
        needs_stages: Whether the stages below the head must be known.
        summary: One line for `--help` and tables.
    """

    plan: Callable[[StrategyOptions], Plan]
    lr: float
    sgd_lr: float
    needs_stages: bool
    summary: str


# The rates were measured; see docs/decisions/0003-default-rates.md.
STRATEGIES: dict[str, Strategy] = {
    "scratch": Strategy(scratch, 1e-3, 5e-2, False, "everything from random weights, the baseline"),
    "head": Strategy(head, 1e-2, 3e-2, False, "the head only: feature extraction"),
    "partial": Strategy(partial, 3e-4, 3e-3, True, "the head and the last k stages"),
    "full": Strategy(full, 3e-4, 3e-3, False, "everything, the head at head_lr_mult times the rate"),
    "layerwise": Strategy(layerwise, 3e-4, 3e-3, True, "everything, lower stages at lower rates"),
    "gradual": Strategy(gradual, 3e-4, 3e-3, True, "the head, then one more stage in each phase"),
    "lp-ft": Strategy(lp_ft, 3e-4, 3e-3, False, "the head first, then everything"),
}


def default_lr(strategy: str, optimizer: str) -> float:
    """Return the measured default rate; a user's own table starts from that of `full`."""
    row = STRATEGIES.get(strategy, STRATEGIES["full"])
    return row.sgd_lr if optimizer == "sgd" else row.lr


def make_plan(strategy: str, options: StrategyOptions, *, backbone: str) -> Plan:
    """Build the plan of a named strategy, with the lengths and rates per phase where they were given.

    Raises:
        PlanError: The strategy needs stages that are not known for this backbone.
        ConfigError: An option does not fit the network, or the lists per phase have another length.
    """
    row = STRATEGIES[strategy]
    if row.needs_stages and not options.has_known_stages:
        whole = ", ".join(name for name, other in STRATEGIES.items() if not other.needs_stages)
        raise PlanError(
            f"the stages of {backbone} are not known, so {strategy!r} cannot tell them apart; "
            f"only strategies that take the backbone as a whole apply: {whole}"
        )
    plan = row.plan(options)
    for key, given in (("phase_epochs", options.phase_epochs), ("phase_lrs", options.phase_lrs)):
        if given is not None and len(given) != len(plan.phases):
            raise ConfigError(f"{key} names {len(given)} phases; {strategy} has {len(plan.phases)}")
    epochs = options.phase_epochs or tuple(phase.epochs for phase in plan.phases)
    rates = options.phase_lrs or tuple(phase.lr for phase in plan.phases)
    phases = (
        replace(phase, lr=lr, epochs=length) for phase, length, lr in zip(plan.phases, epochs, rates, strict=True)
    )
    return Plan(plan.strategy, tuple(phases), plan.is_pretrained)
