"""Which settings are best, and how sure that is: many runs on the same images, ranked without the reported ones.

Reading runs that exist loads no torch.
"""

import itertools
import json
import os
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from headstart.config import Config
from headstart.data.manifest import data_name
from headstart.errors import ConfigError, RunError, listed
from headstart.files import csv_text, make_parent, write_atomic, write_json
from headstart.runs import Run, folder_name_part, locate, refuse_inside, sole_writer
from headstart.stats.baseline import Baseline, baseline_of
from headstart.stats.compare import Difference, compare_to_first, difference_sentence
from headstart.stats.intervals import accuracy_interval
from headstart.studies.cells import run_cells
from headstart.studies.grid import make_cells
from headstart.studies.progress import StudyProgress, duration
from headstart.studies.reported import Reported, check_same_images, common_groups, read_reported
from headstart.types import Interval

RankedBy = Literal["selection", "accuracy"]

_CLEARLY_FASTER = 1.5  # times; for less nobody takes another setting


@dataclass(frozen=True)
class Row:
    """What the runs of one cell say together.

    Attributes:
        rank: Place in the order, from 1.
        name: Name of the cell.
        strategy: Strategy of the cell.
        backbone: Backbone of the cell.
        runs: Folders of the runs, one per seed.
        seeds: Seeds of the runs.
        accuracy: Accuracy on the reported images, mean over the seeds.
        accuracies: Accuracy on the reported images, per seed.
        balanced_accuracy: Mean recall of the classes on the reported images, mean over the seeds; None in an old run.
        selection_log_loss: Log loss on the images that rank, mean over the seeds, nats; None where a run has none.
        selection_accuracy: Accuracy on the images that rank, mean over the seeds; None where a run has none.
        seconds: Seconds that a run took without its scoring, mean over the seeds.
        trainable_parameters: The most parameters that any phase trains.
        peak_memory_mb: The most memory that a run held: its process or, on a GPU, what training allocated there. The
            least of the seeds counts, because a process still holds some of what its earlier runs needed.
        selected_on_reported: Whether the reported images chose an epoch, so that the accuracy is optimistic.
        shared_groups: How many groups of the reported images are in other splits too, which is as optimistic.
    """

    rank: int
    name: str
    strategy: str
    backbone: str
    runs: tuple[Path, ...]
    seeds: tuple[int, ...]
    accuracy: Interval
    accuracies: tuple[float, ...]
    balanced_accuracy: float | None
    selection_log_loss: float | None
    selection_accuracy: float | None
    seconds: float
    trainable_parameters: int
    peak_memory_mb: float | None
    selected_on_reported: bool
    shared_groups: int

    @property
    def is_marked(self) -> bool:
        """Whether the accuracy is optimistic."""
        return self.selected_on_reported or self.shared_groups > 0


@dataclass(frozen=True)
class Comparison:
    """Rows in order of rank, differences between the first and each other, and what that means in plain words.

    Attributes:
        rows: Cells, the best first.
        differences: Name of a row -> the first row against that one, on the same images.
        ranked_by: `selection`: the log loss on images that are not reported; `accuracy`: the one on the reported ones.
        split: The split that is reported.
        num_images: Number of reported images.
        num_groups: Number of groups that they are in; None: each image counts for itself.
        num_selection_images: Number of images that rank; None where the reported ones do.
        baseline: What always saying the largest class gets on the reported images.
        level: Coverage of the intervals.
        failed: Name of each cell that failed -> why it did.
        verdict: Sentences that say what the rows mean.
    """

    rows: tuple[Row, ...]
    differences: dict[str, Difference]
    ranked_by: RankedBy
    split: str
    num_images: int
    num_groups: int | None
    num_selection_images: int | None
    baseline: Baseline
    level: float
    failed: dict[str, str] = field(default_factory=dict)
    verdict: tuple[str, ...] = ()

    def to_dict(self, relative_to: Path | None = None) -> dict[str, Any]:
        """Return plain values for JSON; folders of runs relative to a folder where they lie in it."""
        rows = []
        for row in self.rows:
            folders = [_shown_path(path, relative_to) for path in row.runs]
            rows.append({**asdict(row), "runs": folders})
        differences = {}
        for name, difference in self.differences.items():
            differences[name] = {**asdict(difference), "is_significant": difference.is_significant}
        return {**asdict(self), "rows": rows, "differences": differences}

    def to_csv(self) -> str:
        """Return a line per row, best first; several values in a cell are separated by spaces."""
        return csv_text([self._csv_line(row) for row in self.rows])

    def _csv_line(self, row: Row) -> dict[str, Any]:
        """Return one line of the CSV file; what does not apply is empty."""
        several = ("accuracies", "seeds", "runs")
        flat = {key: value for key, value in vars(row).items() if key not in ("accuracy", *several)}

        flat |= {"accuracy": row.accuracy.value, "low": row.accuracy.low, "high": row.accuracy.high}
        difference = self.differences.get(row.name)
        flat["first_minus_this"] = getattr(difference, "difference", None)
        for key in ("low", "high", "p_value", "p_holm", "images_needed"):
            flat[f"first_minus_this_{key}"] = getattr(difference, key, None)

        for key in several:
            flat[key] = " ".join(map(str, getattr(row, key)))
        return flat


