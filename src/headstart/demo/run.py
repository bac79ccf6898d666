"""The first thing a newcomer sees: two strategies on pictures that need no download."""

import time
from collections.abc import Callable
from pathlib import Path

from headstart.config import make_config
from headstart.data.catalog import data_set_folder
from headstart.display import Display
from headstart.experiment import train
from headstart.experiment.sheet import show_data
from headstart.inference.predict import load
from headstart.runs import Run
from headstart.studies.compare import compare_runs
from headstart.tables import print_comparison

# Small pictures keep the demo under two minutes on two cores; both strategies see the same.
SETTINGS = {"image_size": 128, "epochs": 4, "monitor": False}
STRATEGIES = ("scratch", "head")


def run_demo(out: Path, echo: Callable[[str], None], display: Display) -> dict[str, Run]:
    """Train `scratch` and `head` on `snacks`, compare them, write a contact sheet and classify a few pictures.

    Args:
        out: Folder for the runs and the contact sheet; earlier demos in it are replaced.
        echo: Called with each line to print.
        display: Told what goes on.

    Returns:
        The two runs by strategy.
    """
    started = time.monotonic()
    echo("Hot dog or not? The pictures are drawn by Headstart itself, so nothing is downloaded.")
    folder = data_set_folder("snacks", display.progress)
    sheet = out / "demo-contact-sheet.png"
    show_data(make_config({"data": str(folder)}), sheet)
    echo(f"contact sheet: {sheet}\n")
    runs = {}
    for strategy in STRATEGIES:
        echo(f"training '{strategy}' ...")
        config = {**SETTINGS, "data": str(folder), "strategy": strategy, "out": str(out / f"demo-{strategy}")}
        runs[strategy] = train(make_config(config), overwrite=True, display=display)
    echo("")
    compared = {name: [run] for name, run in runs.items()}
    print_comparison(compare_runs(compared))
    echo("\na few predictions of 'head':")
    _show_predictions(runs["head"], folder, echo)
    echo(f"\ndone in {time.monotonic() - started:.0f} s; run folders: {out}/demo-scratch, {out}/demo-head")
    echo("Now with your own pictures, a folder that holds one folder per class:")
    echo("    headstart train FOLDER")
    return runs


def _show_predictions(trained: Run, folder: Path, echo: Callable[[str], None]) -> None:
    """Classify two pictures of each class, and print what the model says of them."""
    pictures: list[Path] = []
    for each in sorted((folder / "test").iterdir()):
        pictures += sorted(each.iterdir())[:2]
    for prediction in load(trained.path).predict(pictures):
        picture = Path(prediction.path or "")
        echo(f"  {picture.parent.name}/{picture.name}: {prediction.label} ({prediction.probability:.3f})")
