"""Which classes were taken for which: only pairs that occur are held, so that a thousand classes make a small file."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Confusion = Mapping[str, Mapping[str, int]]  # true class -> predicted class -> images, 1 or more


def count_pairs(
    targets: NDArray[np.intp], predicted: NDArray[np.intp], labels: Sequence[str]
) -> dict[str, dict[str, int]]:
    """Count the images of each pair of true and predicted class.

    Args:
        targets: `(N,)`, indices of the true classes.
        predicted: `(N,)`, indices of the predicted classes.
        labels: What the indices stand for.

    Returns:
        True class -> predicted class -> images, in the order of `labels`; pairs without an image are left out, and so
        are classes without one.
    """
    pairs, counts = np.unique(np.stack((targets, predicted)), axis=1, return_counts=True)
    found: dict[str, dict[str, int]] = {}
    for true, guess, count in zip(*pairs.tolist(), counts.tolist(), strict=True):
        found.setdefault(labels[true], {})[labels[guess]] = count
    return found


def read_confusion(metrics: Mapping[str, Any]) -> Confusion:
    """Return the pairs of a `metrics.json`, also of version 0.1, which wrote a matrix in the order of the classes."""
    stored = metrics["confusion"]
    if isinstance(stored, Mapping):
        return stored
    labels = list(metrics["per_class"])
    found: dict[str, dict[str, int]] = {}
    for true, row in zip(labels, stored, strict=True):
        pairs = {guess: count for guess, count in zip(labels, row, strict=True) if count}
        if pairs:
            found[true] = pairs
    return found


def confusion_table(confusion: Confusion, labels: Sequence[str]) -> NDArray[np.int64]:
    """Return a matrix of all pairs, `(C, C)`; rows: true class, columns: predicted class, in the order of `labels`."""
    number = {label: position for position, label in enumerate(labels)}
    matrix = np.zeros((len(labels), len(labels)), dtype=np.int64)
    for true, row in confusion.items():
        for guess, count in row.items():
            matrix[number[true], number[guess]] = count
    return matrix
