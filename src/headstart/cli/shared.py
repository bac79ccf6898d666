"""What all commands share: the program, its output, and options that several of them take."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from headstart.errors import ConfigError, unknown
from headstart.text import visible

if TYPE_CHECKING:
    from headstart.display import Display


class Program(TyperGroup):
    """The program, whose own option `--verbose` may stand behind the command's name too."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Bring `--verbose` to the front, where typer expects it; behind `--` it is no option."""
        end = len(args)
        if "--" in args:
            end = args.index("--")
        if "--verbose" in args[:end]:
            others = [word for word in args[:end] if word != "--verbose"]
            args = ["--verbose", *others, *args[end:]]
        return super().parse_args(ctx, args)


_is_verbose = False  # one command runs in a process, and its root is told first

app = typer.Typer(
    name="headstart",
    cls=Program,
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
    from headstart.display import clear_bars

    clear_bars()
    typer.echo(visible(line))


def say(line: str) -> None:
    """Print a line beside the results."""
    terminal().say(line)


def terminal() -> "Display":
    """Return what commands show progress and notes on, and with `--verbose` details."""
    from headstart.display import make_display

    return make_display(is_verbose=is_verbose())


def set_verbose(value: bool) -> None:
    """Note whether the command that runs was asked for details."""
    global _is_verbose
    _is_verbose = value


def is_verbose() -> bool:
    """Tell whether the command that runs was asked for details."""
    return _is_verbose


def refuse_existing(path: Path | None, overwrite: bool, flag: str) -> None:
    """Refuse to write over a file that the user named, unless that was asked for.

    A command's own default is renewed: nobody else writes there.

    Args:
        path: Path that the user named; None where none was named.
        overwrite: Whether --overwrite was given.
        flag: Flag that names the file, for the message.
    """
    if path is not None and path.is_file() and not overwrite:
        raise ConfigError(f"{path} is there already; --overwrite replaces it, or name another file with {flag}")


def check_format(value: str, known: tuple[str, ...]) -> None:
    """Refuse an unknown --format."""
    if value not in known:
        raise ConfigError(unknown("--format", value, known))


DataArgument = Annotated[str | None, typer.Argument(help="folder of class folders, manifest or catalogue name")]
EngineOption = Annotated[str, typer.Option(help="auto, openvino, torch-compiled or torch")]
PrecisionOption = Annotated[str, typer.Option(help="auto, 32 or bf16, of the engine")]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="replace the file if it is there")]
RunArgument = Annotated[Path, typer.Argument(help="run folder or model folder")]
