"""Where a run's head starts: decided, recorded so that a repeat does the same, and told."""

from collections.abc import Sequence

from headstart.config import Config
from headstart.models.backbones import Backbone
from headstart.models.classifier import ClassifierNetwork
from headstart.models.source_head import SourceHead, describe, read_source_head, run_labels
from headstart.training.plan import Plan
from headstart.training.strategies import default_lr


def with_head_init(config: Config, labels: Sequence[str], *, is_pretrained: bool, rate_is_open: bool) -> Config:
    """Decide what was left open about the head.

    Where all classes of a run that the weights come from are among the data's, its head goes on; a head from elsewhere
    starts anew unless asked for. A head that knows its classes gets the rates of what is pretrained, not those of what
    is new: measured in docs/decisions/0007-source-rows.md.

    Args:
        config: Settings, the rate filled in.
        labels: Classes of the data.
        is_pretrained: Whether the weights are used at all.
        rate_is_open: Whether `lr` was left to Headstart.
    """
    init = config.head_init
    if "head_init" not in config.model_fields_set:
        known = run_labels(config.weights) if is_pretrained and config.head_hidden is None else ()
        init = "source" if known and set(known) <= set(labels) else "random"
    config = config.model_copy(update={"head_init": init})
    if init == "random":
        return config
    if rate_is_open:
        lr = default_lr(config.strategy, config.optimizer, has_source_head=True)
        config = config.model_copy(update={"lr": lr})
    has_two_rates = config.strategy != "head" and config.table is None
    if has_two_rates and config.head_lr is None and "head_lr_mult" not in config.model_fields_set:
        config = config.model_copy(update={"head_lr_mult": 1.0})
    return config


def source_head_of(config: Config, backbone: Backbone, labels: Sequence[str]) -> SourceHead | None:
    """Return the source's head with its rows matched as before or, the first time, by name; None for a random head.

    Raises:
        ModelError: The weights brought no head.
        ConfigError: The classes cannot be matched.
    """
    if config.head_init == "random":
        return None
    recorded = config.choices.get("match", {})
    given = recorded if set(recorded) == set(labels) else config.match
    return read_source_head(backbone, config.weights, labels, given)


def head_notes(config: Config, model: ClassifierNetwork, plan: Plan) -> list[str]:
    """Say what the head starts from, and what of that will come to nothing."""
    source, known = model.source_head, set(run_labels(config.weights)).intersection(model.labels)
    is_solved = plan.phases[0].solver == "lbfgs"
    if source is None:
        lines = []
        if known and plan.is_pretrained:
            lines.append(
                f"{config.weights} knows {len(known)} of these {len(model.labels)} classes, and the head starts anew; "
                "--head-init source would start from its rows"
            )
        if not is_solved and not any(phase.epochs_to_run for phase in plan.phases):
            lines.append("no epochs and a random head: it can only guess; --head-init source starts from what is known")
        return lines
    lines = describe(source.matching, source.classes)
    if known:
        lines.append(f"the rows are those of {config.weights}; --head-init random would start anew")
    if is_solved:
        lines.append("head_init=source changes nothing here: the first phase solves for the head, wherever it starts")
    return lines
