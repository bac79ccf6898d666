"""One run, from an experiment to a finished run folder."""

import shlex
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from headstart import runs
from headstart.config import Config
from headstart.data.checks import change_of, find_shared_groups
from headstart.data.manifest import ImageRecord, Manifest, read_manifest
from headstart.display import Display
from headstart.errors import RunError
from headstart.experiment import record
from headstart.experiment.experiment import Experiment
from headstart.experiment.fits import INNER_TRAIN, INNER_VALIDATION, PlannedFit
from headstart.experiment.reading import Reading
from headstart.experiment.time_limit import within_time_limit
from headstart.history import MetricsLog
from headstart.inference.evaluate import evaluate
from headstart.inference.predict import Classifier, load
from headstart.machine import PeakMemory
from headstart.models.classifier import ClassifierNetwork
from headstart.models.saved import save_classifier
from headstart.resolved import Resolved
from headstart.runs import Run
from headstart.training.checkpoint import Checkpoints
from headstart.training.consumers import require_tensorboard, run_fit
from headstart.training.events import FitResult
from headstart.training.loop import Fit
from headstart.training.phase_fit import PhaseFit
from headstart.training.plan_table import tabulate_plan
from headstart.training.rest_row import start_rest_row
from headstart.types import StepChoice

if TYPE_CHECKING:
    import pyarrow


