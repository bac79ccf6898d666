"""What people do around a run: measure a model on a folder, test the range of learning rates, look at the data."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from headstart import runs
from headstart.config import Config
from headstart.data.contact_sheet import contact_sheet
from headstart.data.dataset import load_dataset
from headstart.data.manifest import ImageRecord, Manifest
from headstart.data.transforms import decode, eval_view, train_view
from headstart.errors import ConfigError, DataError, RunError
from headstart.experiment.prepare import (
    DataProgress,
    fit_settings,
    make_fabric,
    num_threads,
    prepare,
    read_data,
    train_batches,
)
from headstart.experiment.session import Say
from headstart.inference.evaluate import evaluate
from headstart.inference.predict import load
from headstart.training.lr_find import RangeTest, find_lr


def evaluate_folder(
    model: Path,
    data: str,
    *,
    say: Say,
    label_map: dict[str, str] | None = None,
    split: str | None = None,
    predictions: Path | None = None,
    skip_bad: bool = False,
    device: str = "auto",
) -> dict[str, Any]:
    """Measure a saved model on labelled images, matching labels by name.

    Args:
        model: Run folder or model folder.
        data: Folder, manifest or catalogue name; a folder without splits is taken whole.
        say: Receives notes.
        label_map: Merges classes of the data.
        split: Which split; by default the one that a run on this data would report.
        predictions: Where to write a row per image.
        skip_bad: Whether unreadable images are left out.
        device: `auto`, `cpu` or `cuda`.

    Returns:
        The figures of metrics.json.

    Raises:
        HeadstartError: The model, the data or the split is not usable.
    """
    classifier = load(model, device=device)
    manifest, report = load_dataset(
        data, label_map=label_map, leaks="keep", skip_bad=skip_bad, single_split_ok=True, threads=num_threads(Config())
    )
    for line in report.warnings:
        say(f"note: {line}")
    chosen = split or manifest.reported
    records = manifest.of_split(chosen)
    if not records:
        raise DataError(f"{data} has no split {chosen!r}; it has {', '.join(manifest.splits)}")
    evaluation = evaluate(classifier, records, manifest.labels, threads=num_threads(Config()))
    if predictions is not None:
        runs.write_parquet(predictions, evaluation.predictions)
    return {"split": chosen, **evaluation.metrics}


def find_learning_rate(
    config: Config, *, low: float, high: float, num_steps: int, progress: DataProgress | None = None
) -> RangeTest:
    """Run a range test for the first phase of a config's plan; nothing is kept of the model."""
    prepared = prepare(config, progress=progress)
    config = prepared.config
    train = train_batches(config, prepared.manifest.of_split("train"), prepared.model.spec)
    phase = prepared.plan.phases[0]
    settings, fabric = fit_settings(config), make_fabric(config)
    return find_lr(prepared.model, phase, train, settings, fabric, low=low, high=high, num_steps=num_steps)


def show_data(
    config: Config,
    sheet: Path,
    *,
    split: str | None = None,
    per_class: int = 8,
    augmented: bool = False,
    progress: DataProgress | None = None,
) -> Manifest:
    """Write a contact sheet: the first pictures of each class, of the second class the last ones.

    With `augmented`, each row is one training picture followed by `per_class` training views of it, in the 8-bit RGB
    that the network's normalisation starts from.

    Raises:
        HeadstartError: The data is not usable, or the sheet cannot be written.
    """
    # The plain sheet needs no network; the augmented one shows what this backbone's input looks like.
    prepared = prepare(config, progress=progress) if augmented else None
    manifest = prepared.manifest if prepared else read_data(config, progress=progress)[0]
    chosen = split or "train"
    rows = []
    for label, name in enumerate(manifest.labels):
        records = [record for record in manifest.of_split(chosen) if record.label == label]
        if prepared is not None and records:
            spec, picture = prepared.model.spec, decode(records[0].path)
            rng = np.random.default_rng(config.seed)
            views = [train_view(picture, spec, config.augment, rng) for _ in range(per_class)]
            rows.append((f"{name}: {config.augment}", [Image.fromarray(v) for v in (eval_view(picture, spec), *views)]))
        else:
            rows.append((f"{name} ({len(records)})", _pictures(records, per_class, from_end=label % 2 == 1)))
    if not any(pictures for _, pictures in rows):
        raise ConfigError(f"there is no split {chosen!r}; there are {', '.join(manifest.splits)}")
    try:
        sheet.parent.mkdir(parents=True, exist_ok=True)
        contact_sheet(rows).save(sheet)
    except (OSError, ValueError) as error:
        raise RunError(f"cannot write the contact sheet {sheet}: {error}; name another file with --sheet") from error
    return manifest


def _pictures(records: list[ImageRecord], count: int, *, from_end: bool) -> list[Image.Image]:
    return [decode(record.path) for record in (records[-count:] if from_end else records[:count])]
