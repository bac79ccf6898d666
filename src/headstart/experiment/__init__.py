"""From settings to a finished run: the only place where data, model, plan and engine meet.

Importing this package loads no torch; what needs it is imported while the data is being read.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from headstart.config import Config, make_config
from headstart.display import Display, make_display
from headstart.experiment.reading import Reading
from headstart.machine import freed_memory_kept
from headstart.runs import Run

if TYPE_CHECKING:
    from headstart.resolved import Resolved


def fit(data: str | Path, *, overwrite: bool = False, display: Display | None = None, **settings: Any) -> Run:
    """Fine-tune a classifier on a folder of labelled images.

    Args:
        data: Folder of class folders (with or without splits), CSV or parquet manifest, or catalogue name.
        overwrite: Whether an existing run folder may be replaced.
        display: Told what goes on; default: progress and notes are shown, in a notebook and a log as plain lines.
            `headstart.display.Display()` shows nothing.
        **settings: Any field of `headstart.Config`, such as `strategy="full"`, `epochs=5`, `seed=1`, `out="runs/a"`.

    Returns:
        The finished run: `run.metrics()`, `run.path`; `headstart.load(run.path)` gives the classifier.

    Raises:
        HeadstartError: An input or a setting is not usable; the message says what to do.
    """
    return train(make_config({**settings, "data": data}), overwrite=overwrite, display=display or make_display())


def train(
    config: Config,
    *,
    overwrite: bool = False,
    display: Display | None = None,
    reading: Reading | None = None,
    timed: "Resolved | None" = None,
) -> Run:
    """Do one run from settings to a finished run folder.

    Args:
        config: Settings.
        overwrite: Whether an existing run folder may be replaced.
        display: Told what goes on; default: nothing is shown.
        reading: The data, if it is being read already.
        timed: What was decided for another seed, whose timing is taken over.

    Raises:
        HeadstartError: An input is not usable (no folder is left behind), or training cannot go on.
    """
    display = display or Display()
    own = reading or Reading(config, display)
    try:
        from headstart.experiment import begin

        with freed_memory_kept(), begin.own_random_numbers():
            return begin.train_new(config, own, display, overwrite=overwrite, timed=timed)
    finally:
        if reading is None:
            own.stop()


def resume(path: Path, *, display: Display | None = None) -> Run:
    """Finish a run that was interrupted; its weights come out as if it had not been.

    Raises:
        RunError: The folder is no run, or its images have changed.
    """
    from headstart.experiment import begin

    with freed_memory_kept(), begin.own_random_numbers():
        return begin.resume(path, display or Display())