def compare(
    config: Config,
    *,
    strategies: Sequence[str] = (),
    backbones: Sequence[str] = (),
    vary: Mapping[str, Sequence[Any]] | None = None,
    seeds: int = 3,
    level: float = 0.95,
    progress: StudyProgress | None = None,
) -> Comparison:
    """Train every combination on the same images and seeds, and say which is best and how sure that is.

    `comparison.json` and `comparison.csv` are written beside the runs. What is finished in the folder is not run again.

    Args:
        config: Settings that all share. `out` is the folder of the study, `seed` the first seed. The settings are
            scored on images that are not reported unless `selection_score` is set to False.
        strategies: Names or YAML tables; default: the one of `config`.
        backbones: Default: the one of `config`.
        vary: Name of a setting -> its values.
        seeds: Number of seeds.
        level: Coverage of the intervals.
        progress: Shows how far the study is.

    Raises:
        HeadstartError: Settings or data are not usable (nothing was trained), or every cell failed.
    """
    if not config.data:
        raise ConfigError("no data given; name a folder of class folders, a manifest, a catalogue name, or run folders")
    if seeds < 1:
        raise ConfigError(f"seeds={seeds}: expected at least 1")
    if "selection_score" not in config.model_fields_set:
        config = config.model_copy(update={"selection_score": True})
    cells = make_cells(config, strategies=strategies or (config.strategy,), backbones=backbones, vary=vary)
    if len(cells) < 2:
        raise ConfigError(
            f"there is only {cells[0].name!r} to run, and nothing to compare it with; name several --strategies, "
            "several --backbones, or values of a setting such as --vary lr=1e-4,1e-3"
        )

    out = _study_folder(config.data, config.out)
    with sole_writer(out):
        failed: dict[str, str] = {}
        runs = run_cells(cells, range(config.seed, config.seed + seeds), out, progress=progress, failed=failed)
        if not runs:
            reasons = [f"{name}: {why}" for name, why in failed.items()]
            raise RunError(f"every cell failed: {'; '.join(reasons)}")
        comparison = with_failures(compare_runs(runs, level=level), failed)
        lines = write_comparison(comparison, out)
    for line in [f"runs, comparison.json and comparison.csv: {out}", *lines]:
        (progress or StudyProgress(None)).say(line)
    return comparison


def _study_folder(data: str, out: str | None) -> Path:
    """Return the folder of a study: the one that is named, or one that is called as the data is.

    Raises:
        ConfigError: It is a run, or lies in the data.
    """
    if out:
        folder = Path(out)
    else:
        images = Path(os.path.abspath(Path(data).expanduser()))
        folder = Path("runs") / f"compare-{folder_name_part(data_name(images))}"
    refuse_inside(folder, data, "--out")
    if locate(folder).is_run:
        raise ConfigError(f"{folder} is a run; name another folder for the study with --out")
    return folder


def write_comparison(comparison: Comparison, out: Path) -> list[str]:
    """Write `comparison.json` and `comparison.csv` into a folder.

    Returns:
        Lines for people: which comparison was there before, if it had other rows, and what to do next.
    """
    file = out / "comparison.json"
    old: list[str] = []
    with suppress(OSError, ValueError, LookupError, TypeError):  # none there, or a damaged one
        old = [str(row["name"]) for row in json.loads(file.read_bytes())["rows"]]
    make_parent(file)
    write_json(file, comparison.to_dict(relative_to=out))
    write_atomic(out / "comparison.csv", comparison.to_csv())
    lines = []
    if set(old) - {row.name for row in comparison.rows}:
        lines.append(
            f"note: this replaces the comparison of {listed(old)} in {out}. Their runs are still there. To compare "
            "them again, run: headstart compare RUN RUN ..."
        )
    runs = [str(row.runs[0]) for row in comparison.rows]
    return [*lines, f"next: {shlex.join(['headstart', 'report', *runs, '--comparison', str(file)])}"]


