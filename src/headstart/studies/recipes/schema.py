"""What a recipe's file may say: its keys, their types, and what a cell may set.

A file may come from a stranger. It names no place to write to and no file of weights, settings or code; what it makes
Headstart fetch are data sets of the catalogue and published networks, by name. Texts are one printable line, because
they end up on a terminal.
"""

import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Any, Final, Literal, NamedTuple, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from headstart.config import Config, make_config
from headstart.errors import ConfigError, did_you_mean, unknown
from headstart.experiment.settings import strategy_of
from headstart.training.strategies import STRATEGIES

HALF: Final = "half"
"""As `stages`: the upper half of the backbone's stages, counted when the backbone is known."""

Settings = Mapping[str, Any]

# Settings that are not a cell's, and who decides instead.
NOT_OF_A_CELL: Final = {
    "data": "the recipe's own `data` names the images",
    "map": "the recipe's own `map` merges classes",
    "exclude": "a recipe takes all classes of its data",
    "max_per_class": "the recipe's own `train_per_class` and `reported_per_class` say how many",
    "seed": "--seeds says how many there are",
    "threads": "it belongs to the machine",
    "out": "everything is written below --out",
    "repeat": "what a run decided is its own",
}


class _Wording(NamedTuple):
    """What the text of a setting must look like."""

    pattern: str
    expected: str


# Settings whose text could name a file, or something to fetch.
WORDINGS: Final = {
    "backbone": _Wording(r"(timm/)?\w[\w.-]*", "the name of a network, such as resnet18 or timm/resnet26"),
    "strategy": _Wording(r"\w[\w-]*", "the name of a strategy; one of your own is written into `table`"),
    "weights": _Wording("none", "none; the person who runs the recipe names a file or run, with --weights"),
    "device": _Wording(r"auto|cpu|mps|cuda(:\d+)?", "auto, cpu, cuda, cuda:N or mps"),
}


def _check_text(text: str) -> str:
    """Refuse a text that is empty or not one printable line."""
    if not text.strip() or not text.isprintable():
        raise ValueError("expected one line of printable text")
    return text


def _check_data(text: str) -> str:
    """Refuse a data set that is an address, or looks like an option."""
    if text.startswith("-") or "://" in text:
        raise ValueError("expected a catalogue name, a folder or a manifest")
    return text


def _check_texts(value: object) -> None:
    """Check every text in a setting, including the names of inner keys."""
    if isinstance(value, str):
        _check_text(value)
    elif isinstance(value, dict):
        _check_texts([*value, *value.values()])
    elif isinstance(value, list):
        for each in value:
            _check_texts(each)


def _check_part_name(name: str) -> str:
    """Refuse a name that could not be part of the name of a file, because it becomes one."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9 _-]{0,59}", name):
        raise ValueError(f"{name!r} is not possible: expected letters, digits, spaces, - and _, 60 at most")
    return name


def _check_wording(setting: str, value: Any) -> Any:
    """Refuse a text that could name a file or something to fetch, where the setting takes other names only."""
    wording = WORDINGS[setting]
    if not re.fullmatch(wording.pattern, str(value)):
        raise ValueError(f"{setting}={value!r} is not possible in a recipe: expected {wording.expected}")
    return value


def _check_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """Refuse what is no setting, and what a file from a stranger must not decide."""
    _check_texts(settings)
    for key, value in settings.items():
        if key not in Config.model_fields:
            raise ValueError(f"unknown setting {key!r}.{did_you_mean(key, Config.model_fields)}")
        if key in NOT_OF_A_CELL:
            raise ValueError(f"a recipe cannot set {key}: {NOT_OF_A_CELL[key]}")
        if key in WORDINGS and value is not None:
            _check_wording(key, value)
        # Elsewhere a text is `class=row` pairs, or a file that holds them.
        if key == "match" and not isinstance(value, dict):
            raise ValueError(f"match={value!r} is not possible in a recipe: expected a mapping from class to row")
    return settings


def _as_names(value: object) -> object:
    """Return one name as a list of one; what else there is stays."""
    if isinstance(value, str):
        return [value]
    return value


Text = Annotated[str, Field(max_length=1000), AfterValidator(_check_text)]
Data = Annotated[Text, AfterValidator(_check_data)]
Name = Annotated[Text, Field(max_length=100)]
PartName = Annotated[str, AfterValidator(_check_part_name)]
Network = Annotated[str, AfterValidator(partial(_check_wording, "backbone"))]
CheckedSettings = Annotated[dict[str, Any], AfterValidator(_check_settings)]


class Spec(BaseModel):
    """Part of a file: frozen, and unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True)


class Published(Spec):
    """A figure that the lesson printed.

    Attributes:
        cell: Name of the row that it belongs to.
        accuracy: The accuracy as it was published.
        source: The place where it was published.
    """

    cell: Name
    accuracy: Text
    source: Text


class Part(Spec):
    """Cells that answer one question together, each compared with the most accurate on the reported images.

    Attributes:
        name: Name of the part, for `--part`.
        question: The question that its table answers.
        cells: Names of the cells that are its rows.
        published: Figures of the source, printed beside it.
        needs: What must be there, or the part is left out and says why: `source classes` (the weights' own final
            layer, with names or `match`), `backbones` (several), or nothing.
    """

    name: PartName
    question: Text
    cells: tuple[Name, ...] = Field(min_length=1)
    published: tuple[Published, ...] = ()
    needs: Literal["", "source classes", "backbones"] = ""


