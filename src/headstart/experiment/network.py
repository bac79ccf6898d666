"""The network and the plan of an experiment, from settings and decisions; equal ones give equal bits."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from headstart.config import Config
from headstart.errors import ConfigError, PlanError
from headstart.models.adapters import insert_adapters, insert_lora, is_part, norm_and_bias_names
from headstart.models.backbones import Backbone, create_backbone
from headstart.models.classifier import ClassifierNetwork, build_classifier
from headstart.models.heads import head_of
from headstart.models.source_head import read_source_head
from headstart.models.stages import has_known_stages
from headstart.resolved import Resolved
from headstart.training.penalties import L2SP
from headstart.training.plan import Phase, Plan
from headstart.training.strategies import find_strategy, make_plan
from headstart.training.strategy_options import StrategyOptions
from headstart.types import InputSpec, Parts, Stage


def build_model(config: Config, resolved: Resolved, labels: Sequence[str]) -> ClassifierNetwork:
    """Build the network with a new head.

    Raises:
        ModelError: The backbone or its weights are not usable.
        ConfigError: The classes cannot be matched with those of the source's head.
        PlanError: Adapters have no place.
    """
    torch.manual_seed(config.seed)
    backbone = build_backbone(config, resolved)
    spec = replace(
        backbone.spec,
        decoder=config.decoder,
        interpolation=config.interpolation or backbone.spec.interpolation,
        grey_range=resolved.grey_range,
    )
    if config.resize is not None:
        spec = _resized(spec, config.resize)
    backbone = replace(backbone, spec=spec)

    source = None
    if resolved.head_init == "source":
        # The rows are matched as before or, the first time, as asked for and by name.
        source = read_source_head(backbone, config.weights, labels, resolved.match or config.match)
    model = build_classifier(
        backbone, tuple(labels), hidden=config.head_hidden, dropout=config.dropout, source_head=source
    )

    # What came with the weights is told from what is inserted now.
    brought = frozenset(name for name, _ in model.network.named_parameters() if is_part(name))
    insert_parts(
        model,
        find_strategy(resolved.strategy, resolved.table).parts,
        num_stages=config.stages,
        rank=config.lora_rank,
        alpha=config.lora_alpha,
        width=config.adapter_width,
    )
    return replace(model, parts_brought=brought)


def build_backbone(config: Config, resolved: Resolved) -> Backbone:
    """Build what a run starts from, its source head still on.

    Raises:
        ModelError: The backbone or its weights are not usable.
    """
    strategy = find_strategy(resolved.strategy, resolved.table)
    weights = config.weights if strategy.is_pretrained else "none"
    return create_backbone(config.backbone, weights=weights, image_size=config.image_size)


def _resized(spec: InputSpec, resize: Sequence[int]) -> InputSpec:
    """Return a spec with another resize: of the shorter side, or to (height, width)."""
    if min(resize) < min(spec.size):
        raise ConfigError(f"resize={resize} is smaller than the input of {spec.size} that is cut from it")
    if len(resize) == 1:
        return replace(spec, resize=resize[0])
    return replace(spec, resize=(resize[0], resize[1]))


def insert_parts(
    model: ClassifierNetwork, parts: Parts | None, *, num_stages: int | None, rank: int, alpha: float, width: int
) -> None:
    """Put the parts that a strategy trains into a network, in place.

    Args:
        model: The network with its new head, which gets no parts.
        parts: `lora`, `adapter`, or None for none.
        num_stages: How many of the last stages have them; None: all.
        rank: The rank of `lora`.
        alpha: The alpha of `lora`.
        width: The width of `adapter`.

    Raises:
        PlanError: Adapters have no place, since the blocks of the network are not known.
    """
    stages = model.stages[:-1]
    if num_stages is not None:
        stages = stages[-num_stages:]
    if parts == "lora":
        insert_lora(model.network, stages, rank=rank, alpha=alpha)
    elif parts == "adapter" and not has_known_stages(model.network):
        raise PlanError(f"the blocks of {model.backbone} are not known, so adapters have no place; use strategy lora")
    elif parts == "adapter":
        insert_adapters(model.network, stages, width=width, size=model.spec.size)


def build_plan(config: Config, resolved: Resolved, model: ClassifierNetwork) -> Plan:
    """Lay the plan of a network, with the lengths that were decided.

    Raises:
        PlanError: The strategy does not fit the network.
        ConfigError: An option does not fit it, or lengths are of another number of phases.
    """
    batch_norm = config.batch_norm
    if batch_norm == "auto":
        batch_norm = "batch" if model.weights == "none" else "fixed"

    options = StrategyOptions(
        stages=_stages_with_parameters(model),
        has_known_stages=has_known_stages(model.network),
        epochs=config.epochs,
        lr=resolved.lr,
        head_lr=resolved.head_lr,
        num_stages=config.stages,
        num_phases=config.phases,
        layer_decay=config.layer_decay,
        batch_norm=batch_norm,
        solver=None if config.solver == "auto" else config.solver,
        phase_epochs=tuple(config.phase_epochs) if config.phase_epochs else None,
        phase_lrs=tuple(config.phase_lrs) if config.phase_lrs else None,
        small=norm_and_bias_names(model.network),
        l2sp=L2SP(config.l2sp_alpha, config.l2sp_beta),
    )
    strategy = find_strategy(resolved.strategy, resolved.table)
    plan = make_plan(resolved.strategy, strategy, options, backbone=config.backbone)

    phases = _phases_with_lengths(plan, resolved)
    if not isinstance(head_of(model.network, model.stages), nn.Linear):
        # Only a linear head has an optimum to solve for.
        phases = tuple(replace(phase, solver="loop") for phase in phases)
    return replace(plan, phases=phases)


def _stages_with_parameters(model: ClassifierNetwork) -> tuple[Stage, ...]:
    """Leave out of each stage what has no parameter (pooling, dropout): a table's patterns are about parameters."""
    names = [name for name, _ in model.network.named_parameters()]
    stages = []
    for stage in model.stages:
        prefixes = []
        for prefix in stage.prefixes:
            alone = Stage(prefix, (prefix,))
            if any(alone.owns(name) for name in names):
                prefixes.append(prefix)
        if prefixes:
            stages.append(replace(stage, prefixes=tuple(prefixes)))
    return tuple(stages)


def _phases_with_lengths(plan: Plan, resolved: Resolved) -> tuple[Phase, ...]:
    """Return the phases with the lengths that were decided, where they were.

    Raises:
        ConfigError: Another number of lengths was decided.
    """
    phases = list(plan.phases)
    for lengths in (resolved.epochs, resolved.stop_after):
        if lengths and len(lengths) != len(phases):
            raise ConfigError(
                f"the lengths that were decided are not those of the {len(phases)} phases of {plan.strategy}; leave "
                "out --repeat"
            )
    for number, epochs in enumerate(resolved.epochs or ()):
        phases[number] = replace(phases[number], epochs=epochs)
    for number, stop_after in enumerate(resolved.stop_after or ()):
        phases[number] = replace(phases[number], stop_after=stop_after)
    return tuple(phases)