def with_failures(comparison: Comparison, failed: Mapping[str, str]) -> Comparison:
    """Return the comparison with the cells that are not in it, and why."""
    lines = [f"{name} failed and is left out: {why}." for name, why in failed.items()]
    return replace(comparison, failed=dict(failed), verdict=(*comparison.verdict, *lines))


def compare_runs(runs: Mapping[str, Sequence[Run]], *, level: float = 0.95) -> Comparison:
    """Compare finished runs of the same reported images.

    The rank follows from the mean log loss on images that are not reported, where all runs have it for the same images;
    else from the accuracy on the reported ones. Intervals and differences are those of `stats.compare`.

    Args:
        runs: Name of each cell -> its runs, one per seed.
        level: Coverage of the intervals.

    Raises:
        ConfigError: There is nothing to compare.
        RunError: A run is not finished or damaged.
        DataError: The runs report different images.
    """
    if not runs or not all(runs.values()):
        raise ConfigError("nothing to compare; give one finished run at least of everything that is named")
    reported: dict[str, list[Reported]] = {}
    for name, of_seeds in runs.items():
        reported[name] = [read_reported(run) for run in of_seeds]
    every = list(itertools.chain.from_iterable(reported.values()))
    first = every[0]
    for other in every:
        check_same_images(first, other)

    # A row for each cell, best first.
    groups = common_groups(every)
    correct: dict[str, npt.NDArray[np.bool_]] = {}
    rows = []
    for name, of_cell in reported.items():
        correct[name] = np.array([one.correct for one in of_cell])
        accuracy = accuracy_interval(correct[name], groups, level=level, seed=0)
        rows.append(_unranked_row(name, of_cell, accuracy))
    ranked_by = _ranked_by([one.metrics for one in every])
    rows.sort(key=lambda row: _sort_key(row, ranked_by))
    rows = [replace(row, rank=rank) for rank, row in enumerate(rows, start=1)]

    # The first against each other one.
    in_order = {row.name: correct[row.name] for row in rows}
    differences = compare_to_first(in_order, groups, level=level, is_chosen_here=ranked_by == "accuracy")

    labels = sorted(label for _, label in first.images)  # of equal classes the first by name is the baseline
    num_selection_images = None
    if ranked_by == "selection":
        num_selection_images = first.metrics["selection"]["num_images"]
    comparison = Comparison(
        rows=tuple(rows),
        differences=differences,
        ranked_by=ranked_by,
        split=first.metrics["split"],
        num_images=len(first.images),
        num_groups=_num_groups(groups),
        num_selection_images=num_selection_images,
        baseline=baseline_of(Counter(labels)),
        level=level,
    )
    return replace(comparison, verdict=tuple(_verdict(comparison)))


def _num_groups(groups: npt.NDArray[np.int64] | None) -> int | None:
    """Return how many groups there are, or None where each image is one."""
    if groups is None:
        return None
    count = len(np.unique(groups))
    return count if count < len(groups) else None


def _ranked_by(metrics: Sequence[Mapping[str, Any]]) -> RankedBy:
    """Say what all runs have in common to be ranked by."""
    sets_of_images = set()
    for each in metrics:
        if not each.get("selection"):
            return "accuracy"
        sets_of_images.add(each["selection"]["images_sha256"])
    return "selection" if len(sets_of_images) == 1 else "accuracy"


def _sort_key(row: Row, ranked_by: RankedBy) -> tuple[float, ...]:
    """Return what a row is sorted by: the best and fastest has the least."""
    if ranked_by == "selection":
        assert row.selection_log_loss is not None
        assert row.selection_accuracy is not None
        return (row.selection_log_loss, -row.selection_accuracy, row.seconds)
    return (-row.accuracy.value, row.seconds)


def _unranked_row(name: str, reported: Sequence[Reported], accuracy: Interval) -> Row:
    """Put the runs of a cell into one row; its rank is not known yet."""
    metrics = [one.metrics for one in reported]
    scores = [each.get("selection") or {} for each in metrics]
    peaks = [each["peak_memory_mb"] for each in metrics if each.get("peak_memory_mb") is not None]
    return Row(
        rank=0,
        name=name,
        strategy=metrics[0]["strategy"],
        backbone=metrics[0]["backbone"],
        runs=tuple(one.run.path for one in reported),
        seeds=tuple(each["seed"] for each in metrics),
        accuracy=accuracy,
        accuracies=tuple(float(one.correct.mean()) for one in reported),
        balanced_accuracy=_mean_of_all(each.get("balanced_accuracy") for each in metrics),
        selection_log_loss=_mean_of_all(score.get("log_loss") for score in scores),
        selection_accuracy=_mean_of_all(score.get("accuracy") for score in scores),
        seconds=fmean([_seconds(each) for each in metrics]),
        trainable_parameters=max(each["trainable_parameters"] for each in metrics),
        peak_memory_mb=min(peaks) if peaks else None,
        selected_on_reported=any(each["selected_on_reported"] for each in metrics),
        shared_groups=max(each.get("shared_groups", 0) for each in metrics),
    )


