"""What a finished run says of each reported image: the one reader of predictions.parquet. Loads no torch."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from headstart.data.manifest import ImageRecord, Manifest, group_numbers
from headstart.errors import RunError
from headstart.runs import PREDICTIONS, Run

_CLASS_PREFIX = "p_"  # of the columns of probabilities


@dataclass(frozen=True, eq=False)
class Predictions:
    """A row per reported image, in the manifest's order.

    Attributes:
        paths: Keys of the images, as in the manifest.
        labels: True classes, (N,).
        predicted: Most probable classes, (N,).
        classes: The C classes that the model knows.
        probabilities: Probability of each class, (N, C).
        groups: Number of each image's group, (N,); None where that is not known.
    """

    paths: Sequence[str]
    labels: Sequence[str]
    predicted: Sequence[str]
    classes: Sequence[str]
    probabilities: npt.NDArray[np.floating]
    groups: npt.NDArray[np.int64] | None = None

    @cached_property
    def is_correct(self) -> npt.NDArray[np.bool_]:
        """Whether the predicted class is the true one, (N,)."""
        pairs = zip(self.labels, self.predicted, strict=True)
        return np.array([label == guess for label, guess in pairs], np.bool_)

    @cached_property
    def confidence(self) -> npt.NDArray[np.float64]:
        """The probability of the predicted class, (N,)."""
        position_of = {name: position for position, name in enumerate(self.classes)}
        chosen = [position_of[guess] for guess in self.predicted]
        return self.probabilities[np.arange(len(chosen)), chosen].astype(np.float64)

    def mistakes(self, label: str | None = None, predicted: str | None = None) -> list[int]:
        """Return the rows that are wrong, the most confident first, of all classes or of one pair."""
        wrong = []
        for row, (true, guess) in enumerate(zip(self.labels, self.predicted, strict=True)):
            if true != guess and label in (None, true) and predicted in (None, guess):
                wrong.append(row)
        return self._most_confident_first(wrong)

    def right(self) -> list[int]:
        """Return the rows that are right, the most confident first."""
        return self._most_confident_first(np.flatnonzero(self.is_correct).tolist())

    def _most_confident_first(self, rows: list[int]) -> list[int]:
        """Return rows in another order; of equals the first stays first."""
        return sorted(rows, key=lambda row: -self.confidence[row])


def read_predictions(run: Run, manifest: Manifest | None = None) -> Predictions:
    """Read the predictions of a run.

    Args:
        run: A finished run.
        manifest: Manifest of the run. With it the predictions have to be about its reported images, in its order, and
            get its groups.

    Raises:
        RunError: The run is not finished, its file is damaged, or it does not fit the manifest.
    """
    table = run.predictions()
    needed = {"path", "label", "predicted"}
    if "predicted" in table.column_names:
        for name in table.column("predicted").to_pylist():
            needed.add(f"{_CLASS_PREFIX}{name}")
    missing = needed.difference(table.column_names)
    if missing:
        raise RunError(
            f"{run.path / PREDICTIONS} has no column {', '.join(sorted(missing))}; train again with --overwrite"
        )

    columns = [name for name in table.column_names if name.startswith(_CLASS_PREFIX)]
    probabilities = np.empty((table.num_rows, len(columns)), np.float64)
    for position, name in enumerate(columns):
        probabilities[:, position] = table.column(name).to_numpy()
    found = Predictions(
        paths=table.column("path").to_pylist(),
        labels=table.column("label").to_pylist(),
        predicted=table.column("predicted").to_pylist(),
        classes=[name.removeprefix(_CLASS_PREFIX) for name in columns],
        probabilities=probabilities,
    )

    if manifest is None:
        return found
    records = reported_records(run, manifest)
    expected = [manifest.labels[record.label] for record in records]
    if found.labels != expected:
        raise RunError(f"the predictions of {run.path} do not fit its manifest; train again with --overwrite")
    groups = group_numbers(record.group for record in records)
    return replace(found, groups=np.array(groups, dtype=np.int64))


def reported_records(run: Run, manifest: Manifest) -> tuple[ImageRecord, ...]:
    """Return the images that a finished run reports on, in the order of its predictions.

    Raises:
        RunError: The run is not finished.
    """
    return manifest.of_split(run.metrics()["split"])
