"""From strategies, backbones and values of settings to the cells of a study. Importing this module loads no torch."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from headstart.config import Config, make_config
from headstart.errors import ConfigError, did_you_mean
from headstart.experiment.settings import ineffective_settings
from headstart.studies.cells import OF_THE_DATA, Cell
from headstart.training.strategies import find_strategy

_NOT_VARIED = {
    **dict.fromkeys(OF_THE_DATA, "all cells are compared on the same images"),
    "seed": "use --seeds", "out": "each cell has a folder of its own", "strategy": "use --strategies",
    "backbone": "use --backbones", "table": "name the YAML file in --strategies",
    "repeat": "cells are runs of their own", "selection_score": "all cells are ranked in one way",
}  # fmt: skip
_OF_WEIGHTS = {"weights", "head_init", "match"}


def make_cells(
    config: Config,
    *,
    strategies: Sequence[str],
    backbones: Sequence[str] = (),
    vary: Mapping[str, Sequence[Any]] | None = None,
) -> tuple[Cell, ...]:
    """Combine strategies, backbones and values of settings with the settings that all cells share.

    A varied setting that means nothing to a strategy makes no further cell of it (`head_lr_mult` and `head`). For one
    that starts from random weights, such as `scratch`, weights, and what is said about their head, are left out.

    Args:
        config: Settings that all cells share.
        strategies: Names or YAML tables.
        backbones: Names; default: the one of `config`.
        vary: Name of a setting -> its values, as words or as what the setting takes.

    Raises:
        ConfigError: A setting is not known, cannot be varied, a value does not fit, a name came twice, two cells have
            one name, or they have one configuration under two names.
    """
    vary = vary or {}
    _refuse_twice("--strategies", strategies)
    _refuse_twice("--backbones", backbones)
    _check_varied(vary)
    found: dict[str, Cell] = {}
    for backbone, strategy in itertools.product(backbones or (config.backbone,), strategies):
        title = Path(strategy).stem if _is_file(strategy) else strategy
        if len(backbones) > 1:
            title = f"{backbone}: {title}"
        for cell in _cells_of(config, strategy, backbone, vary, title):
            if found.setdefault(cell.name, cell).config != cell.config:
                raise ConfigError(f"two strategies are called {cell.name!r}; give one of the files another name")
    for first, second in itertools.combinations(found.values(), 2):
        if first.config == second.config:
            raise ConfigError(
                f"{first.name!r} and {second.name!r} are one and the same; give each value of --vary once"
            )
    return tuple(found.values())


def _is_file(strategy: str) -> bool:
    """Tell whether a strategy is named by the YAML file of its table."""
    return strategy.endswith((".yaml", ".yml"))


def _cells_of(
    config: Config, strategy: str, backbone: str, vary: Mapping[str, Sequence[Any]], title: str
) -> Iterator[Cell]:
    """Give a cell of one strategy and backbone for each combination of the varied values; some may be the same."""
    values = config.model_dump(exclude_unset=True, exclude={"seed", "out", "repeat"})
    varied = dict(vary)
    if strategy != config.strategy:
        values.pop("table", None)
    if not _is_file(strategy) and not find_strategy(strategy, values.get("table")).is_pretrained:
        for key in _OF_WEIGHTS:
            values.pop(key, None)
            varied.pop(key, None)
    make = partial(_configure, values, {"strategy": strategy, "backbone": backbone})

    for combination in itertools.product(*varied.values()):
        given = dict(zip(varied, combination, strict=True))
        kept = _with_effect(make, given, varied)
        yield Cell(", ".join([title, *_settings_text(kept)]), make(kept))


def _refuse_twice(flag: str, names: Sequence[str]) -> None:
    """Refuse a name that came more than once."""
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"{flag} {','.join(names)}: {name} is named twice; name each once")


def _settings_text(values: Mapping[str, Any]) -> list[str]:
    """Return `setting=value` for each setting."""
    return [f"{key}={value}" for key, value in values.items()]


def _configure(values: Mapping[str, Any], cell: Mapping[str, Any], varied: Mapping[str, Any]) -> Config:
    """Make the settings of a cell; an error says which varied values do not fit."""
    try:
        return make_config({**values, **cell, **varied})
    except ConfigError as error:
        if not varied:
            raise
        raise ConfigError(f"--vary {', '.join(_settings_text(varied))}: {error}") from error


def parse_vary(words: Iterable[str]) -> dict[str, list[str]]:
    """Read `setting=a,b` words (of `--vary`); `a;b` where the values themselves hold commas.

    Raises:
        ConfigError: A word has no `=`, or a setting is named twice.
    """
    found: dict[str, list[str]] = {}
    for word in words:
        name, equals, text = word.partition("=")
        key = name.strip().replace("-", "_")
        if not equals or not key or key in found:
            raise ConfigError(f"--vary takes setting=value,value once for each setting; got {word!r}")
        separator = ";" if ";" in text else ","
        values = [value.strip() for value in text.split(separator)]
        found[key] = [value for value in values if value]
    return found


def _check_varied(vary: Mapping[str, Sequence[Any]]) -> None:
    """Refuse settings that do not exist or cannot be varied, and values that are no list of different ones."""
    for key, values in vary.items():
        if key not in Config.model_fields:
            raise ConfigError(f"--vary {key}: there is no such setting.{did_you_mean(key, Config.model_fields)}")
        if key in _NOT_VARIED:
            raise ConfigError(f"--vary {key} is not possible: {_NOT_VARIED[key]}")
        words = [str(value) for value in values]
        if not words or len(set(words)) < len(words):
            raise ConfigError(f"--vary {key}={','.join(words)}: expected one or more values, no two alike")


def _with_effect(
    make: Callable[[Mapping[str, Any]], Config], given: Mapping[str, Any], vary: Mapping[str, Sequence[Any]]
) -> dict[str, Any]:
    """Leave out what changes nothing for these settings."""
    kept = {}
    for key, value in given.items():
        # A default is never called ineffective, so one that differs from it is tried.
        tried = [make({**given, key: other}) for other in vary[key]]
        if not any(key in ineffective_settings(config) for config in tried):
            kept[key] = value
    return kept
