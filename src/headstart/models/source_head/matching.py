"""Which output of a source head a class means: by name, synonym, plural or the user's word. Loads no torch."""

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from headstart.errors import ConfigError, did_you_mean, listed

# What a class may be matched to beside an output: a new row, or all other outputs together.
NEW = "none"
REST = "rest"

_REST_NAMES = frozenset(("other", "others", "rest", "therest", "everythingelse", "none", "noneofthese", "background"))
_NEGATIONS = ("not", "nota", "notan", "no", "non")
_MOST_SHOWN = 10


@dataclass(frozen=True)
class SourceClass:
    """Says what one output of a source head stands for.

    Attributes:
        names: Synonyms, the usual one first; empty where they are not known.
        meaning: A definition, or ''.
    """

    names: tuple[str, ...] = ()
    meaning: str = ""

    def __str__(self) -> str:
        return ", ".join(self.names) or "name not known"


@dataclass(frozen=True)
class Matching:
    """Says what each class of the data is to a source head.

    Attributes:
        labels: Class names, in the order of the new head's outputs.
        outputs: For each class the source's output with its meaning; None where it starts anew, or is `rest`.
        rest: Position of the class that stands for all other classes of the source, or None.
    """

    labels: tuple[str, ...]
    outputs: tuple[int | None, ...]
    rest: int | None

    def to_dict(self) -> dict[str, int | str]:
        """Return the matching as `match_labels` takes it, every class named."""
        words: dict[str, int | str] = {}
        for label, output in zip(self.labels, self.outputs, strict=True):
            words[label] = NEW if output is None else output
        if self.rest is not None:
            words[self.labels[self.rest]] = REST
        return words


def match_labels(
    labels: Sequence[str], classes: Sequence[SourceClass], given: Mapping[str, int | str] | None = None
) -> Matching:
    """Find the source's class for each class of the data.

    A class is looked up by its exact name; where that is no name of any source class, without regard to case and
    separators (`hot_dog`, `Hot-Dog` and `hotdog` are one); and then with the plural taken off either side (-s, -es
    after a hiss or o, -ies for -y). The first of these that finds anything decides. What it finds must be one class.
    `other`, `background` and the like, and `not_x`, `no-x` or `non x` beside a class `x`, stand for the rest.
    Where each class of the source has one of exactly its name, there is nothing left for the others: they are new.

    Args:
        labels: Classes of the data.
        classes: Classes of the source, in the order of its outputs.
        given: Class of the data -> output (a number, or digits), name of a source class, `none` (a new row) or `rest`.

    Raises:
        ConfigError: A class fits several of the source's, two fit one, none fits any, or `given` names what is not
            there.
    """
    given = dict(given or {})
    for label in given:
        if label not in labels:
            raise ConfigError(
                f"match names {label!r}, which is no class of the data.{did_you_mean(label, labels)} "
                f"It takes {', '.join(labels[:_MOST_SHOWN])}"
            )
    for label in _left_over(labels, classes, given):
        given[label] = NEW

    # What each class fits; what the user gave is one thing.
    names = _SourceNames(classes)
    found: dict[str, list[int | str]] = {}
    for label in labels:
        if label in given:
            found[label] = [names.read_given(label, given[label])]
        else:
            found[label] = [*names.find(label)]
    _refuse_unclear(found, names)

    # A class that fits nothing is new, or the rest, if there is any.
    words: dict[str, int | str] = {}
    for label, outputs in found.items():
        words[label] = outputs[0] if outputs else _new_or_rest(label, labels)
    num_matched = sum(isinstance(word, int) for word in words.values())
    if num_matched == len(classes):
        for label, word in words.items():
            if word == REST:
                words[label] = NEW
    _refuse_shared(words, names)
    if not num_matched:
        unnamed = "" if names.are_known else ", whose classes' names are not known here"
        raise ConfigError(
            f"none of {listed(words, _MOST_SHOWN)} is a class of the source{unnamed}. Say which is which with --match "
            "CLASS=NUMBER, or leave out --head-init source"
        )

    matched: list[int | None] = []
    rest = None
    for position, word in enumerate(words.values()):
        matched.append(word if isinstance(word, int) else None)
        if word == REST:
            rest = position
    return Matching(tuple(labels), tuple(matched), rest)


def matching_lines(matching: Matching, classes: Sequence[SourceClass]) -> list[str]:
    """Return sentences for people that say what starts from what."""
    names = _SourceNames(classes)
    matched = []
    new = []
    for label, word in matching.to_dict().items():
        if isinstance(word, int):
            matched.append(f"{label} = {names.show(word, meaning=False)}")
        elif word == NEW:
            new.append(label)
    lines = [f"the head starts from rows of the source's: {listed(matched, _MOST_SHOWN)}"]
    if new:
        lines.append(f"new rows for {listed(new, _MOST_SHOWN)}: no class of the source has that name")
    if matching.rest is not None:
        lines.append(f"{matching.labels[matching.rest]} starts from all other classes of the source")
    return lines


