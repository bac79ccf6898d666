"""Measure a trained model on labelled images, by the path that `predict` takes."""

import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from headstart.data.manifest import ImageRecord, group_numbers
from headstart.data.sources import CheckedSource, Source, shown
from headstart.errors import DataError, ModelError, did_you_mean, listed
from headstart.inference.predict import Classifier
from headstart.inference.stream import Probabilities, all_probabilities
from headstart.stats.baseline import baseline, worst_class
from headstart.stats.metrics import classification_metrics
from headstart.types import Progress

if TYPE_CHECKING:
    import pyarrow


def evaluate(
    classifier: Classifier,
    records: Sequence[ImageRecord],
    labels: Sequence[str],
    *,
    source: Source,
    batch_size: int = 32,
    threads: int | None = None,
    progress: Progress | None = None,
) -> tuple[dict[str, Any], "pyarrow.Table"]:
    """Classify images and compare with their labels, which are matched by name.

    The model may know more classes than the images have; those are counted as wrong where they are predicted.

    Args:
        classifier: The model.
        records: The images.
        labels: What the records' label numbers stand for.
        source: Gives the images' bytes.
        batch_size: Images per pass through the network.
        threads: Decoding threads; default: one per core, 8 at most.
        progress: Told `("evaluate", done, total)` after every batch.

    Returns:
        What `metrics.json` holds, see `stats.metrics.classification_metrics`, and a row per image: path, label,
        predicted, p_<class>...

    Raises:
        DataError: There is no image, or the model does not know one of the labels.
        UnreadableImageError: An image cannot be decoded, or is not what was checked any more.
        ModelError: The model's output is not finite.
    """
    started = time.monotonic()
    if not records:
        raise DataError("there is no image to evaluate on; give data with labelled images in this split")
    targets = _targets(records, labels, classifier.labels)
    keys = [record.key for record in records]
    checksums = {record.key: record.sha256 for record in records}
    probabilities = all_probabilities(
        classifier,
        keys,
        source=CheckedSource(source, checksums),
        batch_size=batch_size,
        threads=threads,
        progress=partial(progress, "evaluate") if progress else None,
    )
    num_finite = int(np.isfinite(probabilities).all(axis=1).sum())
    num_bad = len(records) - num_finite
    if num_bad:
        raise ModelError(
            f"the model's output is not finite on {num_bad} of {len(records)} images; its training has diverged: "
            f"train again with a smaller --lr"
        )
    figures = classification_metrics(
        probabilities, targets, classifier.labels, group_numbers(record.group for record in records)
    )
    metrics = {
        "split": "+".join(sorted({record.split for record in records})),
        **figures,
        "baseline": asdict(baseline(figures)),
        "worst_class": asdict(worst_class(figures)),
        "selected_on_reported": False,
        "engine": classifier.engine[0],
        "precision": classifier.engine[1],
        "device": classifier.device,
        "time_s": {"evaluate": round(time.monotonic() - started, 3)},
    }
    return metrics, _prediction_table(records, targets, probabilities, classifier.labels)


def _targets(records: Sequence[ImageRecord], labels: Sequence[str], known: Sequence[str]) -> npt.NDArray[np.int64]:
    """Return the model's number of each image's class; refuse classes that it does not know."""
    index = {label: position for position, label in enumerate(known)}
    used = {labels[record.label] for record in records}
    unknown = sorted(used - index.keys())
    if unknown:
        words = listed(f"'{label}'{_suggestion(label, known)}" for label in unknown)
        raise DataError(
            f"the data has classes that the model does not know: {words}; it knows {listed(known, 10)}. Rename them "
            f"by --map '{unknown[0]}={known[0]}', or leave them out by --exclude {','.join(unknown)}"
        )
    return np.array([index[labels[record.label]] for record in records], dtype=np.int64)


def _suggestion(label: str, known: Sequence[str]) -> str:
    """Return a class of a similar name, in brackets, or ''."""
    hint = did_you_mean(label, known, limit=1).strip()
    if not hint:
        return ""
    return f" ({hint[0].lower()}{hint[1:]})"


def _prediction_table(
    records: Sequence[ImageRecord],
    targets: npt.NDArray[np.int64],
    probabilities: Probabilities,
    labels: Sequence[str],
) -> "pyarrow.Table":
    """Return a row per image: path, label, predicted, and the probability of each class."""
    import pyarrow as pa

    names = np.array(labels, dtype=object)
    columns: dict[str, Any] = {
        "path": [shown(record.key) for record in records],
        "label": names[targets],
        "predicted": names[probabilities.argmax(axis=1)],
    }
    for position, label in enumerate(labels):
        columns[f"p_{label}"] = np.ascontiguousarray(probabilities[:, position])
    return pa.table(columns)
