"""Commands for models: what they are, how good they are, what they say."""

import shlex
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headstart.cli.shared import (
    EngineOption,
    OverwriteOption,
    PrecisionOption,
    RunArgument,
    app,
    check_format,
    echo,
    refuse_existing,
    say,
    terminal,
)

if TYPE_CHECKING:
    from headstart.inference.stream import Prediction


@app.command()
def evaluate(
    run: RunArgument,
    data: Annotated[str, typer.Argument(help="folder of class folders, manifest or catalogue name")],
    output_format: Annotated[str, typer.Option("--format", help="table or json")] = "table",
    layout: Annotated[str, typer.Option(help="how the folders are read; as for train")] = "auto",
    label_map: Annotated[str | None, typer.Option("--map", help="merge classes: bird=animal,cat=animal")] = None,
    exclude: Annotated[str | None, typer.Option(help="classes of the data to leave out: cat,dog")] = None,
    split: Annotated[str | None, typer.Option(help="train, validation or test; default: the reported one")] = None,
    predictions: Annotated[Path | None, typer.Option(help="write a row per image to this parquet file")] = None,
    overwrite: OverwriteOption = False,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="leave out unreadable images")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps")] = "auto",
    engine: EngineOption = "auto",
    precision: PrecisionOption = "auto",
) -> None:
    """Measure a trained model on labelled images."""
    from headstart.config import load_config
    from headstart.experiment.tools import evaluate_folder
    from headstart.tables import print_metrics

    check_format(output_format, ("table", "json"))
    refuse_existing(predictions, overwrite, "--predictions")
    # The three are read as `train` reads them.
    settings = load_config(None, {"layout": layout, "map": label_map or {}, "exclude": exclude or []})
    metrics = evaluate_folder(
        run,
        data,
        layout=settings.layout,
        label_map=settings.map or None,
        exclude=settings.exclude,
        split=split,
        predictions=predictions,
        skip_bad=skip_bad,
        device=device,
        engine=engine,
        precision=precision,
        display=terminal(),
    )
    if output_format == "json":
        import json

        echo(json.dumps(metrics, indent=2, ensure_ascii=False))
    else:
        print_metrics(metrics)


@app.command()
def predict(
    run: RunArgument,
    paths: Annotated[list[str], typer.Argument(help="files, folders, globs, or - for paths on standard input")],
    output_format: Annotated[
        str | None, typer.Option("--format", help="table, json, csv or parquet; default: as the name of --out ends")
    ] = None,
    top_k: Annotated[int, typer.Option(min=1, help="how many classes per image")] = 1,
    out: Annotated[Path | None, typer.Option(help="file to write instead of the terminal")] = None,
    overwrite: OverwriteOption = False,
    batch_size: Annotated[int, typer.Option(min=1, help="images per batch")] = 32,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps")] = "auto",
    engine: EngineOption = "auto",
    precision: PrecisionOption = "auto",
) -> None:
    """Classify images; an unreadable file is a row with its error, and then the exit code is 1."""
    from headstart.inference.inputs import expand_inputs
    from headstart.inference.output import choose_format, write_predictions
    from headstart.inference.predict import load
    from headstart.inference.stream import predict_stream
    from headstart.runs import check_output

    if out is not None:
        for path in paths:
            check_output(out, path, "--out")
    refuse_existing(out, overwrite, "--out")
    chosen = choose_format(output_format, out)
    classifier = load(run, device=device, engine=engine, precision=precision)
    files = expand_inputs(paths, _note_where_empty(sys.stdin or ()))  # a closed one is None
    rows = predict_stream(classifier, files, top_k=top_k, batch_size=batch_size)
    if out is not None:  # on the terminal the rows themselves show how far it is
        rows = _with_progress(rows)
    num_failed = write_predictions(rows, chosen, out, top_k=min(top_k, len(classifier.labels)))
    classifier.tell_refused(terminal())
    if num_failed:
        if num_failed == 1:
            say("1 file could not be read; its row says why")
        else:
            say(f"{num_failed} files could not be read; their rows say why")
        raise typer.Exit(1)


def _note_where_empty(lines: Iterable[str]) -> Iterator[str]:
    """Pass on the lines of standard input, and note at the end if none of them was a path."""
    has_path = False
    for line in lines:
        if line.strip("\r\n"):
            has_path = True
        yield line
    if not has_path:
        terminal().note("standard input held no path, so there was nothing to classify; write one path per line")


def _with_progress(rows: "Iterator[Prediction]") -> "Iterator[Prediction]":
    """Show how many pictures are classified; how many there are is not known before the last one."""
    display = terminal()
    for number, row in enumerate(rows, 1):
        display.progress("classifying", number, 0)
        yield row


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
            echo(f"{parameter_name}  {tuple(parameter.shape)}")


@app.command()
def delta(
    run: Annotated[Path, typer.Argument(help="run folder")],
    out: Annotated[Path | None, typer.Option(help="file to write; default: delta.safetensors")] = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Write a small file of only what a run changed in its pretrained network; `rebuild` makes the model of it."""
    from headstart.experiment.tools import write_delta
    from headstart.runs import MODEL, WEIGHTS

    refuse_existing(out, overwrite, "--out")
    out = out or Path("delta.safetensors")
    write_delta(run, out)
    whole = (run / MODEL / WEIGHTS).stat().st_size
    echo(f"{out}: {out.stat().st_size / 1e6:.2f} MB, the whole model is {whole / 1e6:.2f} MB")
    echo(f"next: headstart rebuild {shlex.quote(str(out))} --out FOLDER")


@app.command()
def rebuild(
    file: Annotated[Path, typer.Argument(help="a file that headstart delta wrote")],
    out: Annotated[Path, typer.Option(help="model folder to write")],
    weights: Annotated[
        str | None, typer.Option(help="weight file or run that it was trained from; default: the published ones")
    ] = None,
) -> None:
    """Put a delta onto the pretrained network that it was trained from, which must be the same to the bit."""
    from headstart.experiment.tools import rebuild_model

    rebuild_model(file, out, weights=weights)
    echo(f"model folder: {out}")
    echo(f"next: headstart predict {shlex.quote(str(out))} IMAGE...")
