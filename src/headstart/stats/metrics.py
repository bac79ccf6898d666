"""Figures of merit of a classifier from its probabilities, each as plain JSON types."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from headstart.stats.confusion import count_pairs
from headstart.stats.intervals import accuracy_interval, wilson_interval

LOG_LOSS_CLIP = float(np.finfo(np.float64).eps)  # as scikit-learn does, so that the two agree
ECE_BINS = 15
_SUM_TOLERANCE = 1e-3


def classification_metrics(
    probabilities: ArrayLike, targets: ArrayLike, labels: Sequence[str], groups: ArrayLike | None = None
) -> dict[str, Any]:
    """Compute what `metrics.json` says about one split.

    The prediction is the most probable class, ties to the first. A figure that is not defined is None: the recall of a
    class without an image, the precision of a class never predicted, the F1 of a class that is neither. Averages over
    classes are over the defined ones, as scikit-learn's `balanced_accuracy_score` and `f1_score(average="macro")`.
    `log_loss` is the mean of -ln p(true class), p clipped from below at `LOG_LOSS_CLIP`, in nats.

    Args:
        probabilities: `(N, C)`, rows summing to 1.
        targets: `(N,)`, indices of the true classes.
        labels: The C class names.
        groups: `(N,)`, what each image belongs to (a patient, a burst); None: each image counts for itself.

    Returns:
        `labels`, `num_images`, `num_groups` (where images come in groups), `accuracy` (value, low, high, level,
        method), `balanced_accuracy`, `macro_f1`, `log_loss`, `ece`, `per_class` (label -> precision, recall, f1,
        num_images; with groups `recall_low` and `recall_high` too) and `confusion` (true class -> predicted class ->
        images; pairs without an image are left out).

    Raises:
        ValueError: The shapes do not fit, a target is no class, or a row is no probability distribution.
    """
    p = np.asarray(probabilities, dtype=np.float64)
    y = np.asarray(targets)
    _refuse_misfits(p, y, labels)
    y = y.astype(np.intp)
    predicted = p.argmax(axis=1)
    is_correct = predicted == y
    per_class = _class_rows(y, predicted, len(labels))

    # Over groups where there are any, else over images.
    of_groups: dict[str, int] = {}
    accuracy = wilson_interval(int(is_correct.sum()), len(y))
    if groups is not None:
        group_of = np.asarray(groups)
        num_groups = len(np.unique(group_of))
        if num_groups < len(y):
            of_groups["num_groups"] = num_groups
            accuracy = accuracy_interval(is_correct, group_of)
            _add_recall_intervals(per_class, y, is_correct, group_of)

    true_class = p[np.arange(len(y)), y]
    recalls = [row["recall"] for row in per_class]
    f1s = [row["f1"] for row in per_class]
    return {
        "labels": list(labels),
        "num_images": len(y),
        **of_groups,
        "accuracy": asdict(accuracy),
        "balanced_accuracy": _mean_of_defined(recalls),
        "macro_f1": _mean_of_defined(f1s),
        "log_loss": float(-np.log(np.clip(true_class, LOG_LOSS_CLIP, 1.0)).mean()) + 0.0,  # -0.0 becomes 0.0
        "ece": expected_calibration_error(p, y),
        "per_class": dict(zip(labels, per_class, strict=True)),
        "confusion": count_pairs(y, predicted, labels),
    }


def expected_calibration_error(probabilities: NDArray[np.float64], targets: NDArray[np.integer[Any]]) -> float:
    """Compute the mean gap between confidence and accuracy (Guo et al. 2017, arXiv:1706.04599, eq. 3).

    The confidence is the probability of the predicted class; the bins ((m-1)/M, m/M] are of equal width, M being
    `ECE_BINS`; each counts by its share of the images.

    Args:
        probabilities: `(N, C)`, rows summing to 1.
        targets: `(N,)`, indices of the true classes.
    """
    confidence = probabilities.max(axis=1)
    gap = (probabilities.argmax(axis=1) == targets) - confidence
    return float(np.abs(np.bincount(confidence_bins(confidence), weights=gap)).sum() / len(targets))


def confidence_bins(confidence: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return the number of the bin, 0 to `ECE_BINS` - 1, that each confidence falls into; they are closed above."""
    return np.clip(np.ceil(confidence * ECE_BINS).astype(np.intp) - 1, 0, ECE_BINS - 1)


def _refuse_misfits(p: NDArray[np.float64], y: NDArray[Any], labels: Sequence[str]) -> None:
    """Raise a `ValueError` where the arguments do not fit one another."""
    if p.ndim != 2 or p.shape[1] != len(labels) or y.shape != p.shape[:1] or not len(y):
        raise ValueError(
            f"expected probabilities (N, {len(labels)}) and targets (N,) with N >= 1; got {p.shape} and {y.shape}"
        )
    if not np.issubdtype(y.dtype, np.integer) or y.min() < 0 or y.max() >= len(labels):
        raise ValueError(f"targets must be integers in 0..{len(labels) - 1}; got {y.dtype} up to {y.max()}")
    # A NaN fails the comparison as well.
    if not (np.abs(p.sum(axis=1) - 1) < _SUM_TOLERANCE).all() or p.min() < 0:
        raise ValueError("every row of probabilities must be non-negative and sum to 1")


def _class_rows(y: NDArray[np.intp], predicted: NDArray[np.intp], num_classes: int) -> list[dict[str, Any]]:
    """Return precision, recall, F1 and the number of images of each class."""
    hits = np.bincount(y[predicted == y], minlength=num_classes).tolist()
    num_images = np.bincount(y, minlength=num_classes).tolist()
    num_predicted = np.bincount(predicted, minlength=num_classes).tolist()
    rows = []
    for right, images, guesses in zip(hits, num_images, num_predicted, strict=True):
        row = {
            "precision": _share(right, guesses),
            "recall": _share(right, images),
            "f1": _share(2 * right, images + guesses),
            "num_images": images,
        }
        rows.append(row)
    return rows


def _add_recall_intervals(
    rows: Sequence[dict[str, Any]], y: NDArray[Any], is_correct: NDArray[np.bool_], groups: NDArray[Any]
) -> None:
    """Add `recall_low` and `recall_high`, over groups, to the row of each class that has images."""
    for label, row in enumerate(rows):
        is_member = y == label
        if is_member.any():
            interval = accuracy_interval(is_correct[is_member], groups[is_member])
            row["recall_low"] = interval.low
            row["recall_high"] = interval.high


def _share(part: int, whole: int) -> float | None:
    """Return what share a part is of a whole; None where the whole is nothing."""
    if not whole:
        return None
    return part / whole


def _mean_of_defined(values: Sequence[float | None]) -> float:
    """Return the mean of the values that are defined; one at least is."""
    defined = [value for value in values if value is not None]
    return sum(defined) / len(defined)
