"""What finished runs report: which images, in which groups, and whether each was right. Loads no torch."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from headstart.data.manifest import group_numbers, read_manifest
from headstart.data.predictions import read_predictions, reported_records
from headstart.errors import DataError, RunError
from headstart.runs import MANIFEST, Run, open_run
from headstart.studies.cells import images_key, settings_key

_NEEDED = ("split", "strategy", "backbone", "seed", "selected_on_reported", "trainable_parameters", "time_s")


@dataclass(frozen=True, eq=False)
class Reported:
    """The reported images of a run, in an order that does not depend on where they lie.

    Attributes:
        run: The run.
        metrics: Content of the run's metrics.json.
        images: (SHA-256, or the key where there is none; class) of each image, sorted.
        paths: Key of each of these images.
        groups: Group of each of these images; None: an image for itself.
        correct: Whether the prediction was right, `(N,)`.
    """

    run: Run
    metrics: dict[str, Any]
    images: list[tuple[str, str]]
    paths: list[str]
    groups: list[str | None]
    correct: npt.NDArray[np.bool_]


def read_reported(run: Run) -> Reported:
    """Read the reported images of a run.

    Raises:
        RunError: It is not finished, or damaged.
    """
    metrics = run.metrics()
    missing = [key for key in _NEEDED if key not in metrics]
    if missing:
        raise RunError(f"{run.path}/metrics.json has no {', '.join(missing)}; train again with --overwrite")
    manifest = read_manifest(run.path / MANIFEST)
    found = read_predictions(run, manifest)
    records = reported_records(run, manifest)
    images = [(record.sha256 or record.key, manifest.labels[record.label]) for record in records]
    order = sorted(range(len(images)), key=images.__getitem__)
    return Reported(
        run=run,
        metrics=metrics,
        images=[images[i] for i in order],
        paths=[records[i].key for i in order],
        groups=[records[i].group for i in order],
        correct=found.is_correct[order],
    )


def check_same_images(first: Reported, other: Reported) -> None:
    """Compare by content and class.

    Raises:
        DataError: They differ; the message says how many and names one.
    """
    here = Counter(first.images)
    there = Counter(other.images)
    only_here = here - there
    only_there = there - here
    if not only_here and not only_there:
        return

    # An example, and how many are one picture with two classes.
    owner = first if only_here else other
    missing = only_here or only_there
    paths = [path for path, image in zip(owner.paths, owner.images, strict=True) if image in missing]
    contents_here = {content for content, _ in only_here}
    contents_there = {content for content, _ in only_there}
    num_relabelled = len(contents_here & contents_there)
    labels = ""
    if num_relabelled:
        labels = f" ({num_relabelled} of them the same picture with another class)"
    raise DataError(
        f"the reported images differ: {first.run.path} reports {len(first.images)} and {other.run.path} "
        f"{len(other.images)}; {only_here.total()} are in the first alone and {only_there.total()} in the second"
        f"{labels}, such as {paths[0]}; compare runs with the same data, split_seed and max_per_class"
    )


def common_groups(reported: Iterable[Reported]) -> npt.NDArray[np.int64] | None:
    """Return a number per image, `(N,)`, equal within a group; None where no run knows of groups.

    Runs of the same images may know different groups: one was trained from a folder, another from a table with patients
    or bursts. Images that any of the runs puts into one group are in one, and so are those that a chain of such links.
    """
    numbers: npt.NDArray[np.int64] | None = None
    for one in reported:
        if not any(one.groups):
            continue
        found = np.array(group_numbers(one.groups), dtype=np.int64)
        numbers = found if numbers is None else _joined_groups(numbers, found)
    return numbers


def _joined_groups(numbers: npt.NDArray[np.int64], others: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the finest grouping in which whatever is together in either of two is together."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    # A graph between the groups of both; each image is an edge.
    num_first = int(numbers.max()) + 1
    size = num_first + int(others.max()) + 1
    edges = coo_array((np.ones(len(numbers)), (numbers, num_first + others)), shape=(size, size))
    component = connected_components(edges, directed=False)[1]
    return np.asarray(component[numbers], dtype=np.int64)


def group_runs(paths: Sequence[str | Path]) -> dict[str, tuple[Run, ...]]:
    """Open run folders and put those into one cell that differ in nothing but the seed.

    Names are made of the strategy and, as far as needed to tell cells apart, the backbone and the settings that differ.

    Raises:
        RunError: A folder is no finished run, or is named twice.
    """
    opened = [open_run(path) for path in paths]
    folders = Counter(run.path.resolve() for run in opened)
    for run in opened:
        if folders[run.path.resolve()] > 1:
            raise RunError(f"{run.path} is named twice; name each run once")

    # Runs with the same settings and images, one per seed.
    cells: dict[str, list[Run]] = {}
    for run in opened:
        settings = sorted(settings_key(run.settings()).items())
        images = sorted(images_key(read_manifest(run.path / MANIFEST)))
        cells.setdefault(repr([settings, images]), []).append(run)

    grouped: list[tuple[Run, ...]] = []
    for each in cells.values():
        each.sort(key=lambda run: run.config().seed)
        seeds = {run.config().seed for run in each}
        if len(seeds) == len(each):
            grouped.append(tuple(each))
        else:  # the same seed twice: each run is compared by itself
            grouped += [(run,) for run in each]
    return dict(zip(_cell_names(grouped), grouped, strict=True))


def _cell_names(cells: Sequence[Sequence[Run]]) -> list[str]:
    """Name each cell by its strategy, and what tells it apart from the others."""
    settings = [settings_key(each[0].settings()) for each in cells]
    names = [str(key["strategy"]) for key in settings]
    if len({key["backbone"] for key in settings}) > 1:
        names = [f"{key['backbone']}: {key['strategy']}" for key in settings]

    # Of those with one name, the settings that differ are told too.
    with_name: dict[str, list[Mapping[str, Any]]] = {}
    for name, key in zip(names, settings, strict=True):
        with_name.setdefault(name, []).append(key)
    titles = []
    for name, key in zip(names, settings, strict=True):
        titles.append(", ".join([name, *_differing(key, with_name[name])]))

    # Where settings do not tell them apart, the folder does.
    unique = []
    for title, runs in zip(titles, cells, strict=True):
        is_unique = titles.count(title) == 1
        unique.append(title if is_unique else f"{title} ({runs[0].path})")
    return unique


def _differing(key: Mapping[str, Any], others: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return `setting=value` for each setting in which any of the others differs."""
    parts = []
    for field, value in key.items():
        if any(other[field] != value for other in others):
            parts.append(f"{field}={value}")
    return parts
