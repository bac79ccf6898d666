"""The command that shows what runs did."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from headstart.cli.shared import OverwriteOption, app, echo, refuse_existing, say


@app.command()
def report(
    paths: Annotated[list[Path], typer.Argument(metavar="RUN...", help="run folders")],
    out: Annotated[
        Path | None, typer.Option(help="HTML file; default: RUN/report.html, or report.html here for several runs")
    ] = None,
    overwrite: OverwriteOption = False,
    title: Annotated[str | None, typer.Option(help="title of the page")] = None,
    comparison: Annotated[
        Path | None, typer.Option(help="comparison.json of headstart compare; default: these runs are compared now")
    ] = None,
    explain: Annotated[bool, typer.Option(help="draw where the network looks (Grad-CAM)")] = True,
) -> None:
    """Write one HTML page about runs, that needs no other file, and its figures as PNGs."""
    from headstart.report import page_path, read_comparison, read_run, write_report

    refuse_existing(out, overwrite, "--out")
    out = page_path(paths, out)  # before the pictures, which take their time
    compared: Path | Mapping[str, Any] | None = comparison
    if comparison is None and len(paths) > 1:
        compared = _compare_now(paths)
    study = read_comparison(compared, paths)
    for path in paths:
        read_run(path)  # refuses a damaged run before any pictures are drawn
    if explain:
        for path in paths:
            _draw_evidence(path)
    page = write_report(paths, out, title=title, comparison=study)
    echo(f"report: {page}")
    echo(f"figures: {page.with_suffix('')}/")


def _compare_now(paths: Sequence[Path]) -> Mapping[str, Any]:
    """Compare the runs; those of different images can still be shown beside one another."""
    from headstart.errors import HeadstartError
    from headstart.studies.compare import compare_runs
    from headstart.studies.reported import group_runs

    try:
        return compare_runs(group_runs(paths)).to_dict()
    except HeadstartError as error:
        return {"verdict": f"The runs were not compared: {error}."}


def _draw_evidence(path: Path) -> None:
    """Draw where a finished run's network looks, if that was not done before; what is in the way is a note."""
    from headstart.errors import HeadstartError
    from headstart.runs import EXPLANATIONS, open_run

    run = open_run(path)
    if (run.path / EXPLANATIONS / f"{EXPLANATIONS}.json").is_file():
        return
    from headstart.inference.explain import explain  # loads torch

    say(f"drawing where the network of {path} looks")
    try:
        explain(run)
    except HeadstartError as error:
        say(f"note: {error}")
