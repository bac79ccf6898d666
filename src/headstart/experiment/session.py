"""One run, from an experiment to a finished run folder."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from headstart import runs
from headstart.data.checks import find_shared_groups
from headstart.data.manifest import ImageRecord
from headstart.engines.engine import NUM_SAMPLES
from headstart.errors import UnreadableImageError
from headstart.experiment import record
from headstart.experiment.experiment import Experiment
from headstart.experiment.fits import INNER_TRAIN, INNER_VALIDATION, PlannedFit
from headstart.history import MetricsLog
from headstart.inference.evaluate import evaluate
from headstart.inference.inputs import decoded_views
from headstart.inference.predict import Classifier, load
from headstart.inference.torch_model import add_graph, classifier_of
from headstart.machine import PeakMemory
from headstart.models.classifier import ClassifierNetwork
from headstart.models.saved import save_classifier
from headstart.resolved import Resolved
from headstart.runs import Run
from headstart.training.checkpoint import Checkpoints
from headstart.training.consumers import run_fit
from headstart.training.events import FitResult
from headstart.training.loop import Fit
from headstart.training.phase_fit import PhaseFit
from headstart.training.plan_table import tabulate_plan
from headstart.training.rest_row import start_rest_row
from headstart.types import StepChoice

if TYPE_CHECKING:
    import pyarrow


@dataclass
class Session:
    """A run folder being filled.

    Attributes:
        experiment: Settings, data and plan of the next fit.
        run: The folder that is filled.
        started: When the command began.
        data_s: Seconds until the data was checked.
        cache_s: Seconds spent computing features.
        memory: Measures the peak memory of this process.
    """

    experiment: Experiment
    run: Run
    started: float
    data_s: float
    cache_s: float = 0.0
    memory: PeakMemory = field(default_factory=PeakMemory)

    def finish(self) -> Run:
        """Train, save, evaluate what was saved, and write the figures."""
        # Train.
        train_started = time.monotonic()
        device = self.experiment.fabric.device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        fit, model, result = self._train()
        train_s = time.monotonic() - train_started - self.cache_s
        # A resumed run counts what was trained before; the table of epochs knows.
        logged_s = sum(row["time_s"] for row in self.run.history())
        earlier_s = max(0.0, logged_s - train_s)
        save_classifier(model, self.run.model_folder)

        # The figures come from the files that will be used, by the path that `predict` takes.
        evaluation_started = time.monotonic()
        manifest = self.experiment.manifest
        config = self.experiment.config
        self._add_graph(model)
        classifier = load(self.run.path, device=config.device, engine=config.engine, precision=config.precision)
        figures, predictions = self._evaluate(classifier, manifest.of_split(manifest.reported))
        classifier.tell_refused(self.experiment.display)
        record.add_refused_engines(self.run, classifier.refused)
        runs.write_parquet(self.run.path / runs.PREDICTIONS, predictions)
        ended = time.monotonic()
        seconds = {
            "total": round(ended - self.started + earlier_s, 2),
            "data": round(self.data_s, 2),
            "cache": round(self.cache_s, 2),
            "train": round(train_s + earlier_s, 2),
            "evaluate": round(ended - evaluation_started, 2),
        }

        # What ranks the settings is no part of the seconds of a run.
        score = None
        if config.selection_score:
            score = self._selection_score(classifier)

        # Write the figures, in the order in which people read them.
        shared_groups = find_shared_groups(manifest.records)
        metrics = {
            "split": manifest.reported,
            **figures,
            "selected_on_reported": fit.uses_reported,
            "shared_groups": sum(manifest.reported in group.counts for group in shared_groups),
            **self._facts(model, result, device),
        }
        if score is not None:
            metrics["selection"] = score
        if model.source_head is not None:
            metrics["head_starts_from"] = model.source_head.summary()
        metrics["time_s"] = seconds
        record.write_card(self.run, self.experiment, model, metrics)
        record.write_metrics(self.run, metrics)
        if not config.keep_checkpoints:
            record.remove_checkpoints(self.run)
        if result.unchanged:
            self.experiment.display.note(
                f"{len(result.unchanged)} trainable tensors did not change; the learning rate is too small"
            )
        return self.run

    def _add_graph(self, model: ClassifierNetwork) -> None:
        """Put the graph that will be used into the model folder, checked on some of the reported images."""
        manifest = self.experiment.manifest
        views = decoded_views(
            [record.key for record in manifest.of_split(manifest.reported)[:NUM_SAMPLES]],
            manifest.source,
            model.spec,
            threads=1,
            ahead=NUM_SAMPLES,
        )
        samples = [view for _, view in views if not isinstance(view, UnreadableImageError)]
        if not samples:
            return  # the evaluation says which one cannot be read
        reason = add_graph(self.run.model_folder, np.stack(samples))
        if reason:
            self.experiment.display.note(f"the model folder has no graph, so that only PyTorch can use it: {reason}")

    def _facts(self, model: ClassifierNetwork, result: FitResult, device: torch.device) -> dict[str, Any]:
        """Return what metrics.json says of the training."""
        plan = self.experiment.plan
        tables = tabulate_plan(plan, model.network, model.stages)
        if device.type == "cuda":
            peak_mb: float | None = round(torch.cuda.max_memory_allocated(device) / 2**20, 1)
        else:
            peak_mb = self.memory.megabytes()
        return {
            "strategy": plan.strategy,
            "backbone": model.backbone,
            "seed": self.experiment.config.seed,
            "trainable_parameters": max(table.trainable for table in tables),
            "epochs_run": list(result.epochs_run),
            "best_epochs": list(result.best_epochs),
            "unchanged_trainable_tensors": list(result.unchanged),
            "peak_memory_mb": peak_mb,
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

            started = time.monotonic()
            cache_s_before = self.cache_s
            result = self._fit(fit)
            fit_s = time.monotonic() - started - (self.cache_s - cache_s_before)
            model = self.experiment.model
            if fit.scores:
                # What choosing the epochs takes belongs to the run; what is done for the score alone does not.
                self._write_score(model, 0.0 if fit.sets_length else fit_s)
            if fit.sets_length:
                self._set_length(result.best_epochs)
        return fit, model, result

    def _set_length(self, epochs: tuple[int, ...]) -> None:
        """Decide how long each phase of the fit to come is, and say so."""
        self._decide(self.experiment.resolved.replace(stop_after=epochs))
        num_images = len(self.experiment.train)
        self.experiment.display.say(
            f"chosen epochs per phase: {list(epochs)}; training again on all {num_images} images"
        )

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
        experiment = self.experiment
        folder = self.run.path
        fabric = experiment.fabric
        fabric.to_device(experiment.model.network)

        # What feeds it, and where the head starts.
        held_out = None
        held_out_name = None
        if planned.held_out is not None:
            held_out = experiment.images(planned.held_out)
            held_out_name = planned.held_out_name
        supply = experiment.supply(experiment.images(planned.train), held_out)
        checkpoints = Checkpoints(folder / runs.CHECKPOINTS / planned.name)
        start_rest_row(experiment.model, supply, checkpoints, experiment.display.note)

        patience = experiment.config.patience if planned.selects else None
        settings = replace(experiment.fit_settings, selects=planned.selects, patience=patience)
        fit = Fit(
            experiment.model,
            experiment.plan,
            supply,
            settings,
            fabric,
            name=planned.name,
            held_out_name=held_out_name,
        )
        tensorboard = None
        if experiment.config.log == "tensorboard":
            tensorboard = folder / runs.TENSORBOARD / planned.name
        title = "training"
        if planned.name != "final":
            title = f"{experiment.plan.strategy} {planned.name}"
        result = run_fit(
            fit,
            checkpoints=checkpoints,
            log=MetricsLog(folder / runs.HISTORY, fit=planned.name),
            tensorboard=tensorboard,
            choose_step=partial(self._choose_step, supply.engines),
            display=experiment.display,
            title=title,
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
        split = self.experiment.manifest.selection or INNER_VALIDATION
        return self._score(classifier, split, 0.0)

    def _evaluate(
        self, classifier: Classifier, images: Sequence[ImageRecord]
    ) -> tuple[dict[str, Any], "pyarrow.Table"]:
        """Return the figures on images, and a table with a row for each of them."""
        manifest = self.experiment.manifest
        return evaluate(
            classifier, images, manifest.labels, source=manifest.source, threads=self.experiment.config.threads
        )

    def _score(self, classifier: Classifier, split: str, seconds: float) -> dict[str, Any]:
        """Return what ranks the settings: figures on the images of a split, and what it took to get them."""
        images = self.experiment.images(split)
        figures, _ = self._evaluate(classifier, images)
        return record.score_of(figures, self.experiment.manifest, images, seconds)

    def _write_score(self, model: ClassifierNetwork, seconds: float) -> None:
        """Score the settings by a model, and keep the score until the run is finished.

        Args:
            model: The network, not trained on the inner validation images.
            seconds: Seconds that its training took, as far as that was for the score alone.
        """
        started = time.monotonic()
        config = self.experiment.config
        classifier = classifier_of(model, config.device, engine=config.engine, precision=config.precision)
        score = self._score(classifier, INNER_VALIDATION, seconds)
        score["time_s"] = round(seconds + time.monotonic() - started, 2)
        record.write_score(self.run, score)
