"""Commands that train, or say what training would do."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headstart.cli.settings import with_settings
from headstart.cli.shared import DataArgument, OverwriteOption, app, check_format, echo, refuse_existing, terminal
from headstart.errors import ConfigError

if TYPE_CHECKING:
    from headstart.config import Config


@app.command()
@with_settings
def train(
    *,
    config: "Config",
    data: DataArgument = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace an existing run folder")] = False,
    resume: Annotated[Path | None, typer.Option("--resume", help="finish an interrupted run folder")] = None,
) -> None:
    """Fine-tune a classifier, write the run folder, and report its accuracy."""
    from headstart import experiment

    if resume is not None:
        if data is not None or config.model_fields_set or overwrite:
            raise ConfigError("--resume takes its settings from the run folder; leave out DATA and other settings")
        run = experiment.resume(resume, display=terminal())
    else:
        run = experiment.train(config, overwrite=overwrite, display=terminal())
    from headstart.tables import print_metrics

    print_metrics(run.metrics(), brief=True)
    echo(f"run folder: {run.path}")
    echo(f"next: headstart predict {shlex.quote(str(run.path))} IMAGE...")


@app.command()
@with_settings
def plan(
    *,
    config: "Config",
    data: DataArgument = None,
    output_format: Annotated[str, typer.Option("--format", help="table or json")] = "table",
) -> None:
    """Show what a strategy would train, per phase and stage, before anything runs."""
    from headstart.experiment.experiment import Experiment
    from headstart.tables import plan_json, print_plan
    from headstart.training.plan_table import tabulate_plan

    check_format(output_format, ("table", "json"))
    display = terminal()
    experiment = Experiment.prepare(config, display=display)
    for line in experiment.notes:
        display.note(line)
    tables = tabulate_plan(experiment.plan, experiment.model.network, experiment.model.stages)
    if output_format == "json":
        echo(plan_json(experiment.plan.strategy, tables))
    else:
        print_plan(experiment.plan.strategy, tables, experiment.manifest)
        memory = experiment.memory()
        echo(memory.line)
        if memory.warning:
            display.note(memory.warning)


@app.command("lr-find")
@with_settings
def lr_find(
    *,
    config: "Config",
    data: DataArgument = None,
    plot: Annotated[Path | None, typer.Option(help="where the plot goes; default: lr-find.png")] = None,
    overwrite: OverwriteOption = False,
    low: Annotated[float, typer.Option(help="first learning rate")] = 1e-6,
    high: Annotated[float, typer.Option(help="last learning rate")] = 1.0,
    steps: Annotated[int, typer.Option(min=10, help="steps between them")] = 100,
) -> None:
    """Raise the learning rate step by step, plot the loss and suggest a rate; the model is thrown away."""
    from headstart.experiment.tools import find_learning_rate
    from headstart.tables import plot_range_test

    refuse_existing(plot, overwrite, "--plot")
    plot = plot or Path("lr-find.png")
    if not 0 < low < high:
        raise ConfigError(f"--low {low} must be above 0 and below --high {high}")
    result, setting = find_learning_rate(config, plot, low=low, high=high, num_steps=steps, display=terminal())
    plot_range_test(result, plot)
    echo(f"suggested: {setting} {result.suggestion:.1e}   (lowest loss {min(result.losses):.4f}; plot: {plot})")


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="folder for the runs")] = Path("runs"),
) -> None:
    """Train two strategies on pictures that need no download, and compare them (under two minutes)."""
    from headstart.demo.run import run_demo

    run_demo(out, echo, terminal())
