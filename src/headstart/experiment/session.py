"""One run from settings to a run folder."""

import hashlib
import io
import json
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from headstart import runs
from headstart.config import Config, dump_config
from headstart.data.catalog import licence_of
from headstart.data.checks import DataReport, change_of
from headstart.data.loading import Batch
from headstart.data.manifest import ImageRecord, Manifest, read_manifest, write_manifest
from headstart.data.pictures import Pictures
from headstart.data.splits import inner_split
from headstart.errors import RunError
from headstart.experiment.preparation import (
    Prepared,
    build_model,
    build_plan,
    fit_settings,
    make_fabric,
    make_supply,
    prepare,
    selects,
    step_options,
)
from headstart.experiment.reading import DataProgress, Reading, num_threads
from headstart.features.supply import network_input
from headstart.files import write_atomic, write_json
from headstart.history import MetricsLog
from headstart.inference.evaluate import evaluate
from headstart.inference.model_card import render_model_card
from headstart.inference.predict import Classifier, load
from headstart.machine import PeakMemory, environment
from headstart.models.classifier import ClassifierNetwork, save_classifier
from headstart.runs import Run
from headstart.training.budget import epoch_seconds, fit_to_time
from headstart.training.checkpoint import Checkpoints
from headstart.training.engine import FitResult, fit
from headstart.training.observers import Observer, SilentProgress, TensorBoardLog, require_tensorboard
from headstart.training.plan import describe
from headstart.training.rest_row import start_rest_row
from headstart.training.tuning import StepChoice, choose_step

Say = Callable[[str], None]
MakeObserver = Callable[[str], Observer]


def say_nothing(line: str) -> None:
    """Show nothing."""


def watch_nothing(title: str) -> Observer:
    """Watch without a word."""
    return SilentProgress()


def run(
    config: Config,
    reading: Reading,
    *,
    overwrite: bool = False,
    say: Say = say_nothing,
    make_observer: MakeObserver = watch_nothing,
    progress: DataProgress | None = None,
) -> Run:
    """Do one run from settings to a finished run folder; see `headstart.experiment.run`."""
    started = time.monotonic()
    if config.log == "tensorboard":
        require_tensorboard()
    if config.out:
        runs.refuse_inside(Path(config.out), config.data, "--out")
        runs.check_out_folder(Path(config.out), overwrite)
    prepared = prepare(config, reading)
    config = prepared.config
    out = Path(config.out) if config.out else _default_path(prepared)
    runs.refuse_inside(out, config.data, "--out")
    runs.check_out_folder(out, overwrite)
    report = reading.result()[1]
    for line in (*prepared.warnings, *report.warnings):
        say(f"note: {line}")
    data_s = time.monotonic() - started
    prepared = _fit_to_time(prepared, say)
    folder = runs.create_run_folder(out, _first_files(prepared, report), overwrite=overwrite)
    return _Session(prepared, folder, say, make_observer, progress, started, data_s).finish()


def resume(
    path: Path,
    *,
    say: Say = say_nothing,
    make_observer: MakeObserver = watch_nothing,
    progress: DataProgress | None = None,
) -> Run:
    """Finish a run that was interrupted; its weights come out as if it had not been.

    Raises:
        RunError: The folder is no run, or its images have changed.
    """
    started = time.monotonic()
    folder = runs.open_run(path)
    if (folder.path / "metrics.json").exists():
        say(f"{folder.path} is already complete; nothing was done")
        return folder
    config = folder.config()
    manifest = read_manifest(folder.path / "manifest.parquet")
    _check_unchanged(manifest)
    model = build_model(config, manifest.labels)
    prepared = Prepared(config, manifest, model, build_plan(config, model), Pictures(), ())
    say(f"resuming {folder.path}")
    return _Session(prepared, folder, say, make_observer, progress, started, time.monotonic() - started).finish()


def _default_path(prepared: Prepared) -> Path:
    config = prepared.config
    return runs.default_run_path(prepared.manifest.name, config.backbone, config.strategy, config.seed)


def _check_unchanged(manifest: Manifest) -> None:
    for record in manifest.records:
        if change := change_of(manifest.source, record):
            raise RunError(f"{record.key} {change} since the run began, so it cannot be resumed; start a new run")


