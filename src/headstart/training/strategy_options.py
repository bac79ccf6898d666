"""What a strategy may use to make its plan. Importing this module loads no torch."""

from dataclasses import dataclass, field

from headstart.errors import ConfigError, PlanError
from headstart.training.penalties import L2SP
from headstart.training.plan import BatchNormPolicy, Phase, Rule, Solver
from headstart.types import Stage


@dataclass(frozen=True)
class StrategyOptions:
    """What a strategy may use: settings, named as in `Config` but for `num_`, and what is known of the network.

    Attributes:
        small: Names of the parameters of normalisation layers, and of biases.
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
        rules = []
        for stage, multiplier in multipliers:
            for prefix in stage.prefixes:
                rules.append(Rule(prefix, multiplier))
        rules.append(Rule("*", rest))
        return tuple(rules)

    def head_rule(self, lr: float) -> tuple[Stage, float]:
        """Return the head's line of a table whose rate is `lr`."""
        return self.stages[-1], self.head_lr / lr

    def phase(self, name: str, rules: tuple[Rule, ...], lr: float) -> Phase:
        """Return a phase of the length and the BatchNorm policy that were asked for."""
        return Phase(name, rules, lr, self.epochs, self.batch_norm)

    def opened_stages(self, *, default: int | None = None) -> tuple[Stage, ...]:
        """Return the stages below the head that train, or have parts that do: all where no number says otherwise.

        Raises:
            PlanError: A number is given, and the stages are not known.
            ConfigError: There are fewer stages.
        """
        if self.num_stages and not self.has_known_stages:
            raise PlanError("the stages of this backbone are not known; leave out --stages")
        count = self.num_stages or default or len(self.body)
        if count > len(self.body):
            raise ConfigError(f"stages={count}: the backbone has {len(self.body)} stages below its head")
        return self.body[len(self.body) - count :]
