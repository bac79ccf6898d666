"""Commands for data sets."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headstart.cli.settings import with_settings
from headstart.cli.shared import DataArgument, OverwriteOption, data_app, echo, refuse_existing, terminal

if TYPE_CHECKING:
    from headstart.config import Config


@data_app.command("list")
def data_list() -> None:
    """List the catalogue."""
    from headstart.data.catalog import CATALOG

    for name, entry in CATALOG.items():
        echo(f"{name:28}{entry.description}")


@data_app.command("get")
def data_get(name: Annotated[str, typer.Argument(help="a name from: headstart data list")]) -> None:
    """Fetch a data set of the catalogue and say where it is."""
    from headstart.data.catalog import data_set_folder

    echo(str(data_set_folder(name, terminal().progress)))


@data_app.command("show")
@with_settings
def data_show(
    *,
    config: "Config",
    data: DataArgument = None,
    sheet: Annotated[Path | None, typer.Option(help="where the contact sheet goes; default: contact-sheet.png")] = None,
    overwrite: OverwriteOption = False,
    split: Annotated[str | None, typer.Option(help="which split to draw from")] = None,
    per_class: Annotated[int, typer.Option(min=1, help="pictures per row")] = 8,
    augmented: Annotated[bool, typer.Option("--augmented", help="show augmented training views instead")] = False,
) -> None:
    """Print the class counts per split and write a labelled contact sheet."""
    from headstart.experiment.sheet import show_data
    from headstart.tables import print_counts

    refuse_existing(sheet, overwrite, "--sheet")
    sheet = sheet or Path("contact-sheet.png")
    manifest = show_data(config, sheet, split=split, per_class=per_class, augmented=augmented, display=terminal())
    print_counts(manifest)
    echo(f"contact sheet: {sheet}")
