"""The command line: parse, call one function, print."""

import inspect
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Optional, Union, get_args, get_origin

import typer

from headstart._version import __version__
from headstart.errors import ConfigError, HeadstartError

if TYPE_CHECKING:
    from headstart.config import Config

app = typer.Typer(
    name="headstart",
    help="From a folder of labelled images to a classifier that you can trust and ship.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Begin with: headstart demo. Then: headstart train FOLDER, where FOLDER holds one folder per class.",
)
data_app = typer.Typer(name="data", help="List, fetch and look at data sets.", no_args_is_help=True)
app.add_typer(data_app)

# The first setting of each panel of --help; the others follow in the order of `Config`.
_PANELS = {
    "map": "Data",
    "backbone": "Model",
    "strategy": "Strategy",
    "lr": "Optimisation",
    "best_epoch": "Selection",
    "time_limit": "Run",
}


def _flag_type(annotation: Any, has_own_reader: bool) -> type:
    """Return what the command line parses: int, float, bool or text that `Config` reads."""
    if has_own_reader:
        return str
    options = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    plain = [option for option in options if option is not type(None)]
    return plain[0] if len(plain) == 1 and plain[0] in (int, float, bool) else str


def _setting_parameters() -> list[inspect.Parameter]:
    from pydantic import BeforeValidator

    from headstart.config import Config

    parameters, panel = [], "Data"
    for name, field in Config.model_fields.items():
        panel = _PANELS.get(name, panel)
        if name in ("data", "table", "choices"):
            continue
        flag = "--" + name.replace("_", "-")
        kind = _flag_type(field.annotation, any(isinstance(part, BeforeValidator) for part in field.metadata))
        shown = "" if field.default in (None, {}, False) or kind is bool else f" [dim](default {field.default})[/dim]"
        option = typer.Option(
            f"{flag}/--no-{flag[2:]}" if kind is bool else flag,
            help=f"{field.description}{shown}",
            rich_help_panel=panel,
            show_default=False,
        )
        annotation: Any = Annotated[Optional[kind], option]  # noqa: UP045 (a union of a variable has no type)
        parameters.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation))
    return parameters


ConfigOption = Annotated[Path | None, typer.Option("--config", help="YAML file of settings, e.g. a run's config.yaml")]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="a setting as key=value; may be repeated")]
_commands_with_settings: list[tuple[Callable[..., None], Callable[..., None]]] = []


