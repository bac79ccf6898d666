"""Commands for the field's standard lessons."""

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headstart.cli.shared import app, echo, is_verbose, say, terminal
from headstart.errors import either

if TYPE_CHECKING:
    from headstart.studies.cells import Cell
    from headstart.studies.compare import Comparison
    from headstart.studies.lessons import Lesson
    from headstart.studies.recipes import Part
    from headstart.studies.teaching import Outcome

recipe_app = typer.Typer(
    name="recipe",
    help="List, show, print and run the field's standard lessons, from data to verdict.",
    no_args_is_help=True,
)
app.add_typer(recipe_app)
NameArgument = Annotated[str, typer.Argument(help="a name from: headstart recipe list, or a YAML file of your own")]


def _with_lesson(*, fetch: bool) -> Callable[[Callable[["Lesson"], None]], Callable[..., None]]:
    """Give a command the options that a lesson is made of."""

    def decorate(command: Callable[["Lesson"], None]) -> Callable[..., None]:
        def wrapper(
            name: NameArgument,
            backbone: Annotated[
                str | None, typer.Option(help="another network; several for a part that compares them: a,b")
            ] = None,
            data: Annotated[str | None, typer.Option(help="another folder, manifest or catalogue name")] = None,
            source: Annotated[
                str | None, typer.Option(help="what a source network learns first; default: many snacks")
            ] = None,
            weights: Annotated[Path | None, typer.Option(help="weight file or run to start from")] = None,
            seeds: Annotated[int | None, typer.Option(min=1, help="how many seeds; default: 3")] = None,
            part: Annotated[
                list[str] | None, typer.Option("--part", help="run this part only; may be repeated")
            ] = None,
            out: Annotated[Path | None, typer.Option(help="folder; default: runs/recipe-NAME-BACKBONE")] = None,
            quick: Annotated[
                bool, typer.Option("--quick", help="smoke run: few small images, one epoch, one seed")
            ] = False,
        ) -> None:
            from headstart.studies.lessons import make_lesson

            lesson = make_lesson(
                name, backbone=backbone, data=data, source=source, weights=weights, seeds=seeds, parts=part or (),
                out=out, quick=quick, fetch=fetch, progress=terminal().progress,
            )  # fmt: skip
            command(lesson)

        wrapper.__doc__ = command.__doc__
        return wrapper

    return decorate


@recipe_app.command("list")
def recipe_list() -> None:
    """List the recipes."""
    from headstart.studies.recipes import RECIPES, find_recipe

    for name in RECIPES:
        echo(f"{name:20}{find_recipe(name).title}")


@recipe_app.command("print")
def recipe_print(name: NameArgument) -> None:
    """Print a recipe's file, to be copied, edited and run: headstart recipe print hotdog > mine.yaml."""
    from headstart.studies.recipes import find_recipe, recipe_file

    find_recipe(name)  # what is printed can be run
    echo(recipe_file(name).read_text(encoding="utf-8").rstrip())


@recipe_app.command("show")
@_with_lesson(fetch=False)
def recipe_show(lesson: "Lesson") -> None:
    """Show what a recipe does, as commands that one could type, and what was published."""
    recipe = lesson.recipe
    echo(f"{recipe.title}\n{recipe.question}\n")
    echo(
        f"data: {lesson.data}; network: {', '.join(lesson.backbones)}; seeds: {len(lesson.seeds)}; folder: {lesson.out}"
    )
    echo(f"takes: {recipe.takes}")
    for note in recipe.notes:
        echo(f"note: {note}")
    echo("\nfirst, the class counts and a contact sheet of the data, and the source's head:")
    echo(f"    {shlex.join(['headstart', 'data', 'show', lesson.data])}\n    headstart model {lesson.backbones[0]}")
    if lesson.source is not None:
        echo(f"\nsource network:\n    {train_command(lesson.pretraining(), lesson.out)}")
    shown: list[Cell] = []
    for part in lesson.parts:
        echo(f"\n{part.name}: {part.question}")
        for cell in lesson.cells(part):
            if cell in shown:
                echo(f"  {cell.name}: as above")
                continue
            shown.append(cell)
            echo(f"  {cell.name}")
            echo(f"    {train_command(cell, lesson.out)}")
            if cell.config.table is not None:
                echo("    with the table of this cell: write it into a file, and name that as --strategy")
        for figure in part.published:
            echo(f"  published: {figure.cell} {figure.accuracy} ({figure.source})")


