"""One flag per setting, for the commands that take settings."""

import inspect
from collections.abc import Callable
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Optional, Union, get_args, get_origin

import typer

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

# The first setting of each panel of --help; the others follow in the order of `Config`.
_PANELS = {
    "layout": "Data",
    "backbone": "Model",
    "strategy": "Strategy",
    "lr": "Optimisation",
    "best_epoch": "Selection",
    "time_limit": "Run",
}


def _flag_type(field: "FieldInfo") -> type:
    """Return what the command line parses for a setting: int, float, bool or text that `Config` reads."""
    from pydantic import BeforeValidator

    if any(isinstance(part, BeforeValidator) for part in field.metadata):
        return str
    types: tuple[Any, ...] = (field.annotation,)
    if get_origin(field.annotation) in (Union, UnionType):
        types = get_args(field.annotation)
    plain = [each for each in types if each is not type(None)]
    for kind in (int, float, bool):
        if plain == [kind]:
            return kind
    return str


def _flag(name: str, annotation: Any) -> inspect.Parameter:
    """Return a parameter of a command that is given as a flag, and is None without it."""
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _setting_flags() -> list[inspect.Parameter]:
    """Return a flag per setting, in the order of `Config`."""
    from headstart.config import Config, description

    flags = []
    panel = "Data"
    for name, field in Config.model_fields.items():
        panel = _PANELS.get(name, panel)
        if name in ("data", "table"):
            continue
        kind = _flag_type(field)
        text = description(name)
        word = name.replace("_", "-")
        spelling = f"--{word}"
        if kind is bool:
            spelling = f"--{word}/--no-{word}"
        elif field.default not in (None, {}, False):
            text += f" [dim](default {field.default})[/dim]"
        option = typer.Option(spelling, help=text, rich_help_panel=panel, show_default=False)
        flags.append(_flag(name, Annotated[Optional[kind], option]))  # noqa: UP045 (a union of a variable has no type)
    return flags


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

        settings = parse_assignments(assignments or [])
        own = {}
        for name, value in given.items():
            is_setting = name in Config.model_fields
            if is_setting and value is not None:
                settings[name] = value
            if not is_setting or name == "data":  # commands take the data by itself too
                own[name] = value
        command(config=load_config(config_file, settings), **own)

    wrapper.__name__ = command.__name__
    wrapper.__doc__ = command.__doc__
    wrapper.__signature__ = inspect.Signature()  # type: ignore[attr-defined]
    wrapper.__annotations__ = {}
    _commands_with_settings.append((wrapper, command))
    return wrapper


def attach_settings() -> None:
    """Add a flag per setting to the commands that take settings."""
    shared = [_flag("config_file", ConfigOption), _flag("assignments", SetOption), *_setting_flags()]
    for wrapper, command in _commands_with_settings:
        own = dict(inspect.signature(command).parameters)
        del own["config"]
        parameters = [*own.values(), *shared]
        wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        wrapper.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
