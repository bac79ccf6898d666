"""A contact sheet of a data set: its pictures as they are, or as training sees them."""

from pathlib import Path

import numpy as np
from PIL import Image

from headstart import runs
from headstart.config import Config
from headstart.data.contact_sheet import TILE, contact_sheet, most_rows
from headstart.data.manifest import ImageRecord, Manifest
from headstart.data.sources import read_picture
from headstart.display import Display
from headstart.errors import ConfigError
from headstart.experiment.experiment import Experiment
from headstart.experiment.reading import read_data, show_report
from headstart.experiment.tools import PICTURE_SUFFIXES
from headstart.files import atomic_path, make_parent
from headstart.preprocessing import eval_view, train_view
from headstart.types import Decoding


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
    runs.check_output(sheet, config.data, "--sheet", *PICTURE_SUFFIXES)
    display = display or Display()
    # The plain sheet needs no network; the augmented one shows what this backbone's input looks like.
    experiment = None
    if augmented:
        experiment = Experiment.prepare(config, display=display)
        manifest = experiment.manifest
        decoding = experiment.model.spec.decoding
    else:
        manifest, report = read_data(config, display)
        show_report(report, display)
        decoding = Decoding(TILE, report.grey_range)

    # A row per class.
    chosen = split or "train"
    of_split = manifest.of_split(chosen)
    has_pictures = False
    rows = []
    for label, name in enumerate(manifest.labels[: most_rows()]):
        records = [record for record in of_split if record.label == label]
        if experiment is not None and records:
            title = f"{name}: {config.augment}"
            pictures = _training_views(experiment, records[0], per_class)
        else:
            title = f"{name} ({len(records)})"
            pictures = _thumbnails(manifest, records, decoding, per_class, from_end=label % 2 == 1)
        rows.append((title, pictures))
        has_pictures = has_pictures or bool(pictures)
    if not has_pictures:
        raise ConfigError(f"there is no split {chosen!r}; there are {', '.join(manifest.splits)}")
    if len(rows) < len(manifest.labels):
        display.note(f"the sheet shows the first {len(rows)} of {len(manifest.labels)} classes: it cannot be longer")

    make_parent(sheet)
    with atomic_path(sheet) as temporary:
        contact_sheet(rows).save(temporary)
    return manifest


def _training_views(experiment: Experiment, record: ImageRecord, count: int) -> list[Image.Image]:
    """Return the evaluation view of an image, and so many training views of it."""
    config = experiment.config
    spec = experiment.model.spec
    picture = read_picture(experiment.manifest.source, record.key, spec.decoding)
    rng = np.random.default_rng(config.seed)
    views = [eval_view(picture, spec)]
    for _ in range(count):
        views.append(train_view(picture, spec, config.augment, rng))
    return [Image.fromarray(view) for view in views]


def _thumbnails(
    manifest: Manifest, records: list[ImageRecord], decoding: Decoding, count: int, *, from_end: bool
) -> list[Image.Image]:
    """Return thumbnails of the first pictures, or of the last ones; each is decoded no larger than it must be."""
    chosen = records[-count:] if from_end else records[:count]
    pictures = []
    for record in chosen:
        picture = read_picture(manifest.source, record.key, decoding, is_quick=True)
        picture.thumbnail((2 * TILE, 2 * TILE))
        pictures.append(picture)
    return pictures
