"""Commands for many runs or networks: compare and rank them."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from headstart.cli.settings import with_settings
from headstart.cli.shared import DataArgument, app, check_format, echo, is_verbose, say, terminal
from headstart.errors import ConfigError, listed

if TYPE_CHECKING:
    from headstart.config import Config
    from headstart.studies.compare import Comparison


@app.command()
@with_settings
def compare(
    *,
    config: "Config",
    data: Annotated[str | None, typer.Argument(help="data as for train, or run folders")] = None,
    more: Annotated[list[str] | None, typer.Argument(help="more run folders", metavar="RUN")] = None,
    strategies: Annotated[str | None, typer.Option(help="names or YAML tables: scratch,head,full")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="how many seeds, from --seed on; default: 3")] = None,
    backbones: Annotated[str | None, typer.Option(help="several backbones: lite0,lite1")] = None,
    vary: Annotated[
        list[str] | None,
        typer.Option(help="values of a setting: lr=1e-4,1e-3 (a;b where they hold commas); repeatable"),
    ] = None,
    output_format: Annotated[str, typer.Option("--format", help="table, json or csv")] = "table",
) -> None:
    """Train every combination on the same images and seeds, rank them, and say how sure that is; or compare runs.

    A finished run in the folder (--out) is not run again, and one that was interrupted goes on.
    """
    from headstart.display import make_console
    from headstart.runs import locate, refuse_study
    from headstart.studies import compare as study
    from headstart.studies.grid import parse_vary
    from headstart.studies.progress import StudyProgress

    check_format(output_format, ("table", "json", "csv"))
    words = list(more or [])
    if data is not None:
        words.insert(0, data)
    others = [word for word in words if not locate(word).is_run]
    for word in others:
        refuse_study(Path(word))
    if words and not others:
        given = {"strategies": strategies, "seeds": seeds, "backbones": backbones, "vary": vary}
        options = [name for name, value in given.items() if value]
        comparison = _compare_runs(words, config, options)
    elif len(words) > 1:
        _refuse_mixture(others)
    else:
        comparison = study.compare(
            config,
            strategies=_split_at_commas(strategies),
            backbones=_split_at_commas(backbones),
            vary=parse_vary(vary or []),
            seeds=seeds or 3,
            progress=StudyProgress(make_console(to_stderr=True), is_verbose=is_verbose()),
        )
    _print_result(comparison, output_format)
    if comparison.failed:
        raise typer.Exit(1)


def _refuse_mixture(others: list[str]) -> NoReturn:
    """Refuse several words of which some are no run folders."""
    are_no_runs = "are no run folders"
    if len(others) == 1:
        are_no_runs = "is no run folder"
    raise ConfigError(
        f"{listed(others, 3)} {are_no_runs} (no config.yaml there); name run folders only, or one data folder, "
        "manifest or catalogue name"
    )


def _compare_runs(paths: list[str], config: "Config", options: list[str]) -> "Comparison":
    """Compare runs that exist, to which no settings and no options apply."""
    from headstart.studies.compare import compare_runs, write_comparison
    from headstart.studies.reported import group_runs

    settings = [*sorted(config.model_fields_set - {"data", "out"}), *options]
    if settings:
        raise ConfigError(f"{paths[0]} is a run, and runs have their settings; leave out {', '.join(settings)}")
    if len(paths) == 1:
        raise ConfigError(f"{paths[0]} is one run, with nothing to compare it with; name two or more runs, or data")
    comparison = compare_runs(group_runs(paths))
    if config.out:
        lines = write_comparison(comparison, Path(config.out))
    else:
        lines = [f"next: {shlex.join(['headstart', 'report', *paths])}"]
    for line in lines:
        say(line)
    return comparison


def _print_result(comparison: "Comparison", output_format: str) -> None:
    """Print a comparison as a table, as JSON or as CSV."""
    if output_format == "json":
        from headstart.files import dump_json

        echo(dump_json(comparison.to_dict()).rstrip())
    elif output_format == "csv":
        echo(comparison.to_csv().rstrip())
    else:
        from headstart.tables import print_comparison

        print_comparison(comparison)


@app.command()
@with_settings
def rank(
    *,
    config: "Config",
    data: DataArgument = None,
    backbones: Annotated[str, typer.Option(help="which: lite0,resnet18,timm/vit_tiny_patch16_224")] = "lite0",
    output_format: Annotated[str, typer.Option("--format", help="table, json or csv")] = "table",
) -> None:
    """Rank backbones for a data set without training them, by a linear probe on their features and LogME."""
    import json
    from dataclasses import asdict

    from headstart.files import csv_text
    from headstart.studies.rank import rank as rank_backbones
    from headstart.tables import print_ranking

    check_format(output_format, ("table", "json", "csv"))
    rows = rank_backbones(config, _split_at_commas(backbones), display=terminal())
    plain = [asdict(row) for row in rows]
    if output_format == "json":
        echo(json.dumps(plain, indent=2))
    elif output_format == "csv":
        echo(csv_text(plain).rstrip())
    else:
        print_ranking(rows)


def _split_at_commas(text: str | None) -> list[str]:
    """Return the names in a text such as `lite0, lite1`; none where there is no text."""
    if text is None:
        return []
    names = [name.strip() for name in text.split(",")]
    return [name for name in names if name]
