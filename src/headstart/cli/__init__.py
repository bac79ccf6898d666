"""The command line: parse, call one function, print. Every module adds its commands to `shared.app`."""

import errno
import os
import sys
import traceback
from typing import Annotated

import typer

from headstart._version import __version__
from headstart.cli.settings import attach_settings
from headstart.cli.shared import app, echo, set_verbose
from headstart.errors import HeadstartError
from headstart.text import escape_what_cannot_be_written, visible

# The order of these imports is that of the commands in --help.
# isort: split
from headstart.cli import training, models, studies, report, recipes, data  # noqa: I001

__all__ = ["app", "data", "main", "models", "recipes", "report", "studies", "training"]


def _print_version(is_asked: bool) -> None:
    """Print the version and end the program, where it was asked for."""
    if is_asked:
        echo(f"headstart {__version__}")
        raise typer.Exit


@app.callback()
def _take_program_options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="show the version")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="show details that ask for no action too")] = False,
) -> None:
    """Take the options of the program itself."""
    set_verbose(verbose)


def main() -> None:
    """Run the program: errors that a user can act upon are one line; HEADSTART_DEBUG=1 shows where they came from."""
    for stream in (sys.stdout, sys.stderr):
        escape_what_cannot_be_written(stream)
    try:
        if any(not word.startswith("-") for word in sys.argv[1:]):
            _prepare_process()
            attach_settings()
        app()
    except BaseException as error:
        if not isinstance(error, SystemExit) and os.environ.get("HEADSTART_DEBUG") == "1":
            traceback.print_exc()
        sys.exit(_print_error(error))


def _prepare_process() -> None:
    """Set what a program may set for its whole process and a library may not; before PyTorch is loaded."""
    from headstart.machine import keep_freed_memory, spin_briefly

    keep_freed_memory()
    spin_briefly()


def _print_error(error: BaseException) -> int | str | None:
    """Print in one line what went wrong, and return the exit code."""
    from headstart.display import clear_bars

    clear_bars()
    match error:
        case KeyboardInterrupt() | SystemExit(code=130):  # typer turns the one into the other
            line = "; ".join(["interrupted", *_how_to_go_on(error)])
            print(visible(line), file=sys.stderr)
            return 130
        case SystemExit():
            return error.code
        case HeadstartError():
            line = " ".join(str(error).split())
            print(f"error: {visible(line)}", file=sys.stderr)
            return error.exit_code
        case OSError(errno=errno.ENOSPC | errno.EDQUOT):  # of the stream that results are printed to, for one
            where = error.filename or "the output"
            print(visible(f"error: cannot write {where}: {error.strerror}; free some space"), file=sys.stderr)
            if not error.filename:
                _drop_output()
            return 2
        case BrokenPipeError():
            _drop_output()  # whose reader (`| head`) is gone
            return 141
    text = f"unexpected error: {type(error).__name__}: {error} (HEADSTART_DEBUG=1 shows where; please report it)"
    print(visible(" ".join(text.split())), file=sys.stderr)
    return 1


def _drop_output() -> None:
    """Lead standard output nowhere: Python would complain again when it flushes at exit what could not be written."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _how_to_go_on(error: BaseException) -> list[str]:
    """Return what an interrupted command noted about going on; most have nothing to go on with."""
    interrupt: BaseException | None = error
    while interrupt is not None and not isinstance(interrupt, KeyboardInterrupt):
        interrupt = interrupt.__context__
    # The last note is of the outermost: of the study, where a run of it was interrupted.
    return getattr(interrupt, "__notes__", [])[-1:]
