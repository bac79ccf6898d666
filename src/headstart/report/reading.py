"""What a report says of a run, read from its folder; what an older version did not write, or is gone, is left out."""

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard, TypeVar

from headstart import runs
from headstart.config import command_words
from headstart.data.manifest import read_manifest, read_source
from headstart.data.predictions import Predictions, read_predictions
from headstart.data.sources import FILES, Source
from headstart.errors import DataError, HeadstartError, RunError, listed
from headstart.resolved import Resolved
from headstart.stats.caveats import Caveat, caveats
from headstart.stats.confusion import Confusion, read_confusion
from headstart.types import InputSpec

_T = TypeVar("_T")


@dataclass(frozen=True, eq=False)
class Facts:
    """A finished run, as far as its files are there.

    Attributes:
        run: The run folder.
        source: Source of the images' bytes.
        settings: Settings that were asked for or are defaults.
        resolved: Settings that were decided.
        metrics: What `metrics.json` holds.
        history: Rows of the metrics log, one per epoch.
        phases: Phases of the plan, each with its stages and their learning rates.
        environment: What `environment.json` holds.
        data_report: What `data_report.json` holds.
        predictions: Predictions of the reported images, or None where they cannot be read.
        spec: Preprocessing of the model, or None where it cannot be read.
        explanations: What `inference.explain` wrote; empty where it was not asked for.
        missing: Sentences about what could not be read.
    """

    run: runs.Run
    source: Source
    settings: Mapping[str, Any]
    resolved: Resolved
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
    def caveats(self) -> tuple[Caveat, ...]:
        """The reasons why the figures are optimistic."""
        return caveats(self.metrics)

    @property
    def labels(self) -> list[str]:
        """The class names, in the order of the model's outputs."""
        return list(self.metrics.get("labels") or self.metrics["per_class"])

    @property
    def confusion(self) -> Confusion:
        """True class -> predicted class -> images."""
        return read_confusion(self.metrics)

    def fits(self) -> dict[str, list[Mapping[str, Any]]]:
        """Return the rows of each fit, `selection` before `final`."""
        found: dict[str, list[Mapping[str, Any]]] = {}
        for row in self.history:
            found.setdefault(row.get("fit") or "final", []).append(row)
        return found

    def schedule_epochs(self, phase: int) -> int:
        """Return how many epochs the schedule of a phase spans: more than ran where it was stopped; 0: not known."""
        values = self.settings
        lengths = self.resolved.epochs or values["phase_epochs"]
        if not lengths and values["table"]:
            phases = values["table"].get("phases", [])
            lengths = [each.get("epochs", values["epochs"]) for each in phases]
        if not lengths:
            return int(values["epochs"])
        if phase > len(lengths):
            return 0
        return int(lengths[phase - 1])


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
    missing: list[str] = []

    def optional(read: Callable[[], _T], default: _T) -> _T:
        try:
            return read()
        except (HeadstartError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            what = str(error)
            if not isinstance(error, HeadstartError):
                what = f"{type(error).__name__}: {error}"
            missing.append(f"a file of {path} cannot be used: {what}")
            return default

    return Facts(
        run=run,
        source=optional(lambda: read_source(path / runs.MANIFEST), FILES),
        settings=run.settings(),
        resolved=run.resolved(),
        metrics=metrics,
        history=optional(run.history, []),
        phases=optional(lambda: list(run.plan()["phases"]), []),
        environment=optional(run.environment, {}),
        data_report=optional(run.data_report, {}),
        predictions=optional(lambda: _read_predictions(run), None),
        spec=optional(lambda: _read_spec(run.model_folder / "preprocessor_config.json"), None),
        explanations=optional(lambda: _read_explanations(run), {}),
        missing=missing,
    )


def commands(facts: Facts) -> list[tuple[str, str]]:
    """Return what to type to repeat a run, each with what it does."""
    path = facts.run.path
    exact = ["headstart", "train", "--config", str(path / runs.CONFIG), "--out", f"{path}-again"]
    found = [("the same settings, with what was decided by timing or selection", shlex.join(exact))]
    if not facts.settings["table"]:  # a table of one's own fits into no flag
        found.append(("the settings that were asked for", shlex.join(command_words(facts.run.asked()))))
    found.append(("this page", shlex.join(["headstart", "report", str(path)])))
    return found


def read_comparison(source: Mapping[str, Any] | str | Path | None, paths: Sequence[Path]) -> Mapping[str, Any]:
    """Return what `comparison.json` holds, given it or its path, with whole paths of its runs; nothing for None.

    Args:
        source: What the file holds, or its path; it may be about more runs than these.
        paths: Run folders that it has to be about.

    Raises:
        RunError: The file cannot be read, holds no comparison, or is about other runs.
    """
    if source is None:
        return {}
    if isinstance(source, Mapping):
        value = source
        folder = Path()
        where = "the comparison"
    else:
        value = _comparison_file(Path(source))
        folder = Path(source).parent
        where = str(source)
    rows = []
    known: set[Path] = set()
    for row in value.get("rows", ()):
        located = [_path_of_run(run, folder) for run in row.get("runs", ())]
        rows.append({**row, "runs": located})
        known.update(located)
    others = [str(path) for path in paths if path.resolve() not in known]
    if known and others:
        raise RunError(f"{where} is not about {listed(others)}; name the comparison of these runs, or none")
    return {**value, "rows": rows}


def run_names(paths: Sequence[Path], study: Mapping[str, Any]) -> list[str]:
    """Name runs as the study does, or else by the least end of their paths that tells them apart."""
    named = {}
    for row in study.get("rows", ()):
        for run, seed in zip(row["runs"], row["seeds"], strict=False):
            named[run] = row["name"]
            if len(row["runs"]) > 1:
                named[run] += f", seed {seed}"
    if named:  # read_comparison saw to it that it knows them all
        return [named[path.resolve()] for path in paths]

    parts = [path.resolve().parts for path in paths]
    depth = _telling_depth(parts)
    ends = [each[-depth:] for each in parts]
    # What all paths end with tells nothing.
    while depth > 1 and len({each[-1] for each in ends}) == 1:
        ends = [each[:-1] for each in ends]
    return ["/".join(each) for each in ends]


def _telling_depth(parts: Sequence[tuple[str, ...]]) -> int:
    """Return how many parts of paths, from their ends on, tell them apart; 1 where none do."""
    for depth in range(1, max(map(len, parts))):
        if len({each[-depth:] for each in parts}) == len(parts):
            return depth
    return 1


def _comparison_file(path: Path) -> dict[str, Any]:
    """Read a comparison.json; a `RunError` says why it cannot be read."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise RunError(f"cannot read {path}: {error}; name the comparison.json of headstart compare") from error
    if not _is_comparison(value):
        raise RunError(f"{path} holds no comparison; name the comparison.json of headstart compare")
    return value


def _is_comparison(value: object) -> TypeGuard[dict[str, Any]]:
    """Tell whether what a file holds has the verdict or the rows of a comparison."""
    if not isinstance(value, dict) or not ("verdict" in value or "rows" in value):
        return False
    rows = value.get("rows", [])
    if not isinstance(rows, list):
        return False
    return all(isinstance(row, dict) and {"name", "seeds"} <= row.keys() for row in rows)


def _path_of_run(run: str | Path, folder: Path) -> Path:
    """Find a run that a file in a folder names; one that is not within it was named from where the command ran."""
    within = folder / run
    if within.exists():
        return within.resolve()
    return Path(run).resolve()


def _read_predictions(run: runs.Run) -> Predictions:
    """Read the predictions, with the groups of the images where the manifest is there."""
    try:
        manifest = read_manifest(run.path / runs.MANIFEST)
    except DataError:
        return read_predictions(run)
    return read_predictions(run, manifest)


def _read_spec(path: Path) -> InputSpec:
    """Read the preprocessing of a model folder."""
    return InputSpec.from_dict(json.loads(path.read_bytes())["input_spec"])


def _read_explanations(run: runs.Run) -> dict[str, Any]:
    """Read what `inference.explain` wrote, where it was asked for."""
    path = run.path / runs.EXPLANATIONS / f"{runs.EXPLANATIONS}.json"
    if not path.is_file():  # they are made on request only
        return {}
    value = json.loads(path.read_bytes())
    return {"layer": value.get("layer"), "reason": value.get("reason"), "images": list(value["images"])}