def _mean_of_all(values: Iterable[float | None]) -> float | None:
    """Return the mean, or None where a run does not know its value."""
    known = []
    for value in values:
        if value is None:
            return None
        known.append(value)
    return fmean(known)


def _seconds(metrics: Mapping[str, Any]) -> float:
    """Return what the run took without the fit that only scores."""
    total = metrics["time_s"]["total"]
    scoring = metrics.get("selection", {}).get("time_s", 0.0)
    return round(max(0.0, float(total) - float(scoring)), 2)


def _verdict(comparison: Comparison) -> list[str]:
    """Say in sentences what the rows mean."""
    first, *others = comparison.rows
    lines = [_ranking_line(comparison), _first_line(comparison), _baseline_line(comparison)]
    for row in others:
        lines.append(difference_sentence(first.name, row.name, comparison.differences[row.name]))
    lines += _cheaper_lines(comparison)
    lines += _optimistic_lines(comparison.rows)
    lines += _seed_lines(comparison.rows)
    return lines


def _first_line(comparison: Comparison) -> str:
    """Say which is first, and how good it is."""
    first = comparison.rows[0]
    num_seeds = len(first.seeds)
    seeds = "one seed" if num_seeds == 1 else f"mean of {num_seeds} seeds"
    images = f"{comparison.num_images} {comparison.split} images"
    return f"First is {first.name}: accuracy {first.accuracy} on {images}, {seeds}."


def _cheaper_lines(comparison: Comparison) -> list[str]:
    """Name the fastest of those that may be as good as the first, where it is clearly faster."""
    first, *others = comparison.rows
    cheaper = []
    for row in others:
        is_alike = not comparison.differences[row.name].is_significant
        if is_alike and row.seconds < first.seconds / _CLEARLY_FASTER:
            cheaper.append(row)
    if not cheaper:
        return []
    best = min(cheaper, key=lambda row: row.seconds)
    return [
        f"Of those that cannot be told apart from {first.name}, {best.name} was the fastest: "
        f"{duration(best.seconds)} a run instead of {duration(first.seconds)}."
    ]


def _optimistic_lines(rows: Sequence[Row]) -> list[str]:
    """Name the rows whose accuracy is better than it would be on new images, and why."""
    lines = []
    marked = [row.name for row in rows if row.selected_on_reported]
    if marked:
        lines.append(
            f"The reported images chose the epoch of {listed(marked, 3)} (select_on=reported). "
            "That accuracy is optimistic."
        )
    shared = [row.name for row in rows if row.shared_groups]
    if shared:
        lines.append(
            f"Groups of the reported images are in other splits too, in the runs of {listed(shared, 3)} (leaks=keep). "
            "That accuracy is optimistic."
        )
    return lines


def _seed_lines(rows: Sequence[Row]) -> list[str]:
    """Say where there are too few seeds."""
    fewest = min(len(row.seeds) for row in rows)
    if fewest == 1:
        return ["With one seed nothing is known about how much seeds differ; more seeds would tell."]
    if fewest == 2:
        return ["Two seeds say little about how much seeds differ, so intervals are wide; a third would tell more."]
    return []


def _baseline_line(comparison: Comparison) -> str:
    """Say what the simplest answer gets, and which rows do no better."""
    simplest = str(comparison.baseline)
    line = f"{simplest[:1].upper()}{simplest[1:]} on these images"
    no_better = [row.name for row in comparison.rows if row.accuracy.low <= comparison.baseline.accuracy]
    if no_better:
        are = "is" if len(no_better) == 1 else "are"
        line += f"; {listed(no_better, 3)} {are} not clearly better"
    return f"{line}."


def _ranking_line(comparison: Comparison) -> str:
    """Say what the order follows from."""
    if comparison.ranked_by == "selection":
        return (
            f"Ranked by log loss on {comparison.num_selection_images} images that are not reported (lower is better); "
            f"the {comparison.num_images} {comparison.split} images do not affect the order."
        )
    return (
        "Ranked by accuracy on the reported images: these runs have no common score on other images. The accuracy of "
        "the first is therefore optimistic. To rank on images that are not reported, run: headstart compare DATA"
    )


def _shown_path(path: Path, base: Path | None) -> str:
    """Return a path relative to a folder where it lies in it."""
    if base is not None and path.resolve().is_relative_to(base.resolve()):
        return path.resolve().relative_to(base.resolve()).as_posix()
    return str(path)
