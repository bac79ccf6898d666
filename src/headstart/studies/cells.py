"""The cells of a study, run with the same images, splits and seeds each, in folders that can be resumed."""

import itertools
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headstart import runs
from headstart.config import Config
from headstart.data.manifest import Manifest, read_manifest
from headstart.errors import ConfigError, DataError, HeadstartError, ModelError, PlanError, RunError
from headstart.experiment.reading import Reading
from headstart.runs import Run
from headstart.studies.progress import StudyProgress

if TYPE_CHECKING:
    from headstart.experiment.experiment import Experiment
    from headstart.resolved import Resolved

# What decides which images train, select and are reported: the same for all cells.
OF_THE_DATA = (
    "data", "layout", "map", "exclude", "max_per_class", "test_fraction", "validation_fraction", "split_seed", "leaks",
    "skip_bad",
)  # fmt: skip
# Settings in which two runs may differ and still be of one cell; images are compared by content, not by path.
_ASIDE = {"seed", "out", "repeat", "threads", "monitor", "log", "cache", "data", "selection_score", "keep_checkpoints"}


@dataclass(frozen=True)
class Cell:
    """Settings that are run with several seeds.

    Attributes:
        name: Name of the cell in tables: `full`, `full, lr=1e-4` or `lite1: head`.
        config: The settings; the seed and the folder are those of each run.
    """

    name: str
    config: Config

    @property
    def slug(self) -> str:
        """Name of its folder."""
        return re.sub(r"[^\w.]+", "-", self.name).strip("-._") or "cell"

    def folder(self, out: Path, seed: int) -> Path:
        """Return where it is run with a seed, in the folder of a study."""
        return out / self.slug / f"seed{seed}"


@dataclass(frozen=True)
class _Job:
    """One run of a study."""

    cell: Cell
    seed: int
    path: Path

    @property
    def title(self) -> str:
        """What lines about it begin with."""
        return f"{self.cell.name}, seed {self.seed}"

    @property
    def has_begun(self) -> bool:
        """Whether its folder holds a run, finished or not."""
        return runs.locate(self.path).is_run


def run_cells(
    cells: Sequence[Cell],
    seeds: Sequence[int],
    out: Path,
    *,
    progress: StudyProgress | None = None,
    failed: dict[str, str] | None = None,
) -> dict[str, tuple[Run, ...]]:
    """Run every cell with every seed, one seed of all cells after the other, into `out/<slug>/seed<k>`.

    What is finished there with the same settings and images is not run again, what was interrupted is resumed. All
    settings are checked before anything trains. What the data is, and what frozen parts compute, is shared. A cell that
    fails leaves the others alone.

    Args:
        cells: Cells to run.
        seeds: Seeds that each cell is run with.
        out: Folder of the study.
        progress: Shows how far the study is and receives notes; default: nothing is shown.
        failed: Receives the name of each cell that failed, and why; None: failures are raised once the others are done.

    Returns:
        Name of each cell that did not fail -> its runs, in the order of the seeds.

    Raises:
        HeadstartError: Settings, data or a folder of any cell is not usable; nothing was trained.
        RunError: A cell failed, and `failed` is None.
    """
    progress = progress or StudyProgress(None)
    problems = {} if failed is None else failed
    _check_study(cells, seeds, out)
    jobs = []
    for seed, cell in itertools.product(seeds, cells):
        jobs.append(_Job(cell, seed, cell.folder(out, seed)))
    for job in jobs:
        _check_folder(job)

    with progress, Reading(cells[0].config, progress.of_run()) as reading:
        work = _prepare_cells(jobs, reading, problems)
        # Small ones first: a process keeps some of the memory that a run needed, which then counts as the next one's.
        jobs.sort(key=lambda job: (seeds.index(job.seed), work.get(job.cell.name, 0.0)))
        progress.plan([(job.cell.name, work.get(job.cell.name, 0.0)) for job in jobs])
        for job in jobs:
            if job.cell.name in problems:
                progress.skip(job.cell.name)
            else:
                _attempt(job, jobs, reading, progress, problems)
    if problems and failed is None:
        reasons = [f"{name} failed: {why}" for name, why in problems.items()]
        raise RunError("; ".join(reasons))

    found = {}
    for cell in cells:
        if cell.name not in problems:
            found[cell.name] = tuple(runs.open_run(cell.folder(out, seed)) for seed in seeds)
    return found


