"""From settings to a finished run: the only place where data, model, plan and engine meet."""

from pathlib import Path
from typing import Any

from headstart.config import make_config
from headstart.experiment.prepare import Prepared, prepare
from headstart.experiment.session import resume, run
from headstart.experiment.tools import evaluate_folder, find_learning_rate, show_data
from headstart.runs import Run

__all__ = ["Prepared", "evaluate_folder", "find_learning_rate", "fit", "prepare", "resume", "run", "show_data"]


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