@contextmanager
def own_random_numbers() -> Iterator[None]:
    """Within the block, the global generators of torch may be seeded; after it they go on as if it had not been."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        yield


def train_new(
    config: Config,
    reading: Reading,
    display: Display,
    *,
    overwrite: bool = False,
    timed: Resolved | None = None,
) -> Run:
    """Do one run from settings to a finished run folder; see `headstart.experiment.train`."""
    started = time.monotonic()
    if config.log == "tensorboard":
        require_tensorboard()
    if config.out:
        _check_out(Path(config.out), config.data, overwrite)
    experiment = Experiment.prepare(config, display=display, reading=reading, timed=timed)
    strategy = experiment.resolved.strategy
    default = runs.default_run_path(experiment.manifest.name, config.backbone, strategy, config.seed)
    out = Path(config.out) if config.out else default
    _check_out(out, config.data, overwrite)
    for line in experiment.notes:
        display.note(line)
    data_s = time.monotonic() - started
    memory = experiment.memory()
    display.say(memory.line)
    if memory.warning:
        display.note(memory.warning)
    experiment = within_time_limit(experiment, started)
    with runs.sole_writer(out):
        run = record.create(experiment, out, overwrite=overwrite)
        display.begin_run(run.path)
        return _finished(_Session(experiment, run, started, data_s))


def resume(path: Path, display: Display) -> Run:
    """Finish a run that was interrupted; see `headstart.experiment.resume`."""
    run = runs.open_run(path)
    with runs.sole_writer(run.path):
        return _resume(run, display)


def _resume(run: Run, display: Display) -> Run:
    started = time.monotonic()
    if run.is_finished:
        display.say(f"{run.path} is already complete; nothing was done")
        return run
    if run.is_of_version_0_1:
        raise RunError(f"{run.path} was begun by version 0.1, and this one cannot go on with it; train again")
    config, resolved = run.config(), run.resolved()
    manifest = read_manifest(run.path / runs.MANIFEST)
    _check_unchanged(manifest)
    experiment = Experiment.of_run(config, resolved, manifest, display=display)
    display.say(f"resuming {run.path}")
    return _finished(_Session(experiment, run, started, time.monotonic() - started))


def _finished(session: "_Session") -> Run:
    """Finish a run; where somebody interrupts that, the exception says how to go on."""
    try:
        return session.finish()
    except KeyboardInterrupt as interrupt:
        run = session.run
        if not run.is_finished:
            interrupt.add_note(f"go on with: {shlex.join(['headstart', 'train', '--resume', str(run.path)])}")
        raise


def _check_out(out: Path, data: str, overwrite: bool) -> None:
    runs.refuse_inside(out, data, "--out")
    runs.check_out_folder(out, overwrite)


def _check_unchanged(manifest: Manifest) -> None:
    for image in manifest.records:
        if change := change_of(manifest.source, image):
            raise RunError(f"{image.key} {change} since the run began, so it cannot be resumed; start a new run")


@dataclass
class _Session:
    """A run folder being filled.

    Attributes:
        experiment: Settings, data and plan; of the next fit.
        run: The folder.
        started: When the command began.
        data_s: Seconds until the data was checked.
        cache_s: Seconds spent computing features.
        memory: Of this process.
    """

    experiment: Experiment
    run: Run
    started: float
    data_s: float
    cache_s: float = 0.0
    memory: PeakMemory = field(default_factory=PeakMemory)

    def finish(self) -> Run:
        """Train, save, evaluate what was saved, and write the figures."""
        trained_at = time.monotonic()
        device = self.experiment.fabric.device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        fit, model, result = self._train()
        # A resumed run counts what was trained before; the table of epochs knows.
        train_s = time.monotonic() - trained_at
        logged_s = sum(row["time_s"] for row in self.run.history())
        earlier_s = max(0.0, logged_s - (train_s - self.cache_s))
        save_classifier(model, self.run.model_folder)

        # The figures come from the files that will be used, by the path that `predict` takes.
        evaluated_at = time.monotonic()
        manifest, config = self.experiment.manifest, self.experiment.config
        classifier = load(self.run.path, device=config.device, engine=config.engine, precision=config.precision)
        figures, predictions = self._evaluate(classifier, manifest.of_split(manifest.reported))
        classifier.tell_refused(self.experiment.display)
        record.add_refused_engines(self.run, classifier.refused)
        runs.write_parquet(self.run.path / runs.PREDICTIONS, predictions)
        ended = time.monotonic()

        score = self._selection_score(classifier) if config.selection_score else None
        metrics = {
            "split": manifest.reported,
            **figures,
            "selected_on_reported": fit.uses_reported,
            "shared_groups": sum(manifest.reported in group.counts for group in find_shared_groups(manifest.records)),
            **self._facts(model, result, device),
            **({"selection": score} if score else {}),
            **({"head_starts_from": model.source_head.summary()} if model.source_head else {}),
            "time_s": {
                "total": round(ended - self.started + earlier_s, 2),
                "data": round(self.data_s, 2),
                "cache": round(self.cache_s, 2),
                "train": round(train_s - self.cache_s + earlier_s, 2),
                "evaluate": round(ended - evaluated_at, 2),
            },
        }
        record.write_card(self.run, self.experiment, model, metrics)
        record.write_metrics(self.run, metrics)
        if not config.keep_checkpoints:
            record.remove_checkpoints(self.run)
        if result.unchanged:
            self.experiment.display.note(
                f"{len(result.unchanged)} trainable tensors did not change; the learning rate is too small"
            )
        return self.run

    def _facts(self, model: ClassifierNetwork, result: FitResult, device: torch.device) -> dict[str, Any]:
        """Return what metrics.json says of the training."""
        plan = self.experiment.plan
        on_gpu_mb = torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else None
        return {
            "strategy": plan.strategy,
            "backbone": model.backbone,
            "seed": self.experiment.config.seed,
            "trainable_parameters": max(t.trainable for t in tabulate_plan(plan, model.network, model.stages)),
            "epochs_run": list(result.epochs_run),
            "best_epochs": list(result.best_epochs),
            "unchanged_trainable_tensors": list(result.unchanged),
            "peak_memory_mb": self.memory.megabytes() if on_gpu_mb is None else round(on_gpu_mb, 1),
        }

    def _train(self) -> tuple[PlannedFit, ClassifierNetwork, FitResult]:
        """Do the fits that the run needs; return the last, its model and what it did."""
        is_first = True
        for fit in self.experiment.fits():
            if fit.scores and not fit.sets_length and record.read_score(self.run) is not None:
                continue  # done before the run was interrupted
            if not is_first:
                self.experiment = self.experiment.with_new_model()
            is_first = False
            self._announce(fit)
            started, cache_s = time.monotonic(), self.cache_s
            result = self._fit(fit)
            model = self.experiment.model
            if fit.scores:
                # What choosing the epochs takes belongs to the run; what is done for the score alone does not.
                seconds = 0.0 if fit.sets_length else time.monotonic() - started - (self.cache_s - cache_s)
                self._write_score(model, seconds)
            if fit.sets_length:
                epochs = result.best_epochs
                self._decide(self.experiment.resolved.replace(stop_after=epochs))
                num_images = len(self.experiment.train)
                self.experiment.display.say(
                    f"chosen epochs per phase: {list(epochs)}; training again on all {num_images} images"
                )
        return fit, model, result

    def _announce(self, fit: PlannedFit) -> None:
        """Say what a fit on a part of train is for."""
        if fit.train != INNER_TRAIN:
            return
        num_held_out = len(self.experiment.images(INNER_VALIDATION))
        num_train = len(self.experiment.train)
        if fit.scores and not fit.sets_length:
            self.experiment.display.say(
                f"scoring the settings on {num_held_out} of the {num_train} training images; then all of them train"
            )
        else:
            self.experiment.display.say(
                f"selecting on {num_held_out} of the {num_train} training images; the reported ones select nothing"
            )

    def _fit(self, planned: PlannedFit) -> FitResult:
        """Do one fit; what it decides on the way is written down at once."""
        experiment, folder = self.experiment, self.run.path
        config, display = experiment.config, experiment.display
        fabric = experiment.fabric
        fabric.to_device(experiment.model.network)
        held_out = experiment.images(planned.held_out) if planned.held_out is not None else None
        supply = experiment.supply(experiment.images(planned.train), held_out)
        checkpoints = Checkpoints(folder / runs.CHECKPOINTS / planned.name)
        start_rest_row(experiment.model, supply, checkpoints, display.note)
        patience = config.patience if planned.selects else None
        fit = Fit(
            experiment.model,
            experiment.plan,
            supply,
            replace(experiment.fit_settings, selects=planned.selects, patience=patience),
            fabric,
            name=planned.name,
            held_out_name=planned.held_out_name if held_out is not None else None,
        )
        tensorboard = folder / runs.TENSORBOARD / planned.name if config.log == "tensorboard" else None
        result = run_fit(
            fit,
            checkpoints=checkpoints,
            log=MetricsLog(folder / runs.HISTORY, fit=planned.name),
            tensorboard=tensorboard,
            choose_step=partial(self._choose_step, supply.engines),
            display=display,
            title="training" if planned.name == "final" else f"{experiment.plan.strategy} {planned.name}",
        )
        self.cache_s += supply.seconds
        record.add_refused_engines(self.run, supply.refused)
        self._decide(self.experiment.resolved.replace(engines=dict(supply.engines)))
        return result

    def _choose_step(self, engines: dict[int, str], phase: PhaseFit) -> StepChoice:
        """Decide how the steps of a phase run, and write it down before the first of them."""
        choice = self.experiment.choose_step(phase)
        resolved = self.experiment.resolved
        self._decide(resolved.with_step(phase.number, choice).replace(engines=dict(engines)))
        return choice

    def _decide(self, resolved: Resolved) -> None:
        """Write decisions down, where they are new, and go on with them."""
        if resolved != self.experiment.resolved:
            record.write_resolved(self.run, resolved)
            self.experiment = self.experiment.with_resolved(resolved)

    def _selection_score(self, classifier: Classifier) -> dict[str, Any]:
        """Return what an earlier fit scored; without one, the final model has not trained on what selects."""
        score = record.read_score(self.run)
        if score is not None:
            return score
        return self._score(classifier, self.experiment.manifest.selection or INNER_VALIDATION, 0.0)

    def _evaluate(
        self, classifier: Classifier, images: Sequence[ImageRecord]
    ) -> tuple[dict[str, Any], "pyarrow.Table"]:
        manifest = self.experiment.manifest
        return evaluate(
            classifier, images, manifest.labels, source=manifest.source, threads=self.experiment.config.threads
        )

    def _score(self, classifier: Classifier, split: str, seconds: float) -> dict[str, Any]:
        images = self.experiment.images(split)
        figures = self._evaluate(classifier, images)[0]
        return record.score_of(figures, self.experiment.manifest, images, seconds)

    def _write_score(self, model: ClassifierNetwork, seconds: float) -> None:
        started = time.monotonic()
        config = self.experiment.config
        classifier = Classifier(model, config.device, engine=config.engine, precision=config.precision)
        score = self._score(classifier, INNER_VALIDATION, seconds)
        score["time_s"] = round(seconds + time.monotonic() - started, 2)
        record.write_score(self.run, score)
