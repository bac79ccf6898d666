"""What is decided before training: settings with nothing left open, checked data, the network and the plan."""

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric

from headstart.config import Config, ineffective_settings, read_yaml
from headstart.data.checks import DataReport
from headstart.data.dataset import load_dataset
from headstart.data.loading import ImageBatches
from headstart.data.manifest import ImageRecord, Manifest
from headstart.errors import ConfigError, PlanError, did_you_mean
from headstart.models.backbones import create_backbone
from headstart.models.classifier import ClassifierNetwork, build_classifier
from headstart.models.stages import has_known_stages
from headstart.training.engine import FitSettings
from headstart.training.plan import Plan, parse_table, resolve
from headstart.training.strategies import STRATEGIES, StrategyOptions, default_lr, make_plan
from headstart.types import InputSpec, Stage

DataProgress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Prepared:
    """Everything that is decided before training.

    Attributes:
        config: Settings with nothing left open.
        manifest: Images, labels and splits.
        report: What the checks of the data found.
        model: The network with its new head, untrained.
        plan: What trains when.
        warnings: Settings that change nothing, and the like.
    """

    config: Config
    manifest: Manifest
    report: DataReport
    model: ClassifierNetwork
    plan: Plan
    warnings: tuple[str, ...]


def prepare(config: Config, *, progress: DataProgress | None = None) -> Prepared:
    """Check the data, build the network and lay the plan; nothing is written.

    Raises:
        HeadstartError: Any input or setting is not usable.
    """
    config = resolve_strategy(config)
    manifest, report = read_data(config, progress=progress)
    model = build_model(config, manifest.labels)
    plan = build_plan(config, model)
    _check_plan(plan, model, config, num_images=len(manifest.of_split("train")))
    return Prepared(config, manifest, report, model, plan, tuple(_warnings(config, model, plan)))


def _check_plan(plan: Plan, model: ClassifierNetwork, config: Config, *, num_images: int) -> None:
    """Refuse, before anything is written, a table that does not fit the network, and batches of one image."""
    for phase in plan.phases:
        resolved = resolve(phase, model.network, model.stages)
        if resolved.trains_batch_statistics and min(config.batch_size, num_images) == 1:
            raise PlanError(
                f"phase {phase.name!r} normalises by the statistics of a batch, and a batch of one image has none; "
                "use a larger --batch-size, or --batch-norm fixed"
            )


def read_data(config: Config, *, progress: DataProgress | None = None) -> tuple[Manifest, DataReport]:
    """Read and check the data that a config names.

    Raises:
        DataError: The data is not usable.
    """
    if not config.data:
        raise ConfigError(
            "no data given; name a folder of class folders, a manifest or a catalogue name such as snacks"
        )
    return load_dataset(
        config.data,
        label_map=config.map or None,
        max_per_class=config.max_per_class,
        leaks=config.leaks,
        skip_bad=config.skip_bad,
        test_fraction=config.test_fraction,
        split_seed=config.split_seed,
        threads=num_threads(config),
        progress=progress,
    )


def resolve_strategy(config: Config) -> Config:
    """Fill in what follows from the strategy and the machine: the table of a YAML file, rates and precision.

    Raises:
        ConfigError: The strategy is not known.
    """
    changes: dict[str, Any] = {}
    if config.strategy.endswith((".yaml", ".yml")):
        changes["table"] = read_yaml(Path(config.strategy))
        changes["strategy"] = str(changes["table"].get("name", Path(config.strategy).stem))
    elif config.table is None and config.strategy not in STRATEGIES:
        raise ConfigError(
            f"strategy {config.strategy!r} is not known.{did_you_mean(config.strategy, STRATEGIES)} "
            f"There are: {', '.join(STRATEGIES)}, or a YAML file with a table of your own"
        )
    strategy = changes.get("strategy", config.strategy)
    lr = config.lr or default_lr(strategy, config.optimizer)
    changes["lr"] = lr
    accelerator, _ = _accelerator(config)
    if config.precision == "auto":
        changes["precision"] = "bf16" if accelerator == "cuda" else "32"
    return config.model_copy(update=changes)