class CellSpec(BaseModel):
    """One way to train, a row of a part's table; its settings stand beside `use`.

    Attributes:
        use: Names of the presets that it starts from; later ones win.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    use: Annotated[tuple[str, ...], BeforeValidator(_as_names)] = ()

    @property
    def settings(self) -> Settings:
        """Fields of `Config` that are its own."""
        return self.model_extra or {}

    @model_validator(mode="after")
    def _check_own_settings(self) -> Self:
        """Refuse settings of the cell itself that a recipe must not decide."""
        _check_settings(dict(self.settings))
        return self


class SourceSpec(Spec):
    """A source network that is trained first where no weights are given.

    Attributes:
        settings: Settings that it is trained with.
        always: Whether it is trained for networks with published weights too.
    """

    settings: CheckedSettings
    always: bool = False

    def checked_settings(self) -> dict[str, Any]:
        """Return its settings, checked and as plain values.

        Raises:
            ConfigError: One is not valid, or two contradict each other.
        """
        return _checked_values("source", self.settings)


class Recipe(Spec):
    """A lesson, from data to verdict.

    Attributes:
        name: Name on the command line, which is that of its file.
        title: One line for people.
        question: The question that it asks.
        data: Catalogue name of its data set, a folder or a manifest.
        backbones: Names of networks, the lesson's first; with more, all of them are put side by side.
        takes: The time that a run takes, in words.
        notes: Sentences about where Headstart does otherwise than the source.
        settings: Settings of every cell.
        presets: Settings by name, for cells to `use`.
        cells: Name of a cell -> its settings that differ from `settings`. In two parts a cell is the same run.
        parts: The parts in order; the first is the lesson as it is taught.
        map: Classes to merge, where the data has all of those that it names.
        train_per_class: Images per class of a balanced, seeded subset of train, or None for all.
        reported_per_class: Images per class of a balanced, seeded subset of the reported split, or None for all of it.
        match_suffix: End of the names of those weight files that the numbers in `match` are of; with other weights
            rows are found by the names of classes. Empty: all weights.
        source: A source network to train first, or None.
    """

    name: Name
    title: Text
    question: Text
    data: Data
    backbones: Annotated[tuple[Network, ...], BeforeValidator(_as_names)] = Field(min_length=1)
    takes: Text
    notes: tuple[Text, ...] = ()
    settings: CheckedSettings = {}
    presets: dict[Name, CheckedSettings] = {}
    cells: dict[Name, CellSpec] = Field(min_length=1)
    parts: tuple[Part, ...] = Field(min_length=1)
    map: dict[Name, Name] = {}
    train_per_class: int | None = Field(None, ge=1)
    reported_per_class: int | None = Field(None, ge=1)
    match_suffix: str = ""
    source: SourceSpec | None = None

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        """Refuse names of presets and cells that are not there, and names that come twice."""
        for name, cell in self.cells.items():
            _check_known(f"cells.{name}", "preset", cell.use, self.presets)
        _refuse_twice("parts", [part.name for part in self.parts])
        for part in self.parts:
            place = f"parts.{part.name}"
            _check_known(place, "cell", part.cells, self.cells)
            _refuse_twice(place, part.cells)
            published = [figure.cell for figure in part.published]
            _check_known(f"{place}.published", "cell of this part", published, part.cells)
        return self

    @model_validator(mode="after")
    def _check_values(self) -> Self:
        """Refuse settings that are not valid together."""
        for name in self.cells:
            self.settings_of(name)
        if self.source is not None:
            self.source.checked_settings()
        return self

    def settings_of(self, cell: str) -> dict[str, Any]:
        """Return all settings of a cell, checked and as plain values: everyone's, then its presets', then its own.

        Raises:
            ConfigError: One is not valid, or two contradict each other.
        """
        settings = dict(self.settings)
        for preset in self.cells[cell].use:
            settings |= self.presets[preset]
        settings |= self.cells[cell].settings

        # Half the stages are counted later; any number of them can be checked now.
        is_half = settings.get("stages") == HALF
        if is_half:
            settings["stages"] = 1
        checked = _checked_values(f"cells.{cell}", settings)
        if is_half:
            checked["stages"] = HALF
        return checked


def _checked_values(place: str, settings: Settings) -> dict[str, Any]:
    """Return settings as the values that `Config` makes of them, without those that were not given."""
    try:
        config = make_config(settings)
        strategy_of(config)
        if config.table is not None and config.strategy in STRATEGIES:
            raise ConfigError(f"strategy {config.strategy!r} has a table of its own; name the table otherwise")
        return config.model_dump(exclude_unset=True)
    except ConfigError as error:
        raise ConfigError(f"{place}: {error}") from error


def _check_known(place: str, what: str, names: Sequence[str], known: Mapping[str, object] | Sequence[str]) -> None:
    """Refuse names that are not known."""
    for name in names:
        if name not in known:
            raise ValueError(f"{place}: {unknown(what, name, known)}")


def _refuse_twice(place: str, names: Sequence[str]) -> None:
    """Refuse a name that comes more than once."""
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{place}: {name!r} is named twice; name it once")
