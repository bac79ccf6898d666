"""From what was asked to what is decided: `Config` and the classes of the data to `Resolved`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from headstart.config import Config
from headstart.experiment.settings import strategy_of
from headstart.models.source_head import run_labels
from headstart.resolved import Resolved
from headstart.runs import open_run
from headstart.training.strategies import default_lr

# Settings that change nothing about what is decided.
_WITHOUT_EFFECT = {"out", "threads", "monitor", "log", "cache", "repeat", "keep_checkpoints"}


def decide(config: Config, labels: Sequence[str]) -> Resolved:
    """Decide what follows from the settings and the classes: the strategy, its rates, and where the head starts.

    Where the weights are those of a run, and the data has all classes of it, training goes on with that run's head; any
    other source's head is used only where it is asked for. A head that knows its classes gets the rates of what is
    pretrained, not those of what is new: measured in docs/decisions/0007-source-rows.md.

    Raises:
        ConfigError: The strategy is not known, or contradicts other settings.
    """
    strategy = strategy_of(config)

    # Where the head starts.
    head_init = config.head_init
    if "head_init" not in config.model_fields_set:
        can_go_on = strategy.row.is_pretrained and config.head_hidden is None
        head_init = "random"
        if can_go_on and _knows_only(config.weights, labels):
            head_init = "source"
    has_source_head = head_init == "source"

    # The rates.
    lr = config.lr or default_lr(strategy.row, config.optimizer, has_source_head=has_source_head)
    multiplier = config.head_lr_mult
    if has_source_head and strategy.row.has_head_rate and "head_lr_mult" not in config.model_fields_set:
        multiplier = 1.0
    head_lr = config.head_lr or lr * multiplier
    return Resolved(
        strategy=strategy.name,
        table=strategy.table,
        lr=lr,
        head_lr=head_lr,
        batch_size=config.batch_size,
        head_init=head_init,
    )


def _knows_only(weights: str | None, labels: Sequence[str]) -> bool:
    """Tell whether the weights are those of a run, all of whose classes are among the data's."""
    known = run_labels(weights)
    return bool(known) and set(known) <= set(labels)


def repeated(config: Config, labels: Sequence[str]) -> tuple[Resolved | None, str]:
    """Return what the run that is to be repeated decided, or None and why it is decided anew.

    Raises:
        RunError: `config.repeat` is no run folder, or a damaged one.
        ConfigError: Its settings are not valid.
    """
    if config.repeat is None:
        return None, ""
    run = open_run(Path(config.repeat))
    before = _comparable_settings(run.config())
    now = _comparable_settings(config)
    changed = [key for key in now if key not in _WITHOUT_EFFECT and now[key] != before[key]]
    if changed:
        verb = "is" if len(changed) == 1 else "are"
        return None, (
            f"{', '.join(changed)} {verb} not as in {config.repeat}, so what follows from settings is decided anew"
        )

    resolved = run.resolved()
    if resolved.match and set(resolved.match) != set(labels):
        return None, f"the classes are not those of {config.repeat}, so what follows from settings is decided anew"
    return resolved, ""


def _comparable_settings(config: Config) -> dict[str, Any]:
    """Return all settings, with the table of the user's file in the place of its name."""
    strategy = strategy_of(config)
    return {**config.model_dump(), "strategy": strategy.name, "table": strategy.table}


def timed_as(resolved: Resolved, other: Resolved) -> Resolved:
    """Take over what timing decided for another seed, so that seeds differ in nothing else."""
    return resolved.replace(
        batch_size=other.batch_size,
        epochs=other.epochs,
        is_timed=other.is_timed,
        steps=other.steps,
        engines=other.engines,
    )
