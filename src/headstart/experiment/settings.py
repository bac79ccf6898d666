"""What the strategy makes of the settings: which have an effect, which contradict it. Loads no torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headstart.config import Config
from headstart.errors import ConfigError, either
from headstart.training.strategies import IGNORED_BY_SOME, STRATEGIES, USED_BY_SOME, Strategy, find_strategy
from headstart.values import read_yaml


@dataclass(frozen=True)
class NamedStrategy:
    """A strategy as the settings name it.

    Attributes:
        name: The name of the strategy, or of the user's table.
        table: The user's table, or None.
        row: Its row in the table of strategies.
    """

    name: str
    table: dict[str, Any] | None
    row: Strategy


def strategy_of(config: Config) -> NamedStrategy:
    """Find the strategy that is asked for, reading the user's table where a file is named.

    Raises:
        ConfigError: It is not known, or contradicts other settings.
    """
    name = config.strategy
    table = config.table
    if _is_file(config.strategy):
        file = Path(config.strategy)
        table = read_yaml(file)
        name = str(table.get("name", file.stem))
        if name in STRATEGIES:
            raise ConfigError(f"the table in {config.strategy} is called {name!r}, as a strategy is; name it otherwise")
    row = find_strategy(name, table)
    if not row.is_pretrained and table is None:
        if config.weights not in (None, "none"):
            raise ConfigError(f"strategy {name!r} starts from random weights; leave out weights, or use 'full'")
        if config.head_init == "source":
            raise ConfigError("head_init=source needs pretrained weights; leave out head_init, or weights=none")
    return NamedStrategy(name, table, row)


def ineffective_settings(config: Config) -> dict[str, str]:
    """Return the settings that were asked for and change nothing, each with what it belongs to.

    Raises:
        ConfigError: The strategy is not known.
    """
    # A file of one's own may not be read yet; what its table uses is the same for all.
    table = {} if _is_file(config.strategy) else config.table
    row = find_strategy(config.strategy, table)

    # Who has a use for each setting that has none here.
    owners = {}
    for key, named_owner in USED_BY_SOME.items():
        if key not in row.uses:
            owners[key] = named_owner or f"strategy {_strategies_that_use(key)}"
    for key, other_owner in IGNORED_BY_SOME.items():
        if key in row.ignores:
            owners[key] = other_owner

    needs: dict[str, tuple[bool, str]] = {
        "momentum": (config.optimizer == "sgd", "optimizer sgd"),
        "warmup": (config.schedule == "cosine", "schedule cosine"),
        "step_epochs": (config.schedule == "step", "schedule step"),
        "refit": (config.selects, "best_epoch or patience"),
        "select_on": (config.selects, "best_epoch or patience"),
        "select_by": (config.selects, "best_epoch or patience"),
        "validation_fraction": (config.selects or config.selection_score, "best_epoch, patience or selection_score"),
        "decay_all": (config.weight_decay > 0, "weight_decay above 0"),
    }
    for key, (is_there, needed) in needs.items():
        if not is_there:
            owners[key] = needed

    found = {}
    for key, field in Config.model_fields.items():
        is_asked = key in config.model_fields_set and getattr(config, key) != field.default
        if is_asked and key in owners:
            found[key] = owners[key]
    return found


def _strategies_that_use(key: str) -> str:
    """Name the strategies in which a setting has an effect: `lora or adapter`."""
    return either(name for name, row in STRATEGIES.items() if key in row.uses)


def _is_file(strategy: str) -> bool:
    """Tell whether a strategy is named by the YAML file of its table."""
    return strategy.endswith((".yaml", ".yml"))
