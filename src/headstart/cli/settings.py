"""One flag per setting, for the commands that take settings."""

import inspect
from collections.abc import Callable
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Optional, Union, get_args, get_origin

import typer

# The first setting of each panel of --help; the others follow in the order of `Config`.
_PANELS = {
    "layout": "Data",
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

    from headstart.config import Config, description

    parameters, panel = [], "Data"
    for name, field in Config.model_fields.items():
        panel = _PANELS.get(name, panel)
        if name in ("data", "table"):
            continue
        flag = "--" + name.replace("_", "-")
        kind = _flag_type(field.annotation, any(isinstance(part, BeforeValidator) for part in field.metadata))
        shown = "" if field.default in (None, {}, False) or kind is bool else f" [dim](default {field.default})[/dim]"
        option = typer.Option(
            f"{flag}/--no-{flag[2:]}" if kind is bool else flag,
            help=f"{description(name)}{shown}",
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
