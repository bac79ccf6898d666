"""What all commands share: the program, its output, and options that several of them take."""

import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from headstart.errors import ConfigError, unknown

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


def echo(line: str = "") -> None:
    """Print a result."""
    typer.echo(line)


def say(line: str) -> None:
    """Print a note, beside the results."""
    typer.echo(line, err=True)


def clear_line() -> None:
    """Take away what `data_progress` left on the terminal."""
    if sys.stderr.isatty():
        print("\x1b[K", end="", file=sys.stderr, flush=True)


_said: dict[str, float] = {}


def data_progress(title: str, done: int, total: int) -> None:
    """Say how far a long pass over the data is: on one line of the terminal, or a line every 15 seconds in a log."""
    is_terminal, now = sys.stderr.isatty(), time.monotonic()
    if is_terminal and total and done >= total:
        clear_line()
    elif now - _said.setdefault(title, now) >= (0.1 if is_terminal else 15.0):
        _said[title] = now
        line = f"{title}: {done:,}" + (f" of {total:,}" if total else "")
        # On a terminal it goes over the line before, which may be longer.
        print(f"\x1b[K{line}" if is_terminal else line, end="\r" if is_terminal else "\n", file=sys.stderr, flush=True)


def check_format(value: str, known: tuple[str, ...]) -> None:
    """Refuse an unknown --format."""
    if value not in known:
        raise ConfigError(unknown("--format", value, known))


DataArgument = Annotated[str | None, typer.Argument(help="folder of class folders, manifest or catalogue name")]
EngineOption = Annotated[str, typer.Option(help="auto, openvino or torch")]
PrecisionOption = Annotated[str, typer.Option(help="auto, 32 or bf16, of the engine")]
RunArgument = Annotated[Path, typer.Argument(help="run folder or model folder")]