def with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command one flag per setting; it receives the merged settings as `config`.

    The order of precedence is: flags, then --set, then --config, then defaults. The flags are added by
    `attach_settings`, because reading the settings costs a tenth of a second that `headstart --help` can do without.
    """

    def wrapper(*, config_file: Path | None = None, assignments: list[str] | None = None, **given: Any) -> None:
        from headstart.config import Config, load_config, parse_assignments

        settings = {name: given.pop(name) for name in list(given) if name in Config.model_fields and name != "data"}
        values = {name: value for name, value in {**settings, "data": given["data"]}.items() if value is not None}
        merged = {**parse_assignments(assignments or []), **values}
        command(config=load_config(config_file, merged), **given)

    wrapper.__name__, wrapper.__doc__ = command.__name__, command.__doc__
    wrapper.__signature__ = inspect.Signature()  # type: ignore[attr-defined]
    wrapper.__annotations__ = {}
    _commands_with_settings.append((wrapper, command))
    return wrapper


def attach_settings() -> None:
    """Add a flag per setting to the commands that take settings."""
    shared = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
        for name, annotation in (("config_file", ConfigOption), ("assignments", SetOption))
    ]
    shared += _setting_parameters()
    for wrapper, command in _commands_with_settings:
        own = [p for p in inspect.signature(command).parameters.values() if p.name != "config"]
        wrapper.__signature__ = inspect.Signature([*own, *shared])  # type: ignore[attr-defined]
        wrapper.__annotations__ = {parameter.name: parameter.annotation for parameter in (*own, *shared)}


def _echo(line: str = "") -> None:
    typer.echo(line)


def _say(line: str) -> None:
    typer.echo(line, err=True)


_said: dict[str, float] = {}


def _data_progress(title: str, done: int, total: int) -> None:
    """Say how far a long pass over the images is: on one line of the terminal, or a line every 15 seconds in a log."""
    now = time.monotonic()
    every_s = 0.1 if sys.stderr.isatty() else 15.0
    if now - _said.setdefault(title, now) >= every_s:
        _said[title] = now
        start, end = ("\r", "\r") if sys.stderr.isatty() else ("", "\n")
        print(f"{start}{title}: {done} of {total}", end=end, file=sys.stderr, flush=True)


DataArgument = Annotated[str | None, typer.Argument(help="folder of class folders, manifest or catalogue name")]
EngineOption = Annotated[str, typer.Option(help="auto, openvino or torch")]
PrecisionOption = Annotated[str, typer.Option(help="auto, 32 or bf16, of the engine")]
RunArgument = Annotated[Path, typer.Argument(help="run folder or model folder")]


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
    from headstart.training.observers import terminal_progress

    if resume is not None:
        if data is not None or config.model_fields_set or overwrite:
            raise ConfigError("--resume takes its settings from the run folder; leave out DATA and other settings")
        run = experiment.resume(resume, say=_say, make_observer=terminal_progress, progress=_data_progress)
    else:
        run = experiment.run(
            config, overwrite=overwrite, say=_say, make_observer=terminal_progress, progress=_data_progress
        )
    from headstart.inference.evaluate import format_metrics

    _echo(format_metrics(run.metrics(), brief=True))
    _echo(f"run folder: {run.path}")
    _echo(f"next: headstart predict {run.path} IMAGE...")


@app.command()
@with_settings
def plan(
    *,
    config: "Config",
    data: DataArgument = None,
    output_format: Annotated[str, typer.Option("--format", help="table or json")] = "table",
) -> None:
    """Show what a strategy would train, per phase and stage, before anything runs."""
    from headstart import experiment
    from headstart.tables import plan_json, print_plan
    from headstart.training.plan import describe

    _check_format(output_format, ("table", "json"))
    prepared = experiment.prepare(config, progress=_data_progress)
    for line in prepared.warnings:
        _say(f"note: {line}")
    tables = describe(prepared.plan, prepared.model.network, prepared.model.stages)
    if output_format == "json":
        _echo(plan_json(prepared.plan.strategy, tables))
    else:
        print_plan(prepared.plan.strategy, tables, prepared.manifest)


@app.command("lr-find")
@with_settings
def lr_find(
    *,
    config: "Config",
    data: DataArgument = None,
    plot: Annotated[Path, typer.Option(help="where the plot goes")] = Path("lr-find.png"),
    low: Annotated[float, typer.Option(help="first learning rate")] = 1e-6,
    high: Annotated[float, typer.Option(help="last learning rate")] = 1.0,
    steps: Annotated[int, typer.Option(min=10, help="steps between them")] = 100,
) -> None:
    """Raise the learning rate step by step, plot the loss and suggest a rate; the model is thrown away."""
    from headstart import experiment
    from headstart.tables import plot_range_test

    if not 0 < low < high:
        raise ConfigError(f"--low {low} must be above 0 and below --high {high}")
    result = experiment.find_learning_rate(
        config, plot, low=low, high=high, num_steps=steps, say=_say, progress=_data_progress
    )
    plot_range_test(result, plot)
    # These begin with a phase for the head alone, whose rate has a flag of its own.
    flag = "--head-lr" if config.strategy in ("gradual", "lp-ft") else "--lr"
    _echo(f"suggested: {flag} {result.suggestion:.1e}   (lowest loss {min(result.losses):.4f}; plot: {plot})")


@app.command()
def evaluate(
    run: RunArgument,
    data: Annotated[str, typer.Argument(help="folder of class folders, manifest or catalogue name")],
    output_format: Annotated[str, typer.Option("--format", help="table or json")] = "table",
    label_map: Annotated[str | None, typer.Option("--map", help="merge classes: bird=animal,cat=animal")] = None,
    split: Annotated[str | None, typer.Option(help="train, validation or test; default: the reported one")] = None,
    predictions: Annotated[Path | None, typer.Option(help="write a row per image to this parquet file")] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="leave out unreadable images")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    engine: EngineOption = "auto",
    precision: PrecisionOption = "auto",
) -> None:
    """Measure a trained model on labelled images."""
    from headstart import experiment
    from headstart.config import load_config
    from headstart.inference.evaluate import format_metrics

    _check_format(output_format, ("table", "json"))
    metrics = experiment.evaluate_folder(
        run,
        data,
        label_map=load_config(None, {"map": label_map}).map if label_map else None,
        split=split,
        predictions=predictions,
        skip_bad=skip_bad,
        device=device,
        engine=engine,
        precision=precision,
        say=_say,
    )
    if output_format == "json":
        import json

        _echo(json.dumps(metrics, indent=2, ensure_ascii=False))
    else:
        _echo(format_metrics(metrics))


def _check_format(value: str, known: tuple[str, ...]) -> None:
    from headstart.errors import did_you_mean

    if value not in known:
        raise ConfigError(f"--format {value!r} is not one of {', '.join(known)}.{did_you_mean(value, known)}")


@app.command()
def predict(
    run: RunArgument,
    paths: Annotated[list[str], typer.Argument(help="files, folders, globs, or - for paths on standard input")],
    output_format: Annotated[str, typer.Option("--format", help="table, json, csv or parquet")] = "table",
    top_k: Annotated[int, typer.Option(min=1, help="how many classes per image")] = 1,
    out: Annotated[Path | None, typer.Option(help="file to write instead of the terminal")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="images per batch")] = 32,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    engine: EngineOption = "auto",
    precision: PrecisionOption = "auto",
) -> None:
    """Classify images; an unreadable file is a row with its error, and then the exit code is 1."""
    from headstart.inference.output import write_predictions
    from headstart.inference.predict import expand_inputs, load, predict_stream

    _check_format(output_format, ("table", "json", "csv", "parquet"))
    classifier = load(run, device=device, engine=engine, precision=precision)
    files = expand_inputs(paths, sys.stdin)
    rows = predict_stream(classifier, files, top_k=top_k, batch_size=batch_size)
    num_failed = write_predictions(rows, output_format, out)
    for line in classifier.notes:
        _say(f"note: {line}")
    if num_failed:
        _say(f"{num_failed} files could not be read; their rows say why")
        raise typer.Exit(1)


@app.command()
def model(
    name: Annotated[str, typer.Argument(help="lite0, simple-cnn, a torchvision model or timm/NAME")],
    parameters: Annotated[bool, typer.Option("--parameters", help="list every parameter's name and shape")] = False,
    weights: Annotated[str, typer.Option(help="weight file or run folder to show instead")] = "none",
) -> None:
    """Show a backbone's stages, source head, parameters, input and licence."""
    from headstart.models.backbones import create_backbone, describe_backbone
    from headstart.tables import print_backbone

    backbone = create_backbone(name, weights=weights)
    print_backbone(describe_backbone(backbone))
    if parameters:
        for parameter_name, parameter in backbone.network.named_parameters():
            _echo(f"{parameter_name}  {tuple(parameter.shape)}")


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="folder for the runs")] = Path("runs"),
) -> None:
    """Train two strategies on pictures that need no download, and compare them (under two minutes)."""
    from headstart.demo import run_demo

    run_demo(out, _echo)


