"""The strategies by name: each a function of a few lines from the network's stages to a plan, and a row in a dict.

A row says all that the rest of the program has to know of a strategy, so that its name is compared nowhere. Importing
this module loads no torch.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from headstart.errors import ConfigError, PlanError, unknown
from headstart.training.plan import Phase, Plan, Solver
from headstart.training.strategy_options import StrategyOptions
from headstart.training.user_table import parse_table
from headstart.types import Parts, Stage


def scratch(options: StrategyOptions) -> Plan:
    """Train everything at one rate from random weights: the baseline."""
    everything = options.phase("all", options.rules(rest=1.0), options.lr)
    return Plan("scratch", (everything,), is_pretrained=False)


def head(options: StrategyOptions) -> Plan:
    """Train the head only: feature extraction."""
    return Plan("head", (_head_phase(options, options.lr),))


def partial(options: StrategyOptions) -> Plan:
    """Train the head and the last `num_stages` stages."""
    opened = options.opened_stages(default=1)
    multipliers = [(stage, 1.0) for stage in opened]
    rules = options.rules(options.head_rule(options.lr), *multipliers, rest=None)
    return Plan("partial", (options.phase(f"head + last {len(opened)}", rules, options.lr),))


def full(options: StrategyOptions) -> Plan:
    """Train everything, the new head at its own rate: discriminative learning rates."""
    rules = options.rules(options.head_rule(options.lr), rest=1.0)
    return Plan("full", (options.phase("all", rules, options.lr),))


def layerwise(options: StrategyOptions) -> Plan:
    """Train everything, stage i of n at lr x layer_decay^(n-i) (Clark et al. 2020, arXiv:2003.10555, section 3.1)."""
    top = len(options.body) - 1
    decayed = [(stage, options.layer_decay ** (top - i)) for i, stage in enumerate(options.body)]
    rules = options.rules(options.head_rule(options.lr), *decayed, rest=options.layer_decay**top)
    return Plan("layerwise", (options.phase("all", rules, options.lr),))


def gradual(options: StrategyOptions) -> Plan:
    """Unfreeze from the top (Howard and Ruder 2018, arXiv:1801.06146): the head, then one more stage in each phase.

    All that trains in a phase has one rate; the rates fall geometrically from `head_lr` to `lr`.
    """
    num_phases = options.num_phases
    if num_phases > len(options.stages):
        raise ConfigError(f"gradual has one phase per stage at most: {len(options.stages)} here; got {num_phases}")
    rates = _geometric(options.head_lr, options.lr, num_phases)
    phases = [_head_phase(options, rates[0])]
    for count in range(1, num_phases):
        opened = options.stages[-1 - count :]
        multipliers = [(stage, 1.0) for stage in opened]
        rules = options.rules(*multipliers, rest=None)
        phases.append(options.phase(f"+ {opened[0].name}", rules, rates[count]))
    return Plan("gradual", tuple(phases))


def _geometric(first: float, last: float, count: int) -> list[float]:
    """Return numbers from `first` to `last` with one ratio between each two."""
    if count == 1:
        return [first]
    import numpy as np

    return [float(rate) for rate in np.geomspace(first, last, count)]


def lp_ft(options: StrategyOptions) -> Plan:
    """Solve the head to its optimum, then train everything at one rate (Kumar et al. 2022, arXiv:2202.10054)."""
    solved = _head_phase(options, options.head_lr, solver="lbfgs")
    everything = options.phase("all", options.rules(rest=1.0), options.lr)
    return Plan("lp-ft", (solved, everything))


def l2_sp(options: StrategyOptions) -> Plan:
    """Train everything as `full` does, pulled towards the pretrained weights; see `penalties.L2SP`."""
    everything = full(options).phases[0]
    return Plan("l2-sp", (replace(everything, penalty=options.l2sp),))


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
    opened = options.opened_stages()
    names = []
    for name in options.small:
        if any(stage.owns(name) for stage in opened):
            names.append(name)
    return _beside_head(options, "norm", *names)


def _beside_head(options: StrategyOptions, strategy: str, *patterns: str) -> Plan:
    """Train the head and the parameters that the patterns cover, in one phase."""
    options.opened_stages()  # refuses a number of stages that there are not
    rules = options.rules(options.head_rule(options.lr), (Stage(strategy, patterns), 1.0), rest=None)
    return Plan(strategy, (options.phase(f"head + {strategy}", rules, options.lr),))


def _head_phase(options: StrategyOptions, lr: float, *, solver: Solver = "loop") -> Phase:
    """Return a phase in which the head alone trains, by the solver that was asked for or else the one given."""
    phase = options.phase("head", options.rules((options.stages[-1], 1.0), rest=None), lr)
    return replace(phase, solver=options.solver or solver)


_HEAD_RATES = ("head_lr", "head_lr_mult")


@dataclass(frozen=True)
class Strategy:
    """A row of the table of strategies: what a strategy says of itself.

    Attributes:
        plan: Makes the plan.
        lr: Default learning rate with AdamW or Adam.
        sgd_lr: Default learning rate with SGD and momentum.
        uses: The settings of `USED_BY_SOME` that have an effect.
        ignores: The settings of `IGNORED_BY_SOME` that have none.
        is_pretrained: Whether it starts from pretrained weights.
        needs_stages: Whether the stages below the head must be known.
        starts_with_head: Whether its first phase trains the head alone at `head_lr`, and others follow at `lr`.
        source_head_divisor: What the default rate is divided by where the head starts from rows of the source's.
        parts: What is inserted into the network before it trains.
    """

    plan: Callable[[StrategyOptions], Plan]
    lr: float
    sgd_lr: float
    uses: tuple[str, ...] = ()
    ignores: tuple[str, ...] = ()
    is_pretrained: bool = True
    needs_stages: bool = False
    starts_with_head: bool = False
    source_head_divisor: float = 1.0
    parts: Parts | None = None

    @property
    def has_head_rate(self) -> bool:
        """Whether the head has a rate of its own beside pretrained parts."""
        return "head_lr" in self.uses


# The rates of `head` were measured, those of `lora`, `adapter` and `norm` compared in one run each; the others are
# customary. See docs/decisions/0003-default-rates.md.
STRATEGIES: dict[str, Strategy] = {
    "scratch": Strategy(scratch, 1e-3, 5e-2, is_pretrained=False),
    # A head alone that starts from rows of the source's has less far to go, and more to lose.
    "head": Strategy(head, 1e-2, 3e-2, ("solver",), source_head_divisor=10),
    "partial": Strategy(partial, 3e-4, 3e-3, ("stages", *_HEAD_RATES), needs_stages=True),
    "full": Strategy(full, 3e-4, 3e-3, _HEAD_RATES),
    "layerwise": Strategy(layerwise, 3e-4, 3e-3, ("layer_decay", *_HEAD_RATES), needs_stages=True),
    "gradual": Strategy(
        gradual, 3e-4, 3e-3, ("phases", "solver", *_HEAD_RATES), needs_stages=True, starts_with_head=True
    ),
    "lp-ft": Strategy(lp_ft, 3e-4, 3e-3, ("solver", *_HEAD_RATES), starts_with_head=True),
    "l2-sp": Strategy(l2_sp, 3e-4, 3e-3, ("l2sp_alpha", "l2sp_beta", *_HEAD_RATES), ignores=("weight_decay",)),
    "lora": Strategy(lora, 1e-3, 1e-2, ("stages", "lora_rank", "lora_alpha", *_HEAD_RATES), parts="lora"),
    "adapter": Strategy(
        adapter, 3e-3, 3e-2, ("stages", "adapter_width", *_HEAD_RATES), needs_stages=True, parts="adapter"
    ),
    "norm": Strategy(norm, 1e-3, 1e-2, ("stages", *_HEAD_RATES)),
}

# Settings that have an effect with some strategies, and with which; None: with those that name it.
_HEAD_RATE_OWNER = "a strategy that trains a new head beside pretrained parts"
_L2SP_OWNER = "strategy l2-sp; a table has its own penalties"
USED_BY_SOME: dict[str, str | None] = {
    "stages": None,
    "lora_rank": None,
    "lora_alpha": None,
    "adapter_width": None,
    "l2sp_alpha": _L2SP_OWNER,
    "l2sp_beta": _L2SP_OWNER,
    "phases": None,
    "layer_decay": None,
    "head_lr": _HEAD_RATE_OWNER,
    "head_lr_mult": _HEAD_RATE_OWNER,
    "solver": "a strategy with a phase for the head",
}
# Settings that have none with some strategies, and with which they have one.
IGNORED_BY_SOME = {
    "weight_decay": "another strategy; the penalty of l2-sp takes its place",
    "phase_epochs": "a named strategy; a table has its own lengths",
    "phase_lrs": "a named strategy; a table has its own rates",
}


def table_strategy(name: str, table: Mapping[str, Any]) -> Strategy:
    """Return the row of a table of one's own, as `user_table.parse_table` reads it; its rates are those of `full`."""

    def plan(options: StrategyOptions) -> Plan:
        """Read the table, with what was asked for where it says nothing."""
        return parse_table(
            table,
            name=name,
            default_lr=options.lr,
            default_epochs=options.epochs,
            default_batch_norm=options.batch_norm,
        )

    return Strategy(
        plan,
        STRATEGIES["full"].lr,
        STRATEGIES["full"].sgd_lr,
        uses=("stages", "lora_rank", "lora_alpha", "adapter_width", "solver"),
        ignores=("phase_epochs", "phase_lrs"),
        is_pretrained=bool(table.get("pretrained", True)),
        parts=table.get("parts"),
    )


