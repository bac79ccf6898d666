"""From settings to a finished run: the only place where data, model, plan and engine meet.

Importing this package loads no torch; what needs it is imported while the data is being read.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from headstart.config import Config, make_config
from headstart.experiment.reading import DataProgress, Reading
from headstart.runs import Run

if TYPE_CHECKING:
    from headstart.experiment.session import MakeObserver, Say


def fit(data: str | Path, *, overwrite: bool = False, **settings: Any) -> Run:
    """Fine-tune a classifier on a folder of labelled images.

    Args:
        data: Folder of class folders (with or without splits), CSV or parquet manifest, or catalogue name.
        overwrite: Whether an existing run folder may be replaced.
        **settings: Any field of `headstart.Config`, such as `strategy="full"`, `epochs=5`, `seed=1`, `out="runs/a"`.

    Returns:
        The finished run: `run.metrics()`, `run.path`; `headstart.load(run.path)` gives the classifier.

    Raises:
        HeadstartError: An input or a setting is not usable; the message says what to do.
    """
    return run(make_config({**settings, "data": str(data)}), overwrite=overwrite)


def run(
    config: Config,
    *,
    overwrite: bool = False,
    say: "Say | None" = None,
    make_observer: "MakeObserver | None" = None,
    progress: DataProgress | None = None,
) -> Run:
    """Do one run from settings to a finished run folder.

    Args:
        config: Settings.
        overwrite: Whether an existing run folder may be replaced.
        say: Receives lines for people.
        make_observer: Makes what watches a fit, from its title.
        progress: Told how far the checks of the data are.

    Raises:
        HeadstartError: An input is not usable (no folder is left behind), or training cannot go on.
    """
    with Reading(config, progress) as reading:
        from headstart.experiment import session

        return session.run(
            config,
            reading,
            overwrite=overwrite,
            say=say or session.say_nothing,
            make_observer=make_observer or session.watch_nothing,
            progress=progress,
        )
