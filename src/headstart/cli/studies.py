"""Commands for many runs or networks: compare and rank them."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headstart.cli.settings import with_settings
from headstart.cli.shared import DataArgument, app, check_format, echo, is_verbose, say, terminal
from headstart.errors import ConfigError

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
    words = [word for word in (data, *(more or [])) if word is not None]
    others = [word for word in words if not locate(word).is_run]
    for word in others:
        refuse_study(Path(word))
    if words and not others:
        given = {"strategies": strategies, "seeds": seeds, "backbones": backbones, "vary": vary}
        options = [name for name, value in given.items() if value]
        comparison = _compare_runs(words, config, options)
    elif len(words) > 1:
        are_none = "is no run folder" if len(others) == 1 else "are no run folders"
        raise ConfigError(
            f"{', '.join(others[:3])} {are_none} (no config.yaml there); name run folders only, or one data folder, "
            "manifest or catalogue name"
        )
    else:
        comparison = study.compare(
            config,
            strategies=_words(strategies),
            backbones=_words(backbones),
            vary=parse_vary(vary or []),
            seeds=seeds or 3,
            progress=StudyProgress(make_console(to_stderr=True), is_verbose=is_verbose()),
        )
    _show(comparison, output_format)
    if comparison.failed:
        raise typer.Exit(1)


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


def _show(comparison: "Comparison", output_format: str) -> None:
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
    rows = rank_backbones(config, _words(backbones), display=terminal())
    if output_format == "table":
        print_ranking(rows)
    else:
        plain = [asdict(row) for row in rows]
        echo(json.dumps(plain, indent=2) if output_format == "json" else csv_text(plain).rstrip())


def _words(text: str | None) -> list[str]:
    return [word.strip() for word in (text or "").split(",") if word.strip()]
