"""An experiment: settings resolved, images read, network built, plan laid. All that trains starts from here."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Self

import torch
from lightning_fabric import Fabric
from torch import nn

from headstart.config import Config
from headstart.data.checks import DataReport
from headstart.data.loading import Batch, ImageBatches
from headstart.data.manifest import ImageRecord, Manifest
from headstart.data.pictures import Pictures
from headstart.data.splits import inner_split
from headstart.devices import pick_device
from headstart.display import Display
from headstart.engines.choose import choices
from headstart.errors import PlanError
from headstart.experiment.fits import INNER_TRAIN, INNER_VALIDATION, PlannedFit, planned_fits
from headstart.experiment.memory import PhaseMemory, estimate_memory
from headstart.experiment.network import build_model, build_plan
from headstart.experiment.notes import plan_notes
from headstart.experiment.reading import Reading
from headstart.experiment.resolve import decide, repeated, timed_as
from headstart.experiment.settings import strategy_of
from headstart.features.cache import FeatureCache
from headstart.features.supply import FeatureSupply
from headstart.models.classifier import ClassifierNetwork
from headstart.resolved import Resolved
from headstart.training.phase_fit import PhaseFit
from headstart.training.plan import Plan, apply_modes, resolve
from headstart.training.settings import FitSettings
from headstart.training.tuning import StepTrial, candidates, choose_step, find_batch_size
from headstart.types import StepChoice

_USUAL_BATCH = 32  # where it hardly matters: on a CPU


@dataclass(frozen=True, eq=False)
class Experiment:
    """Everything that is decided before training; nothing is written.

    Attributes:
        config: What was asked for.
        resolved: What was decided.
        manifest: Images, labels and splits.
        report: What the checks of the data found; None for a run that goes on.
        pictures: The images decoded so far.
        model: The network with its new head, untrained; a fit changes it in place.
        plan: What trains when.
        display: Told what goes on.
        notes: Settings that change nothing, and the like.
    """

    config: Config
    resolved: Resolved
    manifest: Manifest
    report: DataReport | None
    pictures: Pictures
    model: ClassifierNetwork
    plan: Plan
    display: Display
    notes: tuple[str, ...] = ()

    @classmethod
    def prepare(
        cls,
        config: Config,
        *,
        display: Display | None = None,
        reading: Reading | None = None,
        timed: Resolved | None = None,
    ) -> Self:
        """Check the data, decide what is open, build the network and lay the plan.

        Args:
            config: Settings.
            display: Told what goes on; default: nothing is shown.
            reading: The data, if it is being read already.
            timed: What was decided for another seed, whose timing is taken over.

        Raises:
            HeadstartError: Any input or setting is not usable.
        """
        display = display or Display()
        strategy_of(config)  # refuses what needs no data to be refused
        pick_device(config.device)
        reading = reading or Reading(config, display)
        manifest, report = reading.result()
        labels = manifest.labels

        before, why_not = repeated(config, labels)
        resolved = before or decide(config, labels).replace(grey_range=report.grey_range)
        if timed is not None:
            resolved = timed_as(resolved, timed)

        model = build_model(config, resolved, labels)
        if model.source_head is not None:
            resolved = resolved.replace(match=model.source_head.matching.to_dict())
        plan = build_plan(config, resolved, model)
        resolved = resolved.replace(epochs=tuple(phase.epochs for phase in plan.phases))

        experiment = cls(config, resolved, manifest, report, reading.pictures, model, plan, display)
        if not resolved.batch_size:
            batch_size = experiment._fastest_batch_size()
            experiment = experiment.with_resolved(resolved.replace(batch_size=batch_size))
        experiment._refuse_untrainable()
        notes = plan_notes(config, experiment.resolved, model, plan)
        if why_not:
            notes.insert(0, why_not)
        return replace(experiment, notes=tuple(notes))

    @classmethod
    def of_run(cls, config: Config, resolved: Resolved, manifest: Manifest, *, display: Display | None = None) -> Self:
        """Build again what a run began with.

        Raises:
            HeadstartError: Its backbone or its weights are not usable any more.
        """
        model = build_model(config, resolved, manifest.labels)
        plan = build_plan(config, resolved, model)
        return cls(config, resolved, manifest, None, Pictures(), model, plan, display or Display())

    def with_resolved(self, resolved: Resolved) -> Self:
        """Return the experiment with other decisions, and the plan that follows."""
        return replace(self, resolved=resolved, plan=build_plan(self.config, resolved, self.model))

    def with_new_model(self) -> Self:
        """Return the experiment with the network as it was built, bit for bit, in the place of a trained one."""
        model = build_model(self.config, self.resolved, self.manifest.labels)
        return replace(self, model=model, plan=build_plan(self.config, self.resolved, model))

    @property
    def fabric(self) -> Fabric:
        """Where training runs. How steps run is chosen per phase; see `training.tuning`."""
        return make_fabric(self.config.device)

    @property
    def fit_settings(self) -> FitSettings:
        """How to train."""
        return fit_settings(self.config)

    @property
    def train(self) -> tuple[ImageRecord, ...]:
        """The images that train."""
        return self.manifest.of_split("train")

    def fits(self) -> tuple[PlannedFit, ...]:
        """Return the fits that a run of this needs."""
        return planned_fits(
            self.config,
            selection=self.manifest.selection,
            reported=self.manifest.reported,
            has_length=self.resolved.stop_after is not None,
        )

    def images(self, split: str) -> tuple[ImageRecord, ...]:
        """Return the images of a split of the data, or of train parted again for selection."""
        if split not in (INNER_TRAIN, INNER_VALIDATION):
            return self.manifest.of_split(split)
        inner, held_out = inner_split(self.train, self.config.validation_fraction, self.config.split_seed)
        return inner if split == INNER_TRAIN else held_out

    def supply(
        self,
        train: Sequence[ImageRecord],
        held_out: Sequence[ImageRecord] | None = None,
        *,
        model: ClassifierNetwork | None = None,
    ) -> FeatureSupply:
        """Make what feeds training: augmented, shuffled batches and ordered held-out ones, or features of them.

        Args:
            train: Images that train.
            held_out: Images to evaluate, or None.
            model: A copy of the network; default: the experiment's.
        """
        config = self.config
        model = model or self.model
        batches = partial(
            ImageBatches,
            spec=model.spec,
            source=self.manifest.source,
            seed=config.seed,
            threads=config.threads,
            pictures=self.pictures,
        )
        batch_size = self.resolved.batch_size
        train_batches = batches(train, batch_size=batch_size, augment=config.augment, shuffle=True)
        held_out_batches = None
        if held_out is not None:
            held_out_batches = batches(held_out, batch_size=max(batch_size, 32), augment=None, shuffle=False)
        return FeatureSupply(
            model,
            train_batches,
            held_out_batches,
            device=self.fabric.device,
            views=config.views,
            cache=FeatureCache() if config.cache else None,
            engine=config.engine,
            precision=config.precision,
            pinned=self.resolved.engines,
            display=self.display,
        )

    def memory(self) -> PhaseMemory:
        """Estimate what training takes, and how its batches run so that they fit."""
        return estimate_memory(
            self.model, self.plan, self.fit_settings, self.resolved.batch_size, pick_device(self.config.device)
        )

    def choose_step(self, phase: PhaseFit, number: int | None = None) -> StepChoice:
        """Say how the steps of a phase run: as was decided before, or the fastest way.

        Args:
            phase: It is about to begin.
            number: The phase's number in the plan, from 0; default: its own.
        """
        if number is None:
            number = phase.number
        decided = self.resolved.step_of(number)
        if decided is not None:
            return decided

        device = pick_device(self.config.device)
        options = []
        for option in candidates(device, self.config.precision, channels_last=self.config.channels_last):
            # How a batch fits into memory does not depend on what is timed.
            fitting = replace(option, piece_size=phase.choice.piece_size, recomputes=phase.choice.recomputes)
            options.append(fitting)
        if self.config.tune == "off" or len(options) == 1 or not phase.num_images:
            return options[0]

        trial = self._trial(phase.inputs.module, phase.first_batch())
        choice = choose_step(
            trial.step,
            options,
            images_per_step=len(trial.batch.targets),
            num_images=phase.num_images,
            device_type=self.fabric.device.type,
        )
        if choice != options[0]:
            self.display.say(f"steps of phase {number + 1} run fastest as: {choice}")
        return choice

    def _trial(self, module: nn.Module, batch: Batch) -> StepTrial:
        """Make steps of copies of a module, to be timed with a batch."""
        return StepTrial(self.model, module, batch, self.fit_settings, self.fabric)

    def _fastest_batch_size(self) -> int:
        """Find the batch size that trains the plan's last phase fastest on a GPU."""
        device = self.fabric.device
        if device.type != "cuda":
            return _USUAL_BATCH
        network = self.model.network.to(device)
        apply_modes(network, resolve(self.plan.phases[-1], network, self.model.stages))

        def images_per_s(size: int) -> float:
            """Return the speed of steps with so many black images."""
            pixels = torch.zeros(size, 3, *self.model.spec.size, dtype=torch.uint8)
            labels = torch.zeros(size, dtype=torch.long)
            trial = self._trial(network, Batch(pixels, labels, labels))
            return trial.images_per_s(self.fit_settings.step)

        most = max(_USUAL_BATCH, len(self.train) // 8)
        return find_batch_size(images_per_s, start=_USUAL_BATCH, most=most)

    def _refuse_untrainable(self) -> None:
        """Refuse, before anything is written, what training would refuse."""
        config = self.config
        least_in_batch = min(self.resolved.batch_size, len(self.train))
        for phase in self.plan.phases:
            resolved = resolve(phase, self.model.network, self.model.stages)
            if resolved.trains_batch_statistics and least_in_batch == 1:
                raise PlanError(
                    f"phase {phase.name!r} normalises by the statistics of a batch, and a batch of one image has none; "
                    "use a larger --batch-size, or --batch-norm fixed"
                )
        choices(pick_device(config.device), engine=config.engine, precision=config.precision)
        if config.cache:
            FeatureCache()  # refuses a limit that is no size
        parts_train = config.selection_score or (config.selects and config.select_on == "auto")
        if parts_train and self.manifest.selection is None:
            inner_split(self.train, config.validation_fraction, config.split_seed, self.manifest.labels)


def fit_settings(config: Config) -> FitSettings:
    """Return the settings that the training loop knows; they have the same names in both."""
    shared = FitSettings.__dataclass_fields__.keys() & Config.model_fields.keys()
    values = {name: getattr(config, name) for name in shared}
    options = candidates(pick_device(config.device), config.precision, channels_last=config.channels_last)
    return FitSettings(**values, step=options[0], selects=config.selects)


def make_fabric(device_name: str) -> Fabric:
    """Make the Fabric of a device.

    Raises:
        ConfigError: There is no such device.
    """
    device = pick_device(device_name)
    devices = 1 if device.index is None else [device.index]
    with _without_announcements("lightning_fabric", "lightning.fabric"):
        fabric = Fabric(accelerator=device.type, devices=devices)
    if fabric.device.type == "cuda":  # Fabric itself does so only when it launches processes
        torch.cuda.set_device(fabric.device)
    return fabric


@contextmanager
def _without_announcements(*names: str) -> Iterator[None]:
    """Within the block, these loggers pass on warnings only: Fabric announces its precision in a line of its own."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
