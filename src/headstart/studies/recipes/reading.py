"""Recipes by name or file, read as plain data and checked."""

import reprlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import BaseModel, ValidationError

from headstart.errors import ConfigError, did_you_mean, unknown
from headstart.studies.recipes.schema import Part, Published, Recipe, SourceSpec

_FILES = sorted(Path(__file__).parent.glob("*.yaml"), key=lambda file: file.stem)
RECIPES: Final = {file.stem: file for file in _FILES}
"""The file of each of Headstart's own recipes, by name."""

_MOST_BYTES = 1 << 20
_YAML_WORDS = {"dictionary or instance of CellSpec": "mapping", "dictionary": "mapping", "tuple": "list"}
_SPECS: dict[str, type[BaseModel]] = {"parts": Part, "published": Published, "source": SourceSpec}


class _PlainLoader(yaml.SafeLoader):
    """Reads plain data: no tags, no key twice, and no aliases, a few lines of which can stand for gigabytes."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Refuse an alias."""
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(problem="aliases (*name) are not taken; use presets", problem_mark=mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Refuse a key that is there twice; YAML itself would take the last one."""
        seen = set()
        for key, _ in node.value:
            if str(key.value) in seen:
                raise yaml.MarkedYAMLError(problem=f"{key.value!r} is there twice", problem_mark=key.start_mark)
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


def recipe_file(name: str | Path) -> Path:
    """Return the file of a recipe: one of Headstart's own by its name, or any by its path.

    Raises:
        ConfigError: There is none of this name.
    """
    if str(name).endswith((".yaml", ".yml")):
        return Path(name)
    if str(name) not in RECIPES:
        raise ConfigError(f"{unknown('recipe', str(name), RECIPES)}, or a YAML file of your own")
    return RECIPES[str(name)]


def find_recipe(name: str | Path) -> Recipe:
    """Read a recipe and check all that can be checked without its data and networks.

    Args:
        name: One of `RECIPES`, or a path that ends in .yaml or .yml.

    Raises:
        ConfigError: It cannot be used; the message is one line with the file, the place in it and what was expected.
    """
    path = recipe_file(name)
    values = _read_plain(path)
    if "name" in values:
        raise ConfigError(f"{path}: leave out 'name'; a recipe is called as its file is")
    try:
        return Recipe.model_validate({**values, "name": path.stem})
    except ValidationError as error:
        raise ConfigError(f"{path}: {_first_recipe_error(error)}") from error
    except ConfigError as error:  # of the values of settings
        raise ConfigError(f"{path}: {error}") from error


def _read_plain(path: Path) -> dict[str, Any]:
    """Read a file as plain data: mappings, lists, texts and numbers.

    Raises:
        ConfigError: It cannot be read, is no YAML, or holds no mapping.
    """
    try:
        num_bytes = path.stat().st_size
        if num_bytes > _MOST_BYTES:
            raise ConfigError(f"{path} is larger than any recipe: {num_bytes:,} bytes; expected a YAML file")
        values = yaml.load(path.read_text(encoding="utf-8"), _PlainLoader)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}; give the path of a recipe's YAML file") from error
    except (yaml.YAMLError, ValueError) as error:  # numbers and dates that are none raise the latter
        raise ConfigError(f"{path} is not valid YAML: {_yaml_problem(error)}") from error
    except RecursionError as error:
        raise ConfigError(f"{path} is nested too deeply for a recipe") from error
    if not isinstance(values, dict):
        found = "nothing" if values is None else f"a {type(values).__name__}"
        raise ConfigError(f"{path} holds {found}; expected a recipe; headstart recipe print hotdog shows one")
    return {str(key): value for key, value in values.items()}


def _yaml_problem(error: Exception) -> str:
    """Say what is wrong with a YAML file, with line and column where they are known."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"line {mark.line + 1}, column {mark.column + 1}: {error.problem}"
    return " ".join(str(error).split())


def _first_recipe_error(error: ValidationError) -> str:
    """Say where the first problem is, and what: `parts[0].question is missing`."""
    # What a misspelt key leaves missing is an error too, and says less.
    errors = error.errors()
    unknown_keys = [each for each in errors if each["type"] == "extra_forbidden"]
    first = (unknown_keys or errors)[0]

    location = first["loc"]
    place = _place_in_file(location)
    if first["type"] == "extra_forbidden":
        suggestion = did_you_mean(str(location[-1]), _known_keys(location))
        return f"unknown key {place}.{suggestion}"
    if first["type"] == "missing":
        return f"{place} is missing"
    message = str(first["msg"])
    if first["type"] == "value_error":
        message = message.removeprefix("Value error, ")
        return f"{place}: {message}" if place else message

    # What pydantic says of a wrong type, in the words of YAML.
    for theirs, ours in _YAML_WORDS.items():
        message = message.replace(theirs, ours)
    return f"{place}={reprlib.repr(first['input'])} is not valid: {message[:1].lower()}{message[1:]}"


def _place_in_file(location: Sequence[str | int]) -> str:
    """Write a place in the file: `parts[0].published[1].accuracy`."""
    place = ""
    for part in location:
        if isinstance(part, int):
            place += f"[{part}]"
        elif part.isprintable():
            place += f".{part}"
        else:  # no terminal should be sent it
            place += f".{part!r}"
    return place.removeprefix(".")


def _known_keys(location: Sequence[str | int]) -> list[str]:
    """Return the keys that there are where an unknown one stands."""
    owners = [part for part in location[:-1] if isinstance(part, str)]
    if owners:
        return list(_SPECS[owners[-1]].model_fields)
    return [key for key in Recipe.model_fields if key != "name"]
