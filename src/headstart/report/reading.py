"""What a report says of a run, read from its folder; what an older version did not write, or is gone, is left out."""

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from headstart import runs
from headstart.config import Config, command_words, read_yaml
from headstart.errors import HeadstartError, RunError
from headstart.types import InputSpec

_T = TypeVar("_T")


@dataclass(frozen=True, eq=False)
class Predictions:
    """A row per reported image.

    Attributes:
        paths: As in the manifest.
        labels: True classes.
        predicted: Most probable classes.
        confidence: (N,), the probability of the predicted class.
    """

    paths: Sequence[str]
    labels: Sequence[str]
    predicted: Sequence[str]
    confidence: npt.NDArray[np.float64]

    @property
    def is_correct(self) -> npt.NDArray[np.bool_]:
        """(N,), whether the predicted class is the true one."""
        return np.array([label == guess for label, guess in zip(self.labels, self.predicted, strict=True)])

    def mistakes(self, label: str | None = None, predicted: str | None = None) -> list[int]:
        """Return the rows that are wrong, the most confident first, of all classes or of one pair."""
        wrong = (
            row
            for row, (true, guess) in enumerate(zip(self.labels, self.predicted, strict=True))
            if true != guess and label in (None, true) and predicted in (None, guess)
        )
        return sorted(wrong, key=lambda row: -self.confidence[row])


@dataclass(frozen=True, eq=False)
class Facts:
    """A finished run, as far as its files are there; `missing` says in sentences what could not be read."""

    run: runs.Run
    settings: Mapping[str, Any]
    metrics: Mapping[str, Any]
    history: Sequence[Mapping[str, Any]]
    phases: Sequence[Mapping[str, Any]]
    environment: Mapping[str, Any]
    data_report: Mapping[str, Any]
    predictions: Predictions | None
    spec: InputSpec | None
    explanations: Mapping[str, Any]
    missing: Sequence[str] = field(default=())

    @property
    def name(self) -> str:
        """The name of the folder."""
        return self.run.path.resolve().name

    @property
    def is_selected(self) -> bool:
        """Whether the reported images selected the model, so that its figures are too good."""
        return bool(self.metrics.get("selected_on_reported"))

    @property
    def labels(self) -> list[str]:
        """The class names, in the order of the confusion matrix."""
        return list(self.metrics.get("labels") or self.metrics["per_class"])

    def fits(self) -> dict[str, list[Mapping[str, Any]]]:
        """Return the rows of each fit, `selection` before `final`."""
        found: dict[str, list[Mapping[str, Any]]] = {}
        for row in self.history:
            found.setdefault(row.get("fit") or "final", []).append(row)
        return found

    def schedule_epochs(self, phase: int) -> int:
        """Return how many epochs the schedule of a phase spans: more than ran where it was stopped; 0: not known."""
        values = self.settings
        lengths = values["choices"].get("epochs") or values["phase_epochs"]
        if lengths is None and values["table"]:
            lengths = [each.get("epochs", values["epochs"]) for each in values["table"].get("phases", [])]
        if lengths is None:
            return int(values["epochs"])
        return int(lengths[phase - 1]) if phase <= len(lengths) else 0


def read_run(path: Path) -> Facts:
    """Read a run folder.

    Raises:
        RunError: It is none, or the run is not finished.
        ConfigError: Its settings cannot be read.
    """
    run = runs.open_run(path)
    metrics = run.metrics()
    if not isinstance(metrics.get("accuracy"), dict) or "confusion" not in metrics or "per_class" not in metrics:
        raise RunError(
            f"{path / runs.METRICS} holds no accuracy, confusion and per_class; train again with --overwrite"
        )
    defaults = {name: field.default for name, field in Config.model_fields.items()}
    missing: list[str] = []

    def optional(read: Callable[[], _T], default: _T) -> _T:
        try:
            return read()
        except (HeadstartError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            what = error if isinstance(error, HeadstartError) else f"{type(error).__name__}: {error}"
            missing.append(f"a file of {path} cannot be used: {what}")
            return default

    return Facts(
        run=run,
        settings={**defaults, **read_yaml(path / runs.CONFIG)},
        metrics=metrics,
        history=optional(run.history, []),
        phases=optional(lambda: list(run.plan()["phases"]), []),
        environment=optional(run.environment, {}),
        data_report=optional(run.data_report, {}),
        predictions=optional(lambda: _predictions(run), None),
        spec=optional(lambda: _spec(run.model_folder / "preprocessor_config.json"), None),
        explanations=optional(lambda: _explanations(run), {}),
        missing=missing,
    )


def commands(facts: Facts) -> list[tuple[str, str]]:
    """Return what to type to repeat a run, each with what it does."""
    path, values = facts.run.path, facts.settings
    again, config = f"{path}-again", str(path / runs.CONFIG)
    exact = shlex.join(["headstart", "train", "--config", config, "--out", again])
    repeated = [("the same settings, with what was decided by timing or selection", exact)]
    if not values["table"]:  # a table of one's own fits into no flag
        repeated.append(("the settings that differ from the defaults", shlex.join(command_words(values))))
    return [*repeated, ("this page", shlex.join(["headstart", "report", str(path)]))]


def read_comparison(source: Mapping[str, Any] | str | Path | None) -> Mapping[str, Any]:
    """Return what `comparison.json` holds, given it or its path; nothing for None.

    Raises:
        RunError: The file cannot be read, or holds no JSON object.
    """
    if source is None or isinstance(source, Mapping):
        return source or {}
    try:
        value = json.loads(Path(source).read_bytes())
    except (OSError, ValueError) as error:
        raise RunError(f"cannot read {source}: {error}; name the comparison.json of headstart compare") from error
    if not isinstance(value, dict):
        raise RunError(f"{source} holds no comparison; name the comparison.json of headstart compare")
    return value


def _predictions(run: runs.Run) -> Predictions:
    table = run.predictions()
    paths, labels, predicted = (table.column(name).to_pylist() for name in ("path", "label", "predicted"))
    confidence = np.zeros(len(paths))
    for name in set(predicted):
        rows = [row for row, guess in enumerate(predicted) if guess == name]
        confidence[rows] = table.column(f"p_{name}").to_numpy()[rows]
    return Predictions(paths, labels, predicted, confidence)


def _spec(path: Path) -> InputSpec:
    return InputSpec.from_dict(json.loads(path.read_bytes())["input_spec"])


def _explanations(run: runs.Run) -> dict[str, Any]:
    path = run.path / runs.EXPLANATIONS / f"{runs.EXPLANATIONS}.json"
    if not path.is_file():  # they are made on request only
        return {}
    value = json.loads(path.read_bytes())
    return {"layer": value.get("layer"), "reason": value.get("reason"), "images": list(value["images"])}