@recipe_app.command("run")
@_with_lesson(fetch=True)
def recipe_run(lesson: "Lesson") -> None:
    """Run a recipe, from data to verdict. What is finished in its folder is not run again."""
    from headstart.data.manifest import Manifest
    from headstart.display import make_console
    from headstart.studies.progress import StudyProgress
    from headstart.studies.teaching import Outcome, run_lesson
    from headstart.tables import print_counts

    echo(f"{lesson.recipe.title}\n{lesson.recipe.question}")
    for note in lesson.recipe.notes:
        say(f"note: {note}")
    has_failed = False
    progress = StudyProgress(make_console(to_stderr=True), is_verbose=is_verbose())
    for step in run_lesson(lesson, progress=progress):
        match step:
            case Manifest():
                print_counts(step)
                echo(f"contact sheet: {lesson.out / 'contact-sheet.png'}")
            case Outcome():
                _print_outcome(step, lesson)
                _write_report(lesson, step)
                # What was asked for by name and could not be run is a failure.
                is_part_named = lesson.parts != lesson.recipe.parts
                if step.has_failed or (step.left_out and is_part_named):
                    has_failed = True
            case _:
                echo(f"source head of {step['name']}: {step['head']} ({step['weights']})")
    echo(f"\nfolder: {lesson.out} (recipe.json, a report per part, a run folder per cell and seed)")
    if has_failed:
        raise typer.Exit(1)


def _print_outcome(outcome: "Outcome", lesson: "Lesson") -> None:
    """Print what became of a part: what was trained, how good it is, and what was published."""
    from headstart.studies.teaching import trained_parameters
    from headstart.tables import print_comparison

    echo(f"\n{outcome.part.name}: {outcome.part.question}")
    if outcome.left_out:
        echo(f"left out: {outcome.left_out}")
    for name, phases in trained_parameters(outcome.runs).items():
        counts = [f"{phase['name']} {phase['trainable']:,} of {phase['parameters']:,}" for phase in phases]
        echo(f"  trained by {name}: {'; '.join(counts)}")
    if outcome.comparison is None:
        for name, runs in outcome.runs.items():
            accuracy = runs[0].metrics()["accuracy"]
            echo(f"  {name}: accuracy {accuracy['value']:.3f} on its own data; {runs[0].path}")
        return

    print_comparison(outcome.comparison)
    _print_published(outcome.part, outcome.comparison, lesson.changes)
    best = outcome.comparison.rows[0]
    echo(f"best model: {best.runs[0]} ({best.name})")


def _print_published(part: "Part", comparison: "Comparison", changes: list[str]) -> None:
    """Print each published figure beside the accuracy here, and what here is not as the lesson has it."""
    found = {row.name: f"{row.accuracy.value:.3f}" for row in comparison.rows}
    caution = ""
    if changes:
        caution = f" (not the lesson's {either(changes, 'and')})"
    for figure in part.published:
        here = found.get(figure.cell, "failed")
        echo(f"published: {figure.cell} {figure.accuracy}, here {here} ({figure.source}){caution}")


def _write_report(lesson: "Lesson", outcome: "Outcome") -> None:
    """Write the HTML page of a part that was compared; a smoke run has one of its first part only."""
    if outcome.comparison is None:
        return
    if lesson.is_quick and outcome.part is not lesson.parts[0]:
        return
    from headstart.report import write_report

    # One run of each cell: the others differ by their seed only.
    runs = [each[0].path for each in outcome.runs.values()]
    if lesson.is_quick:  # drawing all of them would take longer than training them
        runs = runs[:1]
    page = write_report(
        runs,
        lesson.out / f"report-{outcome.part.name}.html",
        title=f"{lesson.recipe.title}: {outcome.part.name}",
        comparison=lesson.comparison_file(outcome.part),
    )
    echo(f"report: {page}")


def train_command(cell: "Cell", out: Path) -> str:
    """Write a cell of a study in the folder `out` as a `headstart train` command that one could type."""
    from headstart.config import command_words

    words = command_words(cell.config.asked(), "seed")
    return shlex.join([*words, "--out", str(cell.folder(out, 0))])