def _first_files(prepared: Prepared, report: DataReport) -> dict[str, bytes | str]:
    config, model = prepared.config, prepared.model
    tables = [asdict(table) for table in describe(prepared.plan, model.network, model.stages)]
    buffer = io.BytesIO()
    write_manifest(prepared.manifest, buffer)
    return {
        "config.yaml": dump_config(config),
        "environment.json": json.dumps(environment(config.seed), indent=2),
        "data_report.json": json.dumps(report.to_dict(), indent=2, ensure_ascii=False),
        "plan.json": json.dumps({"strategy": prepared.plan.strategy, "phases": tables}, indent=2),
        "manifest.parquet": buffer.getvalue(),
    }


def _fit_to_time(prepared: Prepared, say: Say) -> Prepared:
    """Shorten the plan to the time limit; the choice is recorded, so that a repeat makes the same one."""
    config, plan, model = prepared.config, prepared.plan, prepared.model
    if config.time_limit is None or "epochs" in config.choices:
        return prepared
    started = time.monotonic()
    fabric = make_fabric(config)
    supply = partial(
        make_supply,
        config,
        train=prepared.manifest.of_split("train"),
        held_out=prepared.manifest.of_split(prepared.manifest.reported) if config.monitor else None,
        source=prepared.manifest.source,
        device=fabric.device,
        pictures=prepared.pictures,
        say=say,
    )
    seconds = epoch_seconds(model, plan, supply, fit_settings(config), fabric)
    # A fit that selects on a part of train is followed by a second one on all of it.
    inner = config.select_on == "auto" and prepared.manifest.selection is None
    num_fits = 2 if selects(config) and config.refit and inner else 1
    left_s = (config.time_limit - (time.monotonic() - started)) / num_fits
    epochs, expected_s = fit_to_time(plan, seconds, left_s)
    say(f"time limit {config.time_limit:.0f} s: epochs per phase {list(epochs)}, about {expected_s * num_fits:.0f} s")
    if expected_s > left_s:
        say("note: the time limit is too short for one epoch of each phase; one epoch is the least that can be run")
    config = config.model_copy(update={"choices": {**config.choices, "epochs": list(epochs)}})
    return replace(prepared, config=config, plan=build_plan(config, model))


