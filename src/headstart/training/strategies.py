"""The strategies by name: each a function of a few lines from the network's stages to a plan, and a row in a dict."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from headstart.errors import ConfigError, PlanError
from headstart.models.adapters import Parts
from headstart.training.penalties import L2SP
from headstart.training.plan import BatchNormPolicy, Phase, Plan, Rule, Solver
from headstart.types import Stage


@dataclass(frozen=True)
class StrategyOptions:
    """What a strategy may use: settings, named as in `Config` but for `num_`, and what is known of the network.

    `small` are the names of the parameters of normalisation layers, and of biases.
    """

    stages: tuple[Stage, ...]
    has_known_stages: bool
    epochs: int
    lr: float
    head_lr: float
    num_stages: int | None = None
    num_phases: int = 3
    layer_decay: float = 0.75
    batch_norm: BatchNormPolicy = "fixed"
    solver: Solver | None = None
    phase_epochs: tuple[int, ...] | None = None
    phase_lrs: tuple[float, ...] | None = None
    small: tuple[str, ...] = ()
    l2sp: L2SP = field(default_factory=L2SP)

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
    opened = _opened(options, default=1)
    rules = options.rules(options.head_rule(options.lr), *((stage, 1.0) for stage in opened), rest=None)
    return Plan("partial", (_phase(options, f"head + last {len(opened)}", rules, options.lr),))


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


def l2_sp(options: StrategyOptions) -> Plan:
    """Train everything as `full` does, pulled towards the pretrained weights; see `penalties.L2SP`."""
    return Plan("l2-sp", (replace(full(options).phases[0], penalty=options.l2sp),))


def lora(options: StrategyOptions) -> Plan:
    """Train low-rank changes of the weights beside the head; see `models.adapters.LowRank`."""
    return _beside_head(options, "lora", "*.lora_a", "*.lora_b")


def adapter(options: StrategyOptions) -> Plan:
    """Train bottlenecks after the blocks beside the head; see `models.adapters.Adapter`."""
    return _beside_head(options, "adapter", "*.adapter.*")


def norm(options: StrategyOptions) -> Plan:
    """Train the normalisation layers' parameters and all biases beside the head.

    The first after Frankle et al. 2021 (arXiv:2003.00152), the second after Ben Zaken et al. 2022 (arXiv:2106.10199).
    """
    opened = _opened(options)
    return _beside_head(options, "norm", *(name for name in options.small if any(s.owns(name) for s in opened)))


def _beside_head(options: StrategyOptions, strategy: str, *patterns: str) -> Plan:
    _opened(options)  # refuses a number of stages that there are not
    rules = options.rules(options.head_rule(options.lr), (Stage(strategy, patterns), 1.0), rest=None)
    return Plan(strategy, (_phase(options, f"head + {strategy}", rules, options.lr),))


def _head_phase(options: StrategyOptions, lr: float, *, solver: Solver = "loop") -> Phase:
    phase = _phase(options, "head", options.rules((options.stages[-1], 1.0), rest=None), lr)
    return replace(phase, solver=options.solver or solver)


def _opened(options: StrategyOptions, *, default: int | None = None) -> tuple[Stage, ...]:
    """Return the stages below the head that train, or have parts that do: all where no number says otherwise."""
    if options.num_stages and not options.has_known_stages:
        raise PlanError("the stages of this backbone are not known; leave out --stages")
    count = options.num_stages or default or len(options.body)
    if count > len(options.body):
        raise ConfigError(f"stages={count}: the backbone has {len(options.body)} stages below its head")
    return options.body[len(options.body) - count :]


class Strategy(NamedTuple):
    """A row of the table of strategies.

    Attributes:
        plan: Makes the plan.
        lr: Default learning rate with AdamW or Adam.
        sgd_lr: Default learning rate with SGD and momentum.
        needs_stages: Whether the stages below the head must be known.
        parts: What is inserted into the network before it trains.
    """

    plan: Callable[[StrategyOptions], Plan]
    lr: float
    sgd_lr: float
    needs_stages: bool
    parts: Parts | None = None


# The rates of `head` were measured, those of `lora`, `adapter` and `norm` compared in one run each; the others are
# customary. See docs/decisions/0003-default-rates.md.
STRATEGIES: dict[str, Strategy] = {
    "scratch": Strategy(scratch, 1e-3, 5e-2, False),
    "head": Strategy(head, 1e-2, 3e-2, False),
    "partial": Strategy(partial, 3e-4, 3e-3, True),
    "full": Strategy(full, 3e-4, 3e-3, False),
    "layerwise": Strategy(layerwise, 3e-4, 3e-3, True),
    "gradual": Strategy(gradual, 3e-4, 3e-3, True),
    "lp-ft": Strategy(lp_ft, 3e-4, 3e-3, False),
    "l2-sp": Strategy(l2_sp, 3e-4, 3e-3, False),
    "lora": Strategy(lora, 1e-3, 1e-2, False, "lora"),
    "adapter": Strategy(adapter, 3e-3, 3e-2, True, "adapter"),
    "norm": Strategy(norm, 1e-3, 1e-2, False),
}


def default_lr(strategy: str, optimizer: str, *, has_source_head: bool = False) -> float:
    """Return the default rate; a user's own table starts from that of `full`.

    A head alone that starts from rows of the source's gets a tenth: it has less far to go, and more to lose.
    """
    row = STRATEGIES.get(strategy, STRATEGIES["full"])
    rate = row.sgd_lr if optimizer == "sgd" else row.lr
    return rate / 10 if has_source_head and row.plan is head else rate


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
