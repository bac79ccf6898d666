"""What people do around a run: measure a model on a folder, test the range of learning rates, look at the data."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from headstart import runs
from headstart.config import Config
from headstart.data.contact_sheet import TILE, contact_sheet, most_rows
from headstart.data.dataset import load_dataset
from headstart.data.manifest import ImageRecord, Manifest, read_manifest
from headstart.data.sources import read_picture
from headstart.display import Display
from headstart.errors import ConfigError, DataError, RunError
from headstart.experiment.experiment import Experiment
from headstart.experiment.network import build_backbone
from headstart.experiment.reading import read_data, show_report
from headstart.experiment.settings import strategy_of
from headstart.files import atomic_path, make_parent
from headstart.inference.evaluate import evaluate
from headstart.inference.predict import load
from headstart.models.backbones import create_backbone
from headstart.models.delta import load_delta, read_factors, read_info, save_delta
from headstart.models.saved import load_classifier, save_classifier
from headstart.preprocessing import eval_view, train_view
from headstart.training.lr_find import LEFT_OUT, RangeTest, find_lr
from headstart.training.rest_row import start_rest_row
from headstart.types import Decoding, Layout

_PICTURES = (".png", ".jpg", ".jpeg", ".webp")


def evaluate_folder(
    model: Path,
    data: str,
    *,
    display: Display,
    layout: Layout = "auto",
    label_map: dict[str, str] | None = None,
    exclude: Sequence[str] = (),
    split: str | None = None,
    predictions: Path | None = None,
    skip_bad: bool = False,
    device: str = "auto",
    engine: str = "auto",
    precision: str = "auto",
) -> dict[str, Any]:
    """Measure a saved model on labelled images, matching labels by name.

    Args:
        model: Run folder or model folder.
        data: Folder, manifest or catalogue name; a folder without splits is taken whole.
        display: Told what goes on.
        layout: How the folders of the data are read; see `headstart.data.layouts`.
        label_map: Merges classes of the data.
        exclude: Classes of the data to leave out.
        split: Which split; by default the one that a run on this data would report.
        predictions: Where to write a row per image.
        skip_bad: Whether unreadable images are left out.
        device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.
        engine: `auto`, `openvino` or `torch`.
        precision: `auto`, `32` or `bf16`.

    Returns:
        The figures of metrics.json.

    Raises:
        HeadstartError: The model, the data or the split is not usable.
    """
    if predictions is not None:
        runs.check_output(predictions, data, "--predictions")
    classifier = load(model, device=device, engine=engine, precision=precision)
    manifest, report = load_dataset(
        data,
        layout=layout,
        label_map=label_map,
        exclude=exclude,
        leaks="keep",
        skip_bad=skip_bad,
        single_split_ok=True,
        progress=display.progress,
        known=classifier.labels,
    )
    show_report(report, display)
    chosen = split or (manifest.reported if manifest.reported in manifest.splits else manifest.splits[0])
    records = manifest.of_split(chosen)
    if not records:
        raise DataError(f"{data} has no split {chosen!r}; it has {', '.join(manifest.splits)}")
    seen = _seen_by(model, records)
    for line in seen:
        display.note(line)
    metrics, table = evaluate(classifier, records, manifest.labels, source=manifest.source, progress=display.progress)
    classifier.tell_refused(display)
    if predictions is not None:
        make_parent(predictions)
        runs.write_parquet(predictions, table)
    return {**metrics, "split": chosen, "seen_by_the_model": seen}


def _seen_by(model: Path, records: Sequence[ImageRecord]) -> list[str]:
    """Say how many of the images a run has learnt from or selected on; a model folder alone does not know."""
    run = runs.run_of_model(model)
    if run is None:
        return []
    known = read_manifest(run.path / runs.MANIFEST)
    config = run.config()
    uses = {"was trained on": "train"}
    selecting = known.reported if config.select_on == "reported" else known.selection
    if selecting is not None and config.selects and run.resolved().stop_after is None:
        uses["selected its epoch on"] = selecting
    lines = []
    for use, split in uses.items():
        used = {record.sha256 for record in known.records if record.split == split}
        if count := sum(record.sha256 in used for record in records):
            lines.append(f"the model {use} {count} of these {len(records)} images, so the figure is optimistic")
    trained = {record.group for record in known.of_split("train")} - {None}
    if count := sum(record.group in trained for record in records):
        lines.append(
            f"{count} of these {len(records)} images have a group that the model was also trained on, judged by its "
            "name, so the figure is optimistic"
        )
    return lines


def find_learning_rate(
    config: Config, plot: Path, *, low: float, high: float, num_steps: int, display: Display
) -> tuple[RangeTest, str]:
    """Run a range test for the first phase of a config's plan that is trained; nothing is kept of the model.

    Args:
        config: Settings; what acts on the whole of training (mixing, averaging, clipping, accumulation) is left out.
        plot: Where the caller will draw the result; refused among the user's images.
        low: First learning rate.
        high: Last learning rate.
        num_steps: Steps between them.
        display: Told what goes on.

    Returns:
        What the test saw, and the setting that the suggestion is a value for.

    Raises:
        HeadstartError: Settings or data are not usable, or the plot could not be written.
        TrainingError: The loss was never finite, or the test was too short to show a slope.
    """
    runs.check_output(plot, config.data, "--plot", *_PICTURES, ".pdf", ".svg")
    left_out = [name for name, off in LEFT_OUT.items() if getattr(config, name) != off]
    if left_out:
        display.note(f"the range test leaves out {', '.join(left_out)}")
    experiment = Experiment.prepare(config, display=display)
    model, fabric = experiment.model, experiment.fabric
    phases = experiment.plan.phases
    index = next((index for index, phase in enumerate(phases) if phase.solver == "loop"), 0)
    fabric.to_device(model.network)
    start_rest_row(model, experiment.supply(experiment.train), None, display.note)
    result = find_lr(
        model,
        phases[index],
        lambda trial: experiment.supply(experiment.train, model=trial),
        experiment.fit_settings,
        fabric,
        low=low,
        high=high,
        num_steps=num_steps,
    )
    return result, _rate_setting(experiment, index)


def _rate_setting(experiment: Experiment, index: int) -> str:
    """Name the setting that decides the rate of a phase."""
    config, phases = experiment.config, experiment.plan.phases
    strategy = strategy_of(config)
    if strategy.table is not None:
        return f"lr of phase {phases[index].name!r} in the table"
    if config.phase_lrs or 0 < index < len(phases) - 1:
        return f"--phase-lrs, number {index + 1}:"
    return "--head-lr" if index == 0 and strategy.row.starts_with_head else "--lr"


def show_data(
    config: Config,
    sheet: Path,
    *,
    split: str | None = None,
    per_class: int = 8,
    augmented: bool = False,
    display: Display | None = None,
) -> Manifest:
    """Write a contact sheet: the first pictures of each class, of every second class the last ones.

    With `augmented`, each row is one training picture followed by `per_class` training views of it, in the 8-bit RGB
    that the network's normalisation starts from.

    Raises:
        HeadstartError: The data is not usable, or the sheet cannot be written.
    """
    runs.check_output(sheet, config.data, "--sheet", *_PICTURES)
    display = display or Display()
    # The plain sheet needs no network; the augmented one shows what this backbone's input looks like.
    experiment = Experiment.prepare(config, display=display) if augmented else None
    if experiment is not None:
        manifest = experiment.manifest
        how = experiment.model.spec.decoding
    else:
        manifest, report = read_data(config, display)
        show_report(report, display)
        how = Decoding(TILE, report.grey_range)
    chosen = split or "train"
    rows = []
    of_split = manifest.of_split(chosen)
    for label, name in enumerate(manifest.labels[: most_rows()]):
        records = [record for record in of_split if record.label == label]
        if experiment is not None and records:
            rows.append((f"{name}: {config.augment}", _views(experiment, records[0], per_class)))
        else:
            pictures = _pictures(manifest, records, how, per_class, from_end=label % 2 == 1)
            rows.append((f"{name} ({len(records)})", pictures))
    if not any(pictures for _, pictures in rows):
        raise ConfigError(f"there is no split {chosen!r}; there are {', '.join(manifest.splits)}")
    if len(rows) < len(manifest.labels):
        display.note(f"the sheet shows the first {len(rows)} of {len(manifest.labels)} classes: it cannot be longer")
    make_parent(sheet)
    with atomic_path(sheet) as temporary:
        contact_sheet(rows).save(temporary)
    return manifest


def _views(experiment: Experiment, record: ImageRecord, count: int) -> list[Image.Image]:
    """Return the evaluation view of an image, and training views of it."""
    config, spec = experiment.config, experiment.model.spec
    picture = read_picture(experiment.manifest.source, record.key, spec.decoding)
    rng = np.random.default_rng(config.seed)
    views = [eval_view(picture, spec)]
    for _ in range(count):
        views.append(train_view(picture, spec, config.augment, rng))
    return [Image.fromarray(view) for view in views]


def _pictures(
    manifest: Manifest, records: list[ImageRecord], how: Decoding, count: int, *, from_end: bool
) -> list[Image.Image]:
    """Return thumbnails of the first pictures, or of the last ones; each is decoded no larger than it must be."""
    chosen = records[-count:] if from_end else records[:count]
    pictures = []
    for record in chosen:
        picture = read_picture(manifest.source, record.key, how, is_quick=True)
        picture.thumbnail((2 * TILE, 2 * TILE))
        pictures.append(picture)
    return pictures


def write_delta(path: Path, out: Path) -> None:
    """Write a file of only what a run changed in the pretrained network that it started from.

    Args:
        path: Run folder.
        out: The file.

    Raises:
        ConfigError: `out` is a folder.
        RunError: The run is not finished, there was nothing pretrained, or the file cannot be written.
        ModelError: The weights that it started from are not there.
    """
    runs.check_output(out, "", "--out")
    run = runs.open_run(path)
    run.metrics()  # refuses a run that is not finished
    base = build_backbone(run.config(), run.resolved())
    if base.weights == "none":
        raise RunError(f"{path} started from random weights, so all of it is new; copy {run.model_folder} instead")
    make_parent(out)
    save_delta(load_classifier(run.model_folder), base, out, factors=read_factors(run.model_folder))


def rebuild_model(delta: Path, out: Path, *, weights: str | None = None) -> None:
    """Put a file of `write_delta` onto its pretrained network, and write the model folder.

    Args:
        delta: The file.
        out: Model folder, not there yet or empty.
        weights: Weight file or run folder that it was trained from; None: the published weights of its backbone.

    Raises:
        ModelError: The file is no delta, or belongs on other weights.
        RunError: The folder is occupied or cannot be written.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunError(f"{out} is not empty; choose another --out")
    runs.check_parent(out)
    info = read_info(delta)
    base = create_backbone(info.backbone, weights=weights)
    if base.spec.size != info.spec.size:  # position embeddings were made for the size
        base = create_backbone(info.backbone, weights=weights, image_size=info.spec.size[0])
    save_classifier(load_delta(delta, base), out)