def find_strategy(name: str, table: Mapping[str, Any] | None = None) -> Strategy:
    """Return what a strategy, or a table of one's own of that name, says of itself.

    Raises:
        ConfigError: There is no such strategy.
    """
    if table is not None:
        return table_strategy(name, table)
    if name not in STRATEGIES:
        raise ConfigError(f"{unknown('strategy', name, STRATEGIES)}, or a YAML file with your own table")
    return STRATEGIES[name]


def default_lr(strategy: Strategy, optimizer: str, *, has_source_head: bool = False) -> float:
    """Return the default learning rate of a strategy, which a head that starts from the source's may lower."""
    rate = strategy.sgd_lr if optimizer == "sgd" else strategy.lr
    if has_source_head:
        rate /= strategy.source_head_divisor
    return rate


def make_plan(name: str, strategy: Strategy, options: StrategyOptions, *, backbone: str) -> Plan:
    """Build the plan of a strategy, with the lengths and rates per phase where they were given.

    Raises:
        PlanError: The strategy needs stages that are not known for this backbone, or a table is not valid.
        ConfigError: An option does not fit the network, or the lists per phase have another length.
    """
    if strategy.needs_stages and not options.has_known_stages:
        whole = ", ".join(key for key, other in STRATEGIES.items() if not other.needs_stages)
        raise PlanError(
            f"the stages of {backbone} are not known, so {name!r} cannot tell them apart; "
            f"only strategies that take the backbone as a whole apply: {whole}"
        )

    plan = strategy.plan(options)
    phases = list(plan.phases)
    if options.phase_epochs is not None and "phase_epochs" not in strategy.ignores:
        _refuse_other_count("phase_epochs", options.phase_epochs, name, plan)
        for number, epochs in enumerate(options.phase_epochs):
            phases[number] = replace(phases[number], epochs=epochs)
    if options.phase_lrs is not None and "phase_lrs" not in strategy.ignores:
        _refuse_other_count("phase_lrs", options.phase_lrs, name, plan)
        for number, lr in enumerate(options.phase_lrs):
            phases[number] = replace(phases[number], lr=lr)
    return replace(plan, phases=tuple(phases))


def _refuse_other_count(key: str, given: Sequence[float], name: str, plan: Plan) -> None:
    """Refuse a list per phase that has another length than the plan."""
    if len(given) != len(plan.phases):
        raise ConfigError(f"{key} names {len(given)} phases; {name} has {len(plan.phases)}")
