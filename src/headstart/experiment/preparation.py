"""What is decided before training: settings with nothing left open, checked data, the network and the plan."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import nn

from headstart.config import Config, ineffective_settings, read_yaml
from headstart.data.loading import ImageBatches
from headstart.data.manifest import ImageRecord, Manifest
from headstart.data.pictures import Pictures
from headstart.data.sources import Source
from headstart.data.splits import inner_split
from headstart.errors import ConfigError, PlanError, unknown
from headstart.experiment.heads import head_notes, source_head_of, with_head_init
from headstart.experiment.reading import DataProgress, Reading, num_threads
from headstart.features.cache import FeatureCache
from headstart.features.engines import choices, pick_device
from headstart.features.supply import FeatureSupply
from headstart.models.adapters import adapter_layout, insert_adapters, insert_lora, norm_and_bias_names
from headstart.models.backbones import Backbone, create_backbone
from headstart.models.classifier import ClassifierNetwork, build_classifier
from headstart.models.heads import head_of
from headstart.models.stages import has_known_stages
from headstart.training.engine import FitSettings
from headstart.training.penalties import L2SP
from headstart.training.plan import Plan, apply_modes, parse_table, resolve
from headstart.training.strategies import STRATEGIES, StrategyOptions, default_lr, make_plan
from headstart.training.tuning import StepChoice, candidates, find_batch_size, training_speed
from headstart.types import InputSpec, Stage


@dataclass(frozen=True)
class Prepared:
    """Everything that is decided before training.

    Attributes:
        config: Settings with nothing left open.
        manifest: Images, labels and splits.
        model: The network with its new head, untrained.
        plan: What trains when.
        pictures: The images decoded so far.
        warnings: Settings that change nothing, and the like.
    """

    config: Config
    manifest: Manifest
    model: ClassifierNetwork
    plan: Plan
    pictures: Pictures
    warnings: tuple[str, ...]


def prepare(config: Config, reading: Reading | None = None, *, progress: DataProgress | None = None) -> Prepared:
    """Check the data, build the network and lay the plan; nothing is written.

    Args:
        config: Settings.
        reading: The data, if it is being read already.
        progress: Told how far the checks of the data are, if not.

    Raises:
        HeadstartError: Any input or setting is not usable.
    """
    resolve_strategy(config)  # before anything is read
    reading = reading or Reading(config, progress)
    manifest = reading.result()[0]
    config = decide(config, manifest.labels)
    model = build_model(config, manifest.labels)
    if model.source_head is not None:
        config = config.model_copy(
            update={"choices": {**config.choices, "match": model.source_head.matching.to_dict()}}
        )
    plan = build_plan(config, model)
    if not config.batch_size:
        found = _batch_size(config, model, plan, num_images=len(manifest.of_split("train")))
        config = config.model_copy(update={"batch_size": found})
    _check_plan(plan, model, config, num_images=len(manifest.of_split("train")))
    choices(pick_device(config.device), engine=config.engine, precision=config.precision)
    if config.cache:
        FeatureCache()  # refuses a limit that is no size
    if manifest.selection is None and (config.selection_score or (selects(config) and config.select_on == "auto")):
        inner_split(manifest.of_split("train"), config.validation_fraction, config.split_seed, manifest.labels)
    return Prepared(config, manifest, model, plan, reading.pictures, tuple(_warnings(config, model, plan)))


def decide(config: Config, labels: Sequence[str]) -> Config:
    """Fill in what follows from the strategy, the machine and the classes.

    Raises:
        ConfigError: The strategy is not known.
    """
    rate_is_open, config = config.lr is None, resolve_strategy(config)
    return with_head_init(config, labels, is_pretrained=_is_pretrained(config), rate_is_open=rate_is_open)


def _batch_size(config: Config, model: ClassifierNetwork, plan: Plan, *, num_images: int) -> int:
    """Find the batch size that trains the plan's last phase fastest on a GPU; 32 on a CPU, where it hardly matters."""
    device = make_fabric(config).device
    if device.type != "cuda":
        return 32
    network = model.network.to(device)
    apply_modes(network, resolve(plan.phases[-1], network, model.stages))

    def speed(size: int) -> float:
        images = torch.zeros(size, 3, *model.spec.size, device=device)
        return training_speed(network, images, step_options(config)[0], torch.cuda.synchronize)

    return find_batch_size(speed, start=32, most=max(32, num_images // 8))


def _check_plan(plan: Plan, model: ClassifierNetwork, config: Config, *, num_images: int) -> None:
    """Refuse, before anything is written, a table that does not fit the network, and batches of one image."""
    for phase in plan.phases:
        resolved = resolve(phase, model.network, model.stages)
        if resolved.trains_batch_statistics and min(config.batch_size, num_images) == 1:
            raise PlanError(
                f"phase {phase.name!r} normalises by the statistics of a batch, and a batch of one image has none; "
                "use a larger --batch-size, or --batch-norm fixed"
            )


def resolve_strategy(config: Config) -> Config:
    """Fill in what follows from the strategy and the machine: the table of a YAML file and the rate.

    Raises:
        ConfigError: The strategy is not known.
    """
    changes: dict[str, Any] = {}
    if config.strategy.endswith((".yaml", ".yml")):
        changes["table"] = read_yaml(Path(config.strategy))
        name = changes["strategy"] = str(changes["table"].get("name", Path(config.strategy).stem))
        if name in STRATEGIES:
            raise ConfigError(f"the table in {config.strategy} is called {name!r}, as a strategy is; name it otherwise")
    elif config.table is None and config.strategy not in STRATEGIES:
        raise ConfigError(f"{unknown('strategy', config.strategy, STRATEGIES)}, or a YAML file with your own table")
    strategy = changes.get("strategy", config.strategy)
    lr = config.lr or default_lr(strategy, config.optimizer)
    changes["lr"] = lr
    pick_device(config.device)
    return config.model_copy(update=changes)


def build_model(config: Config, labels: Sequence[str]) -> ClassifierNetwork:
    """Build the network with a new head; equal settings give equal bits.

    Raises:
        ModelError: The backbone or its weights are not usable.
    """
    torch.manual_seed(config.seed)
    backbone = build_backbone(config)
    backbone = replace(backbone, spec=_spec(backbone.spec, config))
    source = source_head_of(config, backbone, labels)
    model = build_classifier(
        backbone, tuple(labels), hidden=config.head_hidden, dropout=config.dropout, source_head=source
    )
    insert_parts(config, model)
    return model


def build_backbone(config: Config) -> Backbone:
    """Build what a run starts from, its source head still on.

    Raises:
        ModelError: The backbone or its weights are not usable.
    """
    weights = config.weights if _is_pretrained(config) else "none"
    return create_backbone(config.backbone, weights=weights, image_size=config.image_size)


def insert_parts(config: Config, model: ClassifierNetwork) -> None:
    """Put the parts that the strategy trains into a network, in place.

    Raises:
        PlanError: Adapters have no place, since the blocks of the network are not known.
    """
    parts = _parts(config)
    stages = model.stages[:-1][-(config.stages or 0) :]
    if parts == "lora":
        insert_lora(model.network, stages, rank=config.lora_rank, alpha=config.lora_alpha)
    elif parts == "adapter" and not has_known_stages(model.network):
        raise PlanError(f"the blocks of {config.backbone} are not known, so adapters have no place; use strategy lora")
    elif parts == "adapter":
        insert_adapters(model.network, stages, width=config.adapter_width, size=model.spec.size)


def _parts(config: Config) -> str | None:
    return STRATEGIES[config.strategy].parts if config.table is None else config.table.get("parts")


def _is_pretrained(config: Config) -> bool:
    return config.strategy != "scratch" if config.table is None else bool(config.table.get("pretrained", True))


def _spec(spec: InputSpec, config: Config) -> InputSpec:
    if config.resize is not None:
        size = config.resize
        spec = replace(spec, resize=size[0] if len(size) == 1 else (size[0], size[1]))
        if min(size) < min(spec.size):
            raise ConfigError(f"resize={size} is smaller than the input of {spec.size} that is cut from it")
    spec = replace(spec, decoder=config.decoder)
    return replace(spec, interpolation=config.interpolation) if config.interpolation else spec


def build_plan(config: Config, model: ClassifierNetwork) -> Plan:
    """Lay the plan for a network, with the lengths that timing or selection chose before.

    Raises:
        PlanError: The strategy does not fit the network.
        ConfigError: A setting does not fit the strategy.
    """
    lr = config.lr or default_lr(config.strategy, config.optimizer)
    batch_norm = config.batch_norm
    if batch_norm == "auto":
        batch_norm = "batch" if model.weights == "none" else "fixed"
    if config.table is not None:
        plan = parse_table(
            config.table,
            name=config.strategy,
            default_lr=lr,
            default_epochs=config.epochs,
            default_batch_norm=batch_norm,
        )
    else:
        options = StrategyOptions(
            stages=_with_parameters(model),
            has_known_stages=has_known_stages(model.network),
            epochs=config.epochs,
            lr=lr,
            head_lr=config.head_lr or lr * config.head_lr_mult,
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
        plan = make_plan(config.strategy, options, backbone=config.backbone)
    if not isinstance(
        head_of(model.network, model.stages), nn.Linear
    ):  # only a linear head has an optimum to solve for
        plan = replace(plan, phases=tuple(replace(phase, solver="loop") for phase in plan.phases))
    return _with_lengths(plan, config.choices.get("epochs"), config.choices.get("stop_after"))


def _with_parameters(model: ClassifierNetwork) -> tuple[Stage, ...]:
    """Leave out of each stage what has no parameter (pooling, dropout): a table's patterns are about parameters."""
    names = [name for name, _ in model.network.named_parameters()]
    owning = (
        replace(stage, prefixes=tuple(p for p in stage.prefixes if any(Stage(p, (p,)).owns(name) for name in names)))
        for stage in model.stages
    )
    return tuple(stage for stage in owning if stage.prefixes)


def _with_lengths(plan: Plan, epochs: Sequence[int] | None, stop_after: Sequence[int] | None) -> Plan:
    phases = plan.phases
    if any(choice is not None and len(choice) != len(phases) for choice in (epochs, stop_after)):
        raise ConfigError(
            f"choices do not fit the {len(phases)} phases of {plan.strategy}; leave choices out of the file"
        )
    if epochs is not None:
        phases = tuple(replace(phase, epochs=n) for phase, n in zip(phases, epochs, strict=True))
    if stop_after is not None:
        phases = tuple(replace(phase, stop_after=n) for phase, n in zip(phases, stop_after, strict=True))
    return replace(plan, phases=phases)


def _warnings(config: Config, model: ClassifierNetwork, plan: Plan) -> list[str]:
    lines = ineffective_settings(config)
    first = resolve(plan.phases[0], model.network, model.stages)
    if model.weights == "none" and first.boundary:
        lines.append(
            f"{config.backbone} has random weights here, and {config.strategy} freezes {first.boundary} of its stages: "
            "nothing useful can be learnt on top of them; try --strategy scratch, or another --backbone"
        )
    if model.weights == "none" and any(phase.penalty for phase in plan.phases):
        lines.append(f"{config.backbone} has random weights here, and {config.strategy} pulls towards them")
    lines += head_notes(config, model, plan)
    kept = {width for _, width in (adapter_layout(model.network) or {}).values()} - {config.adapter_width}
    if kept and _parts(config) == "adapter":
        lines.append(
            f"the adapters that {config.weights} brings keep their width, {', '.join(map(str, sorted(kept)))}; "
            f"adapter_width={config.adapter_width} is for new ones"
        )
    is_said = any(line.startswith("solver ") for line in lines)
    if config.solver == "lbfgs" and not is_said and not any(phase.solver == "lbfgs" for phase in plan.phases):
        lines.append("solver=lbfgs has no effect: it solves a linear head in a phase of its own; the head is trained")
    if config.select_on == "reported" and selects(config):
        lines.append("select_on=reported: the reported images also select, so the figure is too good; it is marked")
    return lines


def make_fabric(config: Config) -> Fabric:
    """Make the Fabric of a config: the device. How steps run is chosen per phase; see `training.tuning`."""
    device = pick_device(config.device)
    # Fabric announces its precision in a line of its own.
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    fabric = Fabric(accelerator=device.type, devices=1 if device.index is None else [device.index])
    if fabric.device.type == "cuda":  # Fabric itself does so only when it launches processes
        torch.cuda.set_device(fabric.device)
    return fabric


def fit_settings(config: Config) -> FitSettings:
    """Take from a config what the engine wants."""
    shared = {name: getattr(config, name) for name in FitSettings.__dataclass_fields__ if name in Config.model_fields}
    return FitSettings(**shared, step=step_options(config)[0], selects=selects(config))


def step_options(config: Config) -> tuple[StepChoice, ...]:
    """Return how steps may run; the first is what is used where nothing is timed."""
    return candidates(pick_device(config.device), config.precision, channels_last=config.channels_last)


def make_supply(
    config: Config,
    model: ClassifierNetwork,
    train: Sequence[ImageRecord],
    held_out: Sequence[ImageRecord] | None,
    *,
    source: Source,
    device: torch.device,
    pictures: Pictures,
    say: Callable[[str], None] = lambda line: None,
    progress: DataProgress = lambda title, done, total: None,
) -> FeatureSupply:
    """Make what feeds training: augmented, shuffled batches and ordered held-out ones, or features of them."""
    sources = [
        ImageBatches(
            records,
            model.spec,
            source=source,
            batch_size=config.batch_size if is_train else max(config.batch_size, 32),
            augment=config.augment if is_train else None,
            shuffle=is_train,
            seed=config.seed,
            threads=num_threads(config),
            pictures=pictures,
        )
        for is_train, records in ((True, train), (False, held_out))
        if records is not None
    ]
    return FeatureSupply(
        model,
        sources[0],
        sources[1] if held_out is not None else None,
        device=device,
        views=config.views,
        cache=FeatureCache() if config.cache else None,
        engine=config.engine,
        precision=config.precision,
        say=say,
        progress=progress,
    )


def selects(config: Config) -> bool:
    """Tell whether held-out images choose the epoch."""
    return config.best_epoch or config.patience is not None
