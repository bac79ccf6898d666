"""What all commands share: the program, its output, and options that several of them take."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headstart.errors import ConfigError, unknown

if TYPE_CHECKING:
    from headstart.display import Display

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
    """Print a line beside the results."""
    typer.echo(line, err=True)


def terminal() -> "Display":
    """Return what commands show progress and notes on."""
    from headstart.display import TerminalDisplay

    return TerminalDisplay()


def check_format(value: str, known: tuple[str, ...]) -> None:
    """Refuse an unknown --format."""
    if value not in known:
        raise ConfigError(unknown("--format", value, known))


DataArgument = Annotated[str | None, typer.Argument(help="folder of class folders, manifest or catalogue name")]
EngineOption = Annotated[str, typer.Option(help="auto, openvino or torch")]
PrecisionOption = Annotated[str, typer.Option(help="auto, 32 or bf16, of the engine")]
RunArgument = Annotated[Path, typer.Argument(help="run folder or model folder")]
