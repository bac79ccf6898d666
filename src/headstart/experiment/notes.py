"""What people should know of an experiment before it runs: settings that change nothing, and the like."""

from headstart.config import Config
from headstart.experiment.settings import ineffective_settings
from headstart.models.adapters import adapter_layout
from headstart.models.classifier import ClassifierNetwork
from headstart.models.source_head import matching_lines, run_labels
from headstart.resolved import Resolved
from headstart.training.plan import Plan, resolve
from headstart.training.strategies import find_strategy


def plan_notes(config: Config, resolved: Resolved, model: ClassifierNetwork, plan: Plan) -> list[str]:
    """Return sentences about settings, weights, head and parts."""
    ineffective = ineffective_settings(config)
    notes = []
    for key, owner in ineffective.items():
        notes.append(f"{key} has no effect here; it belongs to {owner}")
    notes += _weight_notes(model, plan)
    notes += _head_notes(config.weights, model, plan)
    if find_strategy(resolved.strategy, resolved.table).parts == "adapter":
        notes += _adapter_notes(config.weights, config.adapter_width, model)
    is_solved = any(phase.solver == "lbfgs" for phase in plan.phases)
    if config.solver == "lbfgs" and "solver" not in ineffective and not is_solved:
        notes.append("solver=lbfgs has no effect: it solves a linear head in a phase of its own; the head is trained")
    if config.select_on == "reported" and config.selects:
        notes.append("select_on=reported: the reported images also select, so the figure is optimistic; it is marked")
    return notes


def _weight_notes(model: ClassifierNetwork, plan: Plan) -> list[str]:
    """Say what comes of freezing, or of pulling towards, weights that are random."""
    if model.weights != "none":
        return []
    notes = []
    num_frozen = resolve(plan.phases[0], model.network, model.stages).boundary
    if num_frozen:
        notes.append(
            f"{model.backbone} has random weights here, and {plan.strategy} freezes {num_frozen} of its stages: "
            "nothing useful can be learnt on top of them; try --strategy scratch, or another --backbone"
        )
    if any(phase.penalty for phase in plan.phases):
        notes.append(f"{model.backbone} has random weights here, and {plan.strategy} pulls towards them")
    return notes


def _head_notes(weights: str | None, model: ClassifierNetwork, plan: Plan) -> list[str]:
    """Say what the head starts from, and what of that will come to nothing."""
    known = set(run_labels(weights)).intersection(model.labels)
    is_solved = plan.phases[0].solver == "lbfgs"
    source = model.source_head
    if source is not None:
        notes = matching_lines(source.matching, source.classes)
        if known:
            notes.append(f"the rows are those of {weights}; --head-init random would start anew")
        if is_solved:
            notes.append(
                "head_init=source changes nothing here: the first phase solves for the head, wherever it starts"
            )
        return notes

    notes = []
    if known and plan.is_pretrained:
        notes.append(
            f"{weights} knows {len(known)} of these {len(model.labels)} classes, and the head starts anew; "
            "--head-init source would start from its rows"
        )
    if not is_solved and not any(phase.epochs_to_run for phase in plan.phases):
        notes.append("no epochs and a random head: it can only guess; --head-init source starts from what is known")
    return notes


def _adapter_notes(weights: str | None, width: int, model: ClassifierNetwork) -> list[str]:
    """Say that adapters which came with the weights keep their width, where another one is asked for."""
    layout = adapter_layout(model.network) or {}
    widths = {found for _, found in layout.values()}
    kept = sorted(widths - {width})
    if not kept:
        return []
    return [
        f"the adapters that {weights} brings keep their width, {', '.join(map(str, kept))}; "
        f"adapter_width={width} is for new ones"
    ]
