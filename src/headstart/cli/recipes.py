"""Commands for the field's standard lessons."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headstart.cli.shared import app, echo, say

if TYPE_CHECKING:
    from headstart.config import Config
    from headstart.studies.lessons import Lesson
    from headstart.studies.teaching import Outcome

recipe_app = typer.Typer(
    name="recipe", help="List, show and run the field's standard lessons, from data to verdict.", no_args_is_help=True
)
app.add_typer(recipe_app)

NameArgument = Annotated[str, typer.Argument(help="a name from: headstart recipe list")]
BackboneOption = Annotated[str | None, typer.Option(help="another network; several for a part that compares them: a,b")]
DataOption = Annotated[str | None, typer.Option(help="another folder, manifest or catalogue name")]
SourceOption = Annotated[str | None, typer.Option(help="what a source network learns first; default: many snacks")]
WeightsOption = Annotated[Path | None, typer.Option(help="weight file or run to start from")]
SeedsOption = Annotated[int | None, typer.Option(min=1, help="how many seeds; default: 3")]
PartOption = Annotated[list[str] | None, typer.Option("--part", help="run this part only; may be repeated")]
OutOption = Annotated[Path | None, typer.Option(help="folder; default: runs/recipe-NAME-BACKBONE")]
QuickOption = Annotated[bool, typer.Option("--quick", help="smoke run: few small images, one epoch, one seed")]


@recipe_app.command("list")
def recipe_list() -> None:
    """List the recipes."""
    from headstart.studies.recipes import RECIPES

    for name, recipe in RECIPES.items():
        echo(f"{name:20}{recipe.title}")


@recipe_app.command("show")
def recipe_show(
    name: NameArgument,
    backbone: BackboneOption = None,
    data: DataOption = None,
    source: SourceOption = None,
    weights: WeightsOption = None,
    seeds: SeedsOption = None,
    part: PartOption = None,
    out: OutOption = None,
    quick: QuickOption = False,
) -> None:
    """Show what a recipe does, as commands that one could type, and what was published."""
    from headstart.studies.lessons import make_lesson

    lesson = make_lesson(
        name, backbone=backbone, data=data, source=source, weights=weights, seeds=seeds, parts=part or (), out=out,
        quick=quick, fetch=False,
    )  # fmt: skip
    recipe = lesson.recipe
    echo(f"{recipe.title}\n{recipe.question}\n")
    echo(
        f"data: {lesson.data}; network: {', '.join(lesson.backbones)}; seeds: {len(lesson.seeds)}; folder: {lesson.out}"
    )
    echo(f"takes: {recipe.duration}")
    for note in recipe.notes:
        echo(f"note: {note}")
    echo("\nfirst, the class counts and a contact sheet of the data, and the source's head:")
    echo(f"    headstart data show {lesson.data}\n    headstart model {lesson.backbones[0]}")
    if lesson.source is not None:
        echo(f"\nsource network (into {lesson.weights}):\n    {train_command(lesson.pretraining().config)}")
    for each in lesson.parts:
        echo(f"\n{each.name}: {each.question}")
        for cell in lesson.cells(each):
            echo(f"  {cell.name}\n    {train_command(cell.config)}")
        for figure in each.published:
            echo(f"  published: {figure.variant} {figure.accuracy} ({figure.source})")


@recipe_app.command("run")
def recipe_run(
    name: NameArgument,
    backbone: BackboneOption = None,
    data: DataOption = None,
    source: SourceOption = None,
    weights: WeightsOption = None,
    seeds: SeedsOption = None,
    part: PartOption = None,
    out: OutOption = None,
    quick: QuickOption = False,
) -> None:
    """Run a recipe, from data to verdict. What is finished in its folder is not run again."""
    from rich.console import Console

    from headstart.studies.lessons import make_lesson
    from headstart.studies.progress import StudyProgress
    from headstart.studies.teaching import Look, Outcome, SourceHead, run_lesson
    from headstart.tables import print_counts

    lesson = make_lesson(
        name, backbone=backbone, data=data, source=source, weights=weights, seeds=seeds, parts=part or (), out=out,
        quick=quick,
    )  # fmt: skip
    echo(f"{lesson.recipe.title}\n{lesson.recipe.question}")
    for note in lesson.recipe.notes:
        say(f"note: {note}")
    for step in run_lesson(lesson, progress=StudyProgress(Console(stderr=True))):
        match step:
            case Look():
                print_counts(step.manifest)
                echo(f"contact sheet: {step.sheet}")
            case SourceHead():
                echo(f"source head of {step.facts['name']}: {step.facts['head']} ({step.facts['weights']})")
            case Outcome():
                _print_outcome(step)
                _write_report(lesson, step)
    echo(f"\nfolder: {lesson.out} (recipe.json, a report per part, a run folder per cell and seed)")


def _print_outcome(outcome: "Outcome") -> None:
    from headstart.studies.teaching import trained_parameters
    from headstart.tables import print_comparison

    echo(f"\n{outcome.part.name}: {outcome.part.question}")
    if outcome.left_out:
        echo(f"left out: {outcome.left_out}")
    for name, phases in trained_parameters(outcome.runs).items():
        counts = "; ".join(f"{p['name']} {p['trainable']:,} of {p['parameters']:,}" for p in phases)
        echo(f"  trained by {name}: {counts}")
    if outcome.comparison is None:
        for name, runs in outcome.runs.items():
            accuracy = runs[0].metrics()["accuracy"]
            echo(f"  {name}: accuracy {accuracy['value']:.3f} on its own data; {runs[0].path}")
        return
    print_comparison(outcome.comparison)
    found = {row.name: row.accuracy.value for row in outcome.comparison.rows}
    for figure in outcome.part.published:
        here = f"{found[figure.variant]:.3f}" if figure.variant in found else "failed"
        echo(f"published: {figure.variant} {figure.accuracy}, here {here} ({figure.source})")
    best = outcome.comparison.rows[0]
    echo(f"best model: {best.runs[0]} ({best.name})")


def _write_report(lesson: "Lesson", outcome: "Outcome") -> None:
    if outcome.comparison is None or (lesson.is_quick and outcome.part is not lesson.parts[0]):
        return
    from headstart.report import write_report

    # One run of each cell: the others differ by their seed only. Drawing all would take longer than a smoke run trains.
    runs = [each[0].path for each in outcome.runs.values()][: 1 if lesson.is_quick else None]
    page = write_report(
        runs,
        lesson.out / f"report-{outcome.part.name}.html",
        title=f"{lesson.recipe.title}: {outcome.part.name}",
        comparison=lesson.comparison_file(outcome.part),
    )
    echo(f"report: {page}")


def train_command(config: "Config") -> str:
    """Write settings as a `headstart train` command that one could type."""
    import shlex

    from headstart.config import Config

    words = ["headstart", "train", config.data]
    for name, setting in Config.model_fields.items():
        value = getattr(config, name)
        # Where a run's head fits the data, its rows are kept unless that is refused.
        is_meant = name == "head_init" and config.weights is not None and name in config.model_fields_set
        if (value == setting.default and not is_meant) or name in ("data", "seed", "out", "table", "choices"):
            continue
        flag = "--" + name.replace("_", "-")
        if isinstance(value, bool):
            words.append(flag if value else f"--no-{flag[2:]}")
            continue
        if isinstance(value, dict):
            value = ",".join(f"{key}={item}" for key, item in value.items())
        words += [flag, ",".join(map(str, value)) if isinstance(value, list) else str(value)]
    return shlex.join(words)