@dataclass
class _Session:
    """A run folder being filled."""

    prepared: Prepared
    folder: Run
    say: Say
    make_observer: MakeObserver
    progress: DataProgress | None
    started: float
    data_s: float
    cache_s: float = 0.0
    memory: PeakMemory = field(default_factory=PeakMemory)

    def finish(self) -> Run:
        """Train, save, evaluate what was saved, and write the figures."""
        prepared, path = self.prepared, self.folder.path
        trained_at = time.monotonic()
        device = make_fabric(prepared.config).device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        model, result, selected_on_reported = self._train()
        # A resumed run counts what was trained before; the table of epochs knows.
        train_s = time.monotonic() - trained_at
        logged_s = sum(row["time_s"] for row in self.folder.history())
        earlier_s = max(0.0, logged_s - (train_s - self.cache_s))
        save_classifier(model, path / "model")
        evaluated_at = time.monotonic()
        manifest, config = prepared.manifest, prepared.config
        # The figures come from the files that will be used, by the path that `predict` takes.
        classifier = load(path, device=config.device, engine=config.engine, precision=config.precision)
        figures, predictions = evaluate(
            classifier,
            manifest.of_split(manifest.reported),
            manifest.labels,
            source=manifest.source,
            threads=num_threads(config),
        )
        for line in classifier.notes:
            self.say(f"note: {line}")
        runs.write_parquet(path / "predictions.parquet", predictions)
        ended = time.monotonic()
        score = self._selection_score(classifier) if config.selection_score else None
        on_gpu_mb = torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else None
        trainable = max(table.trainable for table in describe(prepared.plan, model.network, model.stages))
        metrics = {
            "split": manifest.reported,
            **figures,
            "selected_on_reported": selected_on_reported,
            "strategy": prepared.plan.strategy,
            "backbone": model.backbone,
            "seed": config.seed,
            "trainable_parameters": trainable,
            "epochs_run": list(result.epochs_run),
            "best_epochs": list(result.best_epochs),
            "unchanged_trainable_tensors": list(result.unchanged),
            "peak_memory_mb": self.memory.megabytes() if on_gpu_mb is None else round(on_gpu_mb, 1),
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
        card = render_model_card(model, metrics, data_name=manifest.name, data_licence=licence_of(config.data))
        write_atomic(path / "model" / "README.md", card)
        # Last, because a run with this file counts as complete.
        write_json(path / "metrics.json", metrics)
        if result.unchanged:
            self.say(f"note: {len(result.unchanged)} trainable tensors did not change; the learning rate is too small")
        return self.folder

    def _train(self) -> tuple[ClassifierNetwork, FitResult, bool]:
        prepared, manifest = self.prepared, self.prepared.manifest
        config, train = prepared.config, manifest.of_split("train")
        reported = manifest.of_split(manifest.reported)
        finds_epoch = selects(config) and "stop_after" not in config.choices
        if config.selection_score and manifest.selection is None and not (finds_epoch and config.select_on == "auto"):
            self._fit_to_score(finds_epoch)
        if not finds_epoch:
            split = manifest.selection or manifest.reported
            held_out = manifest.of_split(split) if config.monitor else None
            return *self._fit("final", train, held_out, split, selects=False), False
        if config.select_on == "reported":
            return *self._fit("final", train, reported, manifest.reported, selects=True), True
        if manifest.selection is not None:
            held_out = manifest.of_split(manifest.selection)
            return *self._fit("final", train, held_out, manifest.selection, selects=True), False
        inner, held_out = inner_split(train, config.validation_fraction, config.split_seed)
        title = "selection" if config.refit else "final"
        self.say(f"selecting on {len(held_out)} of the {len(train)} training images; the reported ones select nothing")
        model, result = self._fit(title, inner, held_out, "inner validation", selects=True)
        if not config.refit:
            return model, result, False
        if config.selection_score:
            self._write_score(model, held_out, seconds=0.0)
        self._record_choice("stop_after", list(result.best_epochs))
        self.say(f"chosen epochs per phase: {list(result.best_epochs)}; training again on all {len(train)} images")
        held_out = reported if config.monitor else None
        return *self._fit("final", train, held_out, manifest.reported, selects=False), False

    @property
    def _score_file(self) -> Path:
        return self.folder.path / "checkpoints" / "selection" / "score.json"

    def _fit_to_score(self, finds_epoch: bool) -> None:
        """Train on a part of train and score on the rest, so that settings can be ranked without the reported images.

        Args:
            finds_epoch: Whether the rest also chooses the epoch, as the reported images do in the fit to come.
        """
        if self._score_file.exists():
            return
        started, cache_s, config = time.monotonic(), self.cache_s, self.prepared.config
        train = self.prepared.manifest.of_split("train")
        inner, held_out = inner_split(train, config.validation_fraction, config.split_seed)
        self.say(f"scoring the settings on {len(held_out)} of the {len(train)} training images; then all of them train")
        watched = held_out if finds_epoch else None
        model, _ = self._fit("selection", inner, watched, "inner validation", selects=finds_epoch)
        self._write_score(model, held_out, seconds=time.monotonic() - started - (self.cache_s - cache_s))
        self._renew_model()

    def _selection_score(self, classifier: Classifier) -> dict[str, Any]:
        """Return what an earlier fit scored; without one, the final model has not trained on what selects."""
        if self._score_file.exists():
            saved: dict[str, Any] = json.loads(self._score_file.read_bytes())
            return saved
        manifest, config = self.prepared.manifest, self.prepared.config
        if manifest.selection is not None:
            return self._score(classifier, manifest.of_split(manifest.selection), seconds=0.0)
        held_out = inner_split(manifest.of_split("train"), config.validation_fraction, config.split_seed)[1]
        return self._score(classifier, held_out, seconds=0.0)

    def _score(self, classifier: Classifier, records: Sequence[ImageRecord], seconds: float) -> dict[str, Any]:
        manifest = self.prepared.manifest
        threads = num_threads(self.prepared.config)
        figures = evaluate(classifier, records, manifest.labels, source=manifest.source, threads=threads)[0]
        images = sorted(f"{record.sha256} {manifest.labels[record.label]}\n" for record in records)
        return {
            "split": manifest.selection or "inner validation",
            "num_images": len(records),
            "log_loss": figures["log_loss"],
            "accuracy": figures["accuracy"]["value"],
            # Two scores compare only where they are of the same images.
            "images_sha256": hashlib.sha256("".join(images).encode()).hexdigest(),
            "time_s": round(seconds, 2),
        }

    def _write_score(self, model: ClassifierNetwork, records: Sequence[ImageRecord], seconds: float) -> None:
        config, started = self.prepared.config, time.monotonic()
        classifier = Classifier(model, config.device, engine=config.engine, precision=config.precision)
        score = self._score(classifier, records, seconds)
        write_json(self._score_file, {**score, "time_s": round(seconds + time.monotonic() - started, 2)})

    def _choose_step(
        self, device: torch.device, phase: int, module: nn.Module, first_batch: Callable[[], Batch], num_images: int
    ) -> StepChoice:
        """Time how the steps of a phase run fastest, or replay what was chosen before."""
        config, key = self.prepared.config, f"step_of_phase_{phase + 1}"
        options = step_options(config)
        if key in config.choices:
            return StepChoice(**config.choices[key])
        if len(options) == 1 or not num_images:
            return options[0]
        batch = first_batch()
        choice = choose_step(
            module,
            network_input(self.prepared.model, batch.pixels.to(device)),
            batch.targets.to(device),
            options,
            num_images=num_images,
            sync=torch.cuda.synchronize if device.type == "cuda" else lambda: None,
        )
        self._write_choice(key, choice.to_dict())
        if choice != options[0]:
            self.say(f"steps of phase {phase + 1} run fastest as: {choice}")
        return choice

    def _write_choice(self, key: str, value: Any) -> None:
        config = self.prepared.config
        config = config.model_copy(update={"choices": {**config.choices, key: value}})
        write_atomic(self.folder.path / "config.yaml", dump_config(config))
        self.prepared = replace(self.prepared, config=config)

    def _record_choice(self, key: str, value: Any) -> None:
        self._write_choice(key, value)
        self._renew_model()

    def _renew_model(self) -> None:
        config = self.prepared.config
        # A fit changes the network in place, so the next one starts from a new one.
        model = build_model(config, self.prepared.manifest.labels)
        self.prepared = replace(self.prepared, model=model, plan=build_plan(config, model))

    def _fit(
        self,
        name: str,
        train: Sequence[ImageRecord],
        held_out: Sequence[ImageRecord] | None,
        split: str,
        *,
        selects: bool,
    ) -> tuple[ClassifierNetwork, FitResult]:
        config, model, path = self.prepared.config, self.prepared.model, self.folder.path
        fabric = make_fabric(config)
        fabric.to_device(model.network)
        supply = make_supply(
            config,
            model,
            train,
            held_out,
            source=self.prepared.manifest.source,
            device=fabric.device,
            pictures=self.prepared.pictures,
            say=lambda line: self.say(f"note: {line}"),
            progress=self.progress or (lambda title, done, total: None),
        )
        checkpoints = Checkpoints(path / "checkpoints" / name)
        start_rest_row(model, supply, checkpoints, lambda line: self.say(f"note: {line}"))
        settings = replace(fit_settings(config), selects=selects, patience=config.patience if selects else None)
        log = MetricsLog(path / "metrics.csv", fit=name)
        event_files = TensorBoardLog(log, path / "tensorboard" / name) if config.log == "tensorboard" else None
        with event_files or nullcontext(log) as rows:
            result = fit(
                model,
                self.prepared.plan,
                supply,
                settings,
                fabric=fabric,
                checkpoints=checkpoints,
                log=rows,
                observer=self.make_observer(f"{self.prepared.plan.strategy} {name}" if name != "final" else "training"),
                held_out_name=split if held_out is not None else None,
                log_name=name,
                choose_step=partial(self._choose_step, fabric.device) if config.tune == "auto" else None,
            )
        self.cache_s += supply.seconds
        return model, result
