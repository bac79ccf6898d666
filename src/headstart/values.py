"""How the values of settings may be written: on a command line, in YAML, and in Python. Loads no torch."""

import json
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BeforeValidator, Field

from headstart.errors import ConfigError


def _read_pairs(value: object) -> object:
    """Read `a=b,c=d`, a JSON object, or a YAML file holding a mapping, into a dict; names may be whole numbers."""
    if isinstance(value, Mapping):
        return {_read_name(key): item for key, item in value.items()}
    if not isinstance(value, str):
        raise ValueError("expected name=value pairs")
    if value.endswith((".yaml", ".yml")):
        return _read_pairs(read_yaml(Path(value)))
    if value.startswith("{"):  # as `command_words` writes names that hold commas and the like
        return json.loads(value)
    pairs = {}
    for part in value.split(","):
        if not part.strip():
            continue
        key, _, item = part.partition("=")
        if not key.strip() or not item.strip():
            raise ValueError(f"expected name=value pairs separated by commas, or a YAML file; got {part!r}")
        pairs[key.strip()] = item.strip()
    return pairs


def _read_pairs_of_names(value: object) -> object:
    """Read what `_read_pairs` reads, where the values are names too."""
    pairs = _read_pairs(value)
    if not isinstance(pairs, dict):
        return pairs
    return {key: _read_name(item) for key, item in pairs.items()}


def _read_name(value: object) -> str:
    """Return the name of a class or split, which YAML may have read as something else.

    Raises:
        ValueError: The value is no name.
    """
    if isinstance(value, bool):
        raise ValueError(f"expected a name; YAML reads yes, no, on and off as {value}, so put such a name into quotes")
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        return value
    raise ValueError(f"expected a name; got {value!r}. Put it into quotes")


def _read_counts(value: object) -> object:
    """Read `N`, or `train=N,test=M`."""
    if value is None:
        return None
    with suppress(TypeError, ValueError):
        found: Any = value
        if isinstance(value, str):
            found = int(value) if value.isdigit() else _read_pairs(value)
        counts = found.values() if isinstance(found, Mapping) else [found]
        if counts and all(int(count) >= 1 for count in counts):
            return found
    raise ValueError("expected N, or train=N,test=M, each at least 1")


def _read_list(value: object) -> object:
    """Read `a,b,c`, or one value, into a list."""
    if value is None or isinstance(value, list | tuple):
        return value
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return [value]


def _read_list_of_names(value: object) -> object:
    """Read `a,b,c`, or one name, into a list of names."""
    names = _read_list(value)
    if not isinstance(names, list | tuple):
        return names
    return [_read_name(name) for name in names]


def _read_duration(value: object) -> object:
    """Read `90`, `90s`, `10m` or `1.5h`, or a `timedelta`, into seconds."""
    if isinstance(value, timedelta):
        return value.total_seconds()
    if not isinstance(value, str):
        return value
    factor = {"s": 1, "m": 60, "h": 3600}.get(value[-1:])
    try:
        if factor is None:
            return float(value)
        return float(value[:-1]) * factor
    except ValueError:
        raise ValueError("expected seconds, or 10m, 1h") from None


def _read_gigabytes(value: object) -> object:
    """Read `8`, `8GB` or `800MB` into units of 10**9 bytes."""
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"([\d.]+)\s*(MB|GB|)", value.strip(), re.IGNORECASE)
    with suppress(ValueError):
        if match:
            number = float(match[1])
            return number / 1000 if match[2].upper() == "MB" else number
    raise ValueError("expected gigabytes, such as 8 or 8GB, or 800MB")


def plain_value(value: object, words: Sequence[str] = ()) -> object:
    """Return what a person, Python or YAML may write for a setting as the plain value that is meant.

    Paths and devices of torch become texts, numbers of NumPy numbers of Python. Where certain words are expected, a
    number is its text (`precision: 32`), and what YAML makes of `off`, `on` and `none` is that word again.

    Args:
        value: Value as it was given.
        words: What is expected, if only certain words are.
    """
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    kind = type(value)
    if kind.__module__ == "torch" and kind.__name__ == "device":
        return str(value)
    if kind.__module__ == "numpy" and hasattr(value, "tolist"):
        return value.tolist()
    if words and isinstance(value, bool):
        for word in ("auto", "on") if value else ("off", "none"):
            if word in words:
                return word
        return value
    if words and isinstance(value, int):
        return str(value)
    if words and value is None and "none" in words:
        return "none"
    return value


def _place_and_problem(error: yaml.MarkedYAMLError) -> str:
    """Say where YAML is wrong, and what is wrong: ` in line 2, column 5: found a tab`."""
    text = ""
    mark = error.problem_mark or error.context_mark
    if mark is not None:
        text = f" in line {mark.line + 1}, column {mark.column + 1}"
    problem = " ".join(str(error.problem or error.context or "").split())
    if problem:
        text += f": {problem}"
    return text


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping.

    Raises:
        ConfigError: The file is missing, is not YAML or holds something else.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}; give the path of a YAML file") from error
    except yaml.MarkedYAMLError as error:
        raise ConfigError(f"{path} is not valid YAML{_place_and_problem(error)}; correct it there") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path} holds a {type(values).__name__}; expected a mapping of settings such as 'epochs: 5'")
    return {str(key): value for key, value in values.items()}


Pairs = Annotated[dict[str, str], BeforeValidator(_read_pairs_of_names)]
Matches = Annotated[dict[str, int | str], BeforeValidator(_read_pairs)]
Counts = Annotated[int | dict[str, int] | None, BeforeValidator(_read_counts)]
Ints = Annotated[list[Annotated[int, Field(ge=0)]] | None, BeforeValidator(_read_list)]
Names = Annotated[list[str], BeforeValidator(_read_list_of_names)]
Floats = Annotated[list[Annotated[float, Field(gt=0)]] | None, BeforeValidator(_read_list)]
Seconds = Annotated[float | None, BeforeValidator(_read_duration)]
Gigabytes = Annotated[float | None, BeforeValidator(_read_gigabytes)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
