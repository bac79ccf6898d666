"""The exceptions that Headstart raises on purpose.

    HeadstartError                base; the command line prints it in one line and exits with `exit_code`
      ConfigError                 an unknown, contradictory or impossible setting
      DataError                   the images, the manifest or the labels are not usable
        UnreadableImageError      one or more image files cannot be decoded
        DownloadError             a data set could not be fetched, verified or extracted
      ModelError                  a backbone, a weight file or a saved model is not usable
      PlanError                   a strategy's table does not fit the network
      RunError                    a run folder is missing, incomplete, occupied or not writable
      TrainingError               training cannot go on (a frozen tensor changed, a test was too short)
        DivergedError             the loss is not finite
      EngineError                 an inference engine cannot run a network; another one is taken
      CacheFullError              computed features fit neither on disk nor in memory; they are streamed instead
      MissingExtraError           an optional package is not installed

Every message says what is wrong, where, what was expected, and what to do next.
"""

import difflib
from collections.abc import Iterable, Sized


class HeadstartError(Exception):
    """Base of all errors that a user can act upon."""

    exit_code = 2


class ConfigError(HeadstartError):
    """A setting is unknown, contradictory or impossible."""


class DataError(HeadstartError):
    """The images, the manifest or the labels cannot be used."""


class UnreadableImageError(DataError):
    """One or more image files cannot be decoded."""


class DownloadError(DataError):
    """A data set could not be fetched, verified or extracted."""


class ModelError(HeadstartError):
    """A backbone, a weight file or a saved model cannot be used."""


class PlanError(HeadstartError):
    """A strategy's table does not fit the network."""


class RunError(HeadstartError):
    """A run folder is missing, incomplete, occupied or not writable."""


class TrainingError(HeadstartError):
    """Training cannot go on."""

    exit_code = 1


class DivergedError(TrainingError):
    """The loss is not finite."""


class EngineError(HeadstartError):
    """An inference engine cannot run a network."""


class CacheFullError(HeadstartError):
    """Rows fit neither on disk nor in memory; they are forgotten, and those held before stay usable."""


class MissingExtraError(HeadstartError):
    """An optional package is needed and not installed."""


def did_you_mean(name: str, known: Iterable[str], *, limit: int = 3) -> str:
    """Return ` Did you mean 'x'?` for the names that begin so and the closest ones, or an empty string.

    Args:
        name: What the user wrote.
        known: All names that would have been accepted.
        limit: The most suggestions to offer.
    """
    wanted = name.lower()
    if not wanted:
        return ""
    by_lowered = {candidate.lower(): candidate for candidate in known}
    longer = [lowered for lowered in by_lowered if lowered.startswith(wanted)]
    close = difflib.get_close_matches(wanted, by_lowered, n=limit, cutoff=0.6)
    without_repeats = list(dict.fromkeys(longer + close))
    suggested = [repr(by_lowered[lowered]) for lowered in without_repeats[:limit]]
    if not suggested:
        return ""
    return f" Did you mean {either(suggested)}?"


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """Return `{what} 'x' is not known. Did you mean 'y'? There are: y, z`."""
    known = list(known)
    return f"{what} {name!r} is not known.{did_you_mean(name, known)} There are: {', '.join(known)}"


def either(words: Iterable[str], last: str = "or") -> str:
    """Return `a, b or c`."""
    *others, word = words
    if not others:
        return word
    return f"{', '.join(others)} {last} {word}"


def listed(words: Iterable[str], most: int = 5) -> str:
    """Return `a, b and 3 more`, naming `most` words at most."""
    words = list(words)
    shown = ", ".join(words[:most])
    num_left = len(words) - most
    if num_left <= 0:
        return shown
    return f"{shown} and {num_left} more"


def counted(images: Sized, kind: str = "") -> str:
    """Return `1 image` or `2 images`; `kind`, such as `test `, stands before the word."""
    word = "image" if len(images) == 1 else "images"
    return f"{len(images)} {kind}{word}"