def build_model(config: Config, labels: Sequence[str]) -> ClassifierNetwork:
    """Build the network with a new head; equal settings give equal bits.

    Raises:
        ModelError: The backbone or its weights are not usable.
    """
    torch.manual_seed(config.seed)
    backbone = create_backbone(
        config.backbone, weights=config.weights if _is_pretrained(config) else "none", image_size=config.image_size
    )
    backbone = replace(backbone, spec=_spec(backbone.spec, config))
    model = build_classifier(backbone, tuple(labels), hidden=config.head_hidden, dropout=config.dropout)
    if config.channels_last:
        model.network.to(memory_format=torch.channels_last)
    return model


def _is_pretrained(config: Config) -> bool:
    return config.strategy != "scratch" if config.table is None else bool(config.table.get("pretrained", True))


def _spec(spec: InputSpec, config: Config) -> InputSpec:
    if config.resize is not None:
        size = config.resize
        spec = replace(spec, resize=size[0] if len(size) == 1 else (size[0], size[1]))
        if min(size) < min(spec.size):
            raise ConfigError(f"resize={size} is smaller than the input of {spec.size} that is cut from it")
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
            phase_epochs=tuple(config.phase_epochs) if config.phase_epochs else None,
            phase_lrs=tuple(config.phase_lrs) if config.phase_lrs else None,
        )
        plan = make_plan(config.strategy, options, backbone=config.backbone)
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
    if config.select_on == "reported" and selects(config):
        lines.append("select_on=reported: the reported images also select, so the figure is too good; it is marked")
    return lines


def num_threads(config: Config) -> int:
    """Return how many threads decode: as set, else one per core and 8 at most."""
    return config.threads or min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 4)


def _accelerator(config: Config) -> tuple[str, list[int] | int]:
    """Return Fabric's accelerator and devices.

    Raises:
        ConfigError: The device is not known or not there.
    """
    kind, _, index = config.device.partition(":")
    if kind == "auto":
        kind = "cuda" if torch.cuda.is_available() else "cpu"
    if kind not in ("cpu", "cuda", "mps") or (index and not index.isdigit()):
        raise ConfigError(f"device={config.device!r} is not one of auto, cpu, cuda, cuda:N, mps")
    if kind == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            f"device={config.device!r}: no CUDA device is visible to PyTorch here; use device=auto or cpu"
        )
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"device={config.device!r}: there are {torch.cuda.device_count()} CUDA devices, from cuda:0")
    return kind, [int(index)] if index else 1


def make_fabric(config: Config) -> Fabric:
    """Make the Fabric of a resolved config: device and precision."""
    accelerator, devices = _accelerator(config)
    # Fabric announces its precision in a line of its own.
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    precision = "bf16-mixed" if config.precision == "bf16" else "32-true"
    return Fabric(accelerator=accelerator, devices=devices, precision=precision)


def fit_settings(config: Config) -> FitSettings:
    """Take from a config what the engine wants."""
    shared = {name: getattr(config, name) for name in FitSettings.__dataclass_fields__ if name in Config.model_fields}
    return FitSettings(**shared, selects=selects(config))


def selects(config: Config) -> bool:
    """Tell whether held-out images choose the epoch."""
    return config.best_epoch or config.patience is not None


def refuse_inside(target: Path, data: str, flag: str) -> None:
    """Refuse to write into the folder of the user's images.

    Raises:
        ConfigError: `target` lies in the folder that `data` names.
    """
    source = Path(data).expanduser()
    if source.is_dir() and target.expanduser().resolve().is_relative_to(source.resolve()):
        raise ConfigError(f"{target} lies among the images of {data}, where nothing is written; name another {flag}")


def train_batches(config: Config, records: Sequence[ImageRecord], spec: InputSpec) -> ImageBatches:
    """Make augmented, shuffled batches."""
    return ImageBatches(
        records,
        spec,
        batch_size=config.batch_size,
        augment=config.augment,
        shuffle=True,
        seed=config.seed,
        threads=num_threads(config),
    )


def eval_batches(config: Config, records: Sequence[ImageRecord], spec: InputSpec) -> ImageBatches:
    """Make batches of the evaluation view, in order."""
    size = max(config.batch_size, 32)
    return ImageBatches(
        records, spec, batch_size=size, augment=None, shuffle=False, seed=config.seed, threads=num_threads(config)
    )