def settings_key(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of a run's settings that two runs of one cell share, as plain values."""
    return {key: value for key, value in settings.items() if key not in _ASIDE}


def images_key(manifest: Manifest) -> set[tuple[str, str, str]]:
    """Return (SHA-256, class, split) of every image."""
    return {(record.sha256, manifest.labels[record.label], record.split) for record in manifest.records}


def _check_study(cells: Sequence[Cell], seeds: Sequence[int], out: Path) -> None:
    """Refuse cells that cannot be run side by side, before anything is read."""
    if not cells or not seeds:
        raise ConfigError("nothing to run; give one cell and one seed at least")
    slugs = [cell.slug for cell in cells]
    for cell in cells:
        if slugs.count(cell.slug) > 1:
            raise ConfigError(f"two cells would share the folder of {cell.name!r}; give them names that differ")
    if len(set(seeds)) < len(seeds):
        raise ConfigError(f"seeds {list(seeds)} are not all different")
    for field in OF_THE_DATA:
        values = {str(getattr(cell.config, field)) for cell in cells}
        if len(values) > 1:
            raise ConfigError(f"{field} differs between cells ({', '.join(sorted(values))}); expected the same images")
    from headstart.devices import pick_device
    from headstart.experiment.settings import strategy_of

    for cell in cells:
        strategy_of(cell.config)
        pick_device(cell.config.device)
        runs.refuse_inside(out, cell.config.data, "--out")


def _check_folder(job: _Job) -> None:
    """Refuse a folder that holds something else than this run."""
    if not job.has_begun:
        runs.check_out_folder(job.path, overwrite=False)
        return
    from headstart.experiment.resolve import decide

    run = Run(job.path)
    config = job.cell.config
    resolved = decide(config, read_manifest(job.path / runs.MANIFEST).labels)
    here = settings_key(runs.settings_with_decisions(config.asked(), resolved))
    there = settings_key(run.settings())
    if not resolved.batch_size:  # found by timing
        here.pop("batch_size")
    others = []
    for key, value in here.items():
        if there[key] != value:
            others.append(f"{key}={there[key]} (here {value})")
    if config.selection_score and not run.config().selection_score:
        others.append("selection_score=False (here True)")
    if others:
        raise RunError(
            f"{job.path} holds a run with other settings: {', '.join(others)}; choose another --out, or remove it"
        )


def _prepare_cells(jobs: Sequence[_Job], reading: Reading, problems: dict[str, str]) -> dict[str, float]:
    """Check all that can be checked before training.

    Returns:
        Name of each cell with something to run -> a guess of the work of a run, in any unit.
    """
    from headstart.experiment.experiment import Experiment

    for job in jobs:
        if job.has_begun:
            _check_images(job.path, reading.result()[0])
    to_run = {job.cell.name: job.cell.config for job in jobs if not Run(job.path).is_finished}
    work = {}
    for name, config in to_run.items():
        try:
            work[name] = _guessed_work(Experiment.prepare(config, reading=reading))
        except PlanError as error:  # a strategy that does not fit this network; with another one it may
            problems[name] = str(error)
        except (ConfigError, ModelError) as error:
            raise type(error)(f"{name}: {error}") from error
    return work


def _check_images(path: Path, manifest: Manifest) -> None:
    """Refuse a run that was made with other images."""
    there = images_key(read_manifest(path / runs.MANIFEST))
    here = images_key(manifest)
    if there != here:
        raise DataError(
            f"{path} was made with other images, labels or splits: {len(there - here)} of its {len(there)} are not in "
            f"the data now, and {len(here - there)} are new; choose another --out, or remove it"
        )


def _guessed_work(experiment: "Experiment") -> float:
    """Guess the relative cost of a run: a forward pass below the boundary once, three of them above it per epoch."""
    from headstart.training.plan import resolve

    model = experiment.model
    total = 1.0
    for phase in experiment.plan.phases:
        boundary = resolve(phase, model.network, model.stages).boundary
        total += 0.1 + 3 * phase.epochs_to_run * (1 - boundary / len(model.stages))
    return total


def _attempt(
    job: _Job, jobs: Sequence[_Job], reading: Reading, progress: StudyProgress, problems: dict[str, str]
) -> None:
    """Do one run; where it fails, note why, so that the other cells go on."""
    try:
        _run_unless_finished(job, jobs, reading, progress)
    except KeyboardInterrupt as interrupt:
        interrupt.add_note("the same command goes on: what is finished is not run again")
        raise
    except Exception as error:  # whatever it is
        problems[job.cell.name] = f"seed {job.seed}: {_one_line(error)}"
        progress.say(f"{job.title} failed: {_one_line(error)}; the others go on")
        progress.skip(job.cell.name)


def _run_unless_finished(job: _Job, jobs: Sequence[_Job], reading: Reading, progress: StudyProgress) -> None:
    """Run, resume or skip one run."""
    run = Run(job.path)
    if not run.is_finished:
        progress.begin(job.title)
        started = time.monotonic()
        _train_or_resume(job, jobs, reading, progress)
        seconds = time.monotonic() - started
        progress.say(f"{job.title}: {_result_text(run.metrics())}, {seconds:.0f} s")
    progress.end(job.cell.name, run.metrics()["time_s"]["total"])


def _result_text(metrics: Mapping[str, Any]) -> str:
    """Say how good a run is, in a few words."""
    accuracy = f"accuracy {metrics['accuracy']['value']:.3f}"
    if "selection" not in metrics:
        return accuracy
    return f"{accuracy}, selection log loss {metrics['selection']['log_loss']:.3f}"


def _train_or_resume(job: _Job, jobs: Sequence[_Job], reading: Reading, progress: StudyProgress) -> None:
    """Train, or go on with what was interrupted."""
    from headstart import experiment

    if job.has_begun:
        experiment.resume(job.path, display=progress.of_run())
    else:
        config = job.cell.config.model_copy(update={"seed": job.seed, "out": str(job.path)})
        timed = _decided_for_another_seed(job, jobs)
        experiment.train(config, display=progress.of_run(), reading=reading, timed=timed)


def _decided_for_another_seed(job: _Job, jobs: Sequence[_Job]) -> "Resolved | None":
    """Return what the first run of the same cell decided, or None where none has begun."""
    for other in jobs:
        if other.cell == job.cell and other.has_begun:
            return Run(other.path).resolved()
    return None


def _one_line(error: Exception) -> str:
    """Say what went wrong, in one line."""
    text = " ".join(str(error).split())
    if isinstance(error, HeadstartError):
        return text
    return f"unexpected {type(error).__name__}: {text}"
