"""The first thing a newcomer sees: two strategies on pictures that need no download."""

import time
from collections.abc import Callable
from pathlib import Path

from headstart.config import make_config
from headstart.data.catalog import resolve
from headstart.experiment import run, show_data
from headstart.inference.predict import load
from headstart.runs import Run
from headstart.stats.compare import compare_by_image, sentence
from headstart.training.observers import terminal_progress
from headstart.types import Interval

# Small pictures keep the demo under two minutes on two cores; both strategies see the same.
SETTINGS = {"image_size": 128, "epochs": 4, "monitor": False}
STRATEGIES = ("scratch", "head")


def run_demo(out: Path, echo: Callable[[str], None]) -> dict[str, Run]:
    """Train `scratch` and `head` on `snacks`, compare them, write a contact sheet and classify a few pictures.

    Args:
        out: Folder for the runs and the contact sheet; earlier demos in it are replaced.
        echo: Receives the lines.

    Returns:
        The two runs by strategy.
    """
    started = time.monotonic()
    echo("Hot dog or not? The pictures are drawn by Headstart itself, so nothing is downloaded.")
    folder = resolve("snacks")
    sheet = out / "demo-contact-sheet.png"
    show_data(make_config({"data": str(folder)}), sheet)
    echo(f"contact sheet: {sheet}\n")
    runs = {}
    for strategy in STRATEGIES:
        echo(f"training '{strategy}' ...")
        config = {**SETTINGS, "data": str(folder), "strategy": strategy, "out": str(out / f"demo-{strategy}")}
        runs[strategy] = run(make_config(config), overwrite=True, say=echo, make_observer=terminal_progress)
    echo("")
    for strategy in STRATEGIES:
        metrics = runs[strategy].metrics()
        accuracy, seconds = Interval(**metrics["accuracy"]), metrics["time_s"]["total"]
        trained = f"{metrics['trainable_parameters']:,} parameters trained"
        echo(f"{strategy:8} accuracy {accuracy} on {metrics['num_images']} test images, {trained}, {seconds:.0f} s")
    comparison = compare_by_image(runs["head"].correct_by_image(), runs["scratch"].correct_by_image())
    echo(sentence(comparison, "head", "scratch"))
    echo("\na few predictions of 'head':")
    _show_predictions(runs["head"], folder, echo)
    echo(f"\ndone in {time.monotonic() - started:.0f} s; run folders: {out}/demo-scratch, {out}/demo-head")
    echo("Now with your own pictures, a folder that holds one folder per class:")
    echo("    headstart train FOLDER")
    return runs


def _show_predictions(trained: Run, folder: Path, echo: Callable[[str], None]) -> None:
    pictures = [sorted(each.iterdir())[i] for each in sorted((folder / "test").iterdir()) for i in (0, 1)]
    for prediction in load(trained.path).predict(pictures):
        picture = Path(prediction.path or "")
        echo(f"  {picture.parent.name}/{picture.name}: {prediction.label} ({prediction.probability:.3f})")