@data_app.command("list")
def data_list() -> None:
    """List the catalogue."""
    from headstart.data.catalog import CATALOG

    for name, entry in CATALOG.items():
        _echo(f"{name:28}{entry.description}")


@data_app.command("get")
def data_get(name: Annotated[str, typer.Argument(help="a name from: headstart data list")]) -> None:
    """Fetch a data set of the catalogue and say where it is."""
    from headstart.data.catalog import resolve

    _echo(str(resolve(name)))


@data_app.command("show")
@with_settings
def data_show(
    *,
    config: "Config",
    data: DataArgument = None,
    sheet: Annotated[Path, typer.Option(help="where the contact sheet goes")] = Path("contact-sheet.png"),
    split: Annotated[str | None, typer.Option(help="which split to draw from")] = None,
    per_class: Annotated[int, typer.Option(min=1, help="pictures per row")] = 8,
    augmented: Annotated[bool, typer.Option("--augmented", help="show augmented training views instead")] = False,
) -> None:
    """Print the class counts per split and write a labelled contact sheet."""
    from headstart import experiment
    from headstart.tables import print_counts

    manifest = experiment.show_data(
        config, sheet, split=split, per_class=per_class, augmented=augmented, progress=_data_progress
    )
    print_counts(manifest)
    _echo(f"contact sheet: {sheet}")


def _version(value: bool) -> None:
    if value:
        _echo(f"headstart {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="show the version")
    ] = False,
) -> None:
    """Hold the options of the program itself."""


def main() -> None:
    """Run the program: errors that a user can act upon are one line; HEADSTART_DEBUG=1 shows where they came from."""
    try:
        if any(not word.startswith("-") for word in sys.argv[1:]):
            attach_settings()
        app()
    except BaseException as error:
        if not isinstance(error, SystemExit) and os.environ.get("HEADSTART_DEBUG") == "1":
            traceback.print_exc()
        sys.exit(_report(error))


def _report(error: BaseException) -> int | str | None:
    """Say in one line what went wrong; return the exit code."""
    match error:
        case SystemExit():
            return error.code
        case HeadstartError():
            print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
            return error.exit_code
        case KeyboardInterrupt():
            print(
                "interrupted; a run that was begun can be finished with: headstart train --resume RUN", file=sys.stderr
            )
            return 130
        case BrokenPipeError():
            # The reader (`| head`) is gone; Python would complain again when it flushes at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 141
    text = f"unexpected error: {type(error).__name__}: {error} (HEADSTART_DEBUG=1 shows where; please report it)"
    print(" ".join(text.split()), file=sys.stderr)
    return 1


if __name__ == "__main__":
    main()