class _SourceNames:
    """Looks up the names of a source head's outputs, in rising order of tolerance."""

    def __init__(self, classes: Sequence[SourceClass]) -> None:
        self._classes = classes
        self._tables: list[tuple[Callable[[str], set[str]], dict[str, set[int]]]] = []
        for forms in (lambda name: {name}, lambda name: {_without_separators(name)}, _singular_forms):
            table: dict[str, set[int]] = {}
            for output, source in enumerate(classes):
                for name in source.names:
                    for form in forms(name):
                        table.setdefault(form, set()).add(output)
            self._tables.append((forms, table))

    @property
    def are_known(self) -> bool:
        return any(source.names for source in self._classes)

    def find(self, name: str) -> list[int]:
        """Return the outputs that fit a name, by the first table that has any."""
        for forms, table in self._tables:
            hits: set[int] = set()
            for form in forms(name):
                hits |= table.get(form, set())
            if hits:
                return sorted(hits)
        return []

    def read_given(self, label: str, word: int | str) -> int | str:
        """Read what the user gave for a class."""
        if word in (NEW, REST):
            return word
        if re.fullmatch(r"-?\d+", str(word)):
            if not 0 <= int(word) < len(self._classes):
                raise ConfigError(
                    f"match {label}={word}: the source's outputs are numbered from 0 to {len(self._classes) - 1}"
                )
            return int(word)
        hits = self.find(str(word))
        if len(hits) == 1:
            return hits[0]
        if hits:
            raise ConfigError(
                f"match {label}={word} fits several: {'; '.join(map(self.show, hits))}. Give the number of one"
            )
        known: list[str] = []
        for source in self._classes:
            known += source.names
        hint = did_you_mean(str(word), known) if known else " The names of this source's classes are not known here."
        raise ConfigError(
            f"match {label}={word}: the source has no class of that name.{hint} Give the number of an output, a name, "
            f"{NEW} or {REST}"
        )

    def show(self, output: int | str, *, meaning: bool = True) -> str:
        """Write an output for people: `934 (hotdog, hot dog: ...)`."""
        source = self._classes[int(output)]
        text = str(source)
        if meaning and source.meaning:
            text += f": {source.meaning[:60]}"
        return f"{output} ({text})"


def _without_separators(name: str) -> str:
    """Return a name without case and separators."""
    return re.sub(r"[\W_]+", "", name.casefold())


def _singular_forms(name: str) -> set[str]:
    """Return what the name may be the plural of, and itself."""
    plain = _without_separators(name)
    forms = {plain}
    if len(plain) > 3 and plain.endswith("s") and not plain.endswith("ss"):
        forms.add(plain[:-1])
        if plain.endswith(("ses", "xes", "zes", "ches", "shes", "oes")):
            forms.add(plain[:-2])
        if plain.endswith("ies"):
            forms.add(f"{plain[:-3]}y")
    return forms


def _left_over(labels: Sequence[str], classes: Sequence[SourceClass], given: Mapping[str, int | str]) -> set[str]:
    """Return the classes for which nothing is left, because others have exactly the names of all of the source's."""
    open_labels = set(labels) - set(given)
    source_names: set[str] = set()
    for source in classes:
        if open_labels.isdisjoint(source.names):
            return set()
        source_names.update(source.names)
    return open_labels - source_names


def _refuse_unclear(found: Mapping[str, list[int | str]], names: _SourceNames) -> None:
    """Refuse classes that fit several of the source's."""
    unclear = [label for label, outputs in found.items() if len(outputs) > 1]
    if not unclear:
        return
    label = unclear[0]
    outputs = found[label]
    shown = "; ".join(map(names.show, outputs[:_MOST_SHOWN]))
    if len(unclear) > 1:
        shown += f"; so do {', '.join(map(repr, unclear[1:_MOST_SHOWN]))}"
    raise ConfigError(
        f"class {label!r} fits several of the source's: {shown}. Choose with {_match_flag(label, outputs[0])}, "
        f"or {NEW} in the number's place for a new row"
    )


def _new_or_rest(label: str, labels: Sequence[str]) -> str:
    """Say what a class is that the source has no name for: the rest if it is `other` and the like, or `not_x`."""
    plain = _without_separators(label)
    if plain in _REST_NAMES:
        return REST
    denied: set[str] = set()
    for word in _NEGATIONS:
        if plain.startswith(word):
            denied |= _singular_forms(plain.removeprefix(word))
    for other in labels:
        if other != label and not denied.isdisjoint(_singular_forms(other)):
            return REST
    return NEW


def _refuse_shared(words: Mapping[str, int | str], names: _SourceNames) -> None:
    """Refuse two classes that mean the same of the source."""
    owners: dict[int | str, str] = {}
    for label, word in words.items():
        if word != NEW and word in owners:
            meant = "all other classes" if word == REST else names.show(word, meaning=False)
            raise ConfigError(
                f"{owners[word]!r} and {label!r} both mean {meant} of the source. Give one of them another class with "
                f"{_match_flag(label, 'NUMBER')}, or {NEW} in the number's place for a new row"
            )
        owners[word] = label


def _match_flag(label: str, word: int | str) -> str:
    return f"--match {shlex.quote(f'{label}={word}')}"
