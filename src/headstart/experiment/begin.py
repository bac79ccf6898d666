"""Begin a run from settings, or go on with one that was interrupted."""

import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from headstart import runs
from headstart.config import Config
from headstart.data.checks import change_of
from headstart.data.manifest import Manifest, read_manifest
from headstart.display import Display
from headstart.errors import RunError
from headstart.experiment import record
from headstart.experiment.experiment import Experiment
from headstart.experiment.reading import Reading
from headstart.experiment.session import Session
from headstart.experiment.time_limit import within_time_limit
from headstart.resolved import Resolved
from headstart.runs import Run
from headstart.training.consumers import require_tensorboard


@contextmanager
def own_random_numbers() -> Iterator[None]:
    """Within the block, the global generators of torch may be seeded; after it they go on as if it had not been."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        yield


def train_new(
    config: Config,
    reading: Reading,
    display: Display,
    *,
    overwrite: bool = False,
    timed: Resolved | None = None,
) -> Run:
    """Do one run from settings to a finished run folder; see `headstart.experiment.train`."""
    started = time.monotonic()
    if config.log == "tensorboard":
        require_tensorboard()
    if config.out:
        _refuse_bad_out(Path(config.out), config.data, overwrite)

    # Decide all that is open, and refuse what cannot be trained, before anything is written.
    experiment = Experiment.prepare(config, display=display, reading=reading, timed=timed)
    if config.out:
        out = Path(config.out)
    else:
        strategy = experiment.resolved.strategy
        out = runs.default_run_path(experiment.manifest.name, config.backbone, strategy, config.seed)
    _refuse_bad_out(out, config.data, overwrite)
    for line in experiment.notes:
        display.note(line)
    data_s = time.monotonic() - started

    memory = experiment.memory()
    display.say(memory.line)
    if memory.warning:
        display.note(memory.warning)
    experiment = within_time_limit(experiment, started)

    with runs.sole_writer(out):
        run = record.create(experiment, out, overwrite=overwrite)
        display.begin_run(run.path)
        return _finished(Session(experiment, run, started, data_s))


def resume(path: Path, display: Display) -> Run:
    """Finish a run that was interrupted; see `headstart.experiment.resume`."""
    run = runs.open_run(path)
    with runs.sole_writer(run.path):
        return _resume_alone(run, display)


def _resume_alone(run: Run, display: Display) -> Run:
    """Finish a run to which no other process writes meanwhile."""
    started = time.monotonic()
    if run.is_finished:
        display.say(f"{run.path} is already complete; nothing was done")
        return run
    if run.is_of_version_0_1:
        raise RunError(f"{run.path} was begun by version 0.1, and this one cannot go on with it; train again")
    config = run.config()
    resolved = run.resolved()
    manifest = read_manifest(run.path / runs.MANIFEST)
    _refuse_changed_images(manifest)
    experiment = Experiment.of_run(config, resolved, manifest, display=display)
    display.say(f"resuming {run.path}")
    data_s = time.monotonic() - started
    return _finished(Session(experiment, run, started, data_s))


def _finished(session: Session) -> Run:
    """Finish a run; where somebody interrupts that, the exception says how to go on."""
    try:
        return session.finish()
    except KeyboardInterrupt as interrupt:
        run = session.run
        if not run.is_finished:
            command = shlex.join(["headstart", "train", "--resume", str(run.path)])
            interrupt.add_note(f"go on with: {command}")
        raise


def _refuse_bad_out(out: Path, data: str, overwrite: bool) -> None:
    """Refuse a run folder that lies among the user's images, or is occupied and may not be replaced."""
    runs.refuse_inside(out, data, "--out")
    runs.check_out_folder(out, overwrite)


def _refuse_changed_images(manifest: Manifest) -> None:
    """Refuse to go on with images that are gone or are not what they were."""
    for image in manifest.records:
        change = change_of(manifest.source, image)
        if change:
            raise RunError(f"{image.key} {change} since the run began, so it cannot be resumed; start a new run")
