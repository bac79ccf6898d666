"""Text of the user's, such as names of classes and files, made fit for terminals and pages."""

import codecs
import json
import re
from typing import TextIO

# Control characters but for the tab and the line feed, separators of lines, marks that turn the direction of what
# follows, and halves of characters (surrogates). A name that holds them can rewrite a terminal, or mislead who reads.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_UNSAFE_OR_BREAK = re.compile(f"{_UNSAFE.pattern}|[\t\n]")

_ESCAPE = "headstart-escape"  # the name of our way to write what an encoding lacks


def visible(text: str) -> str:
    r"""Return text with its control characters written as escapes, such as `\u001b`; tabs and line feeds stay.

    The escapes are those of JSON, so that JSON stays JSON.
    """
    return _UNSAFE.sub(_escaped_match, text)


def visible_line(text: str) -> str:
    r"""Return a name as one line: control characters, tabs and line feeds are written as escapes, such as `\n`."""
    return _UNSAFE_OR_BREAK.sub(_escaped_match, text)


def escape_what_cannot_be_written(stream: TextIO) -> None:
    r"""Let a stream write characters that its encoding lacks as escapes, such as `\u72ac`, instead of raising."""
    reconfigure = getattr(stream, "reconfigure", None)
    may_raise = getattr(stream, "errors", None) in ("strict", "surrogateescape")
    if reconfigure is not None and may_raise:
        reconfigure(errors=_ESCAPE)


def _escaped(characters: str) -> str:
    """Return characters as the escapes of JSON."""
    return json.dumps(characters)[1:-1]


def _escaped_match(match: re.Match[str]) -> str:
    """Return what a pattern matched, as escapes."""
    return _escaped(match[0])


def _escape_unencodable(error: UnicodeError) -> tuple[str, int]:
    """Return the characters that an encoding lacks as escapes, and where to go on; see `codecs.register_error`."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return _escaped(error.object[error.start : error.end]), error.end


codecs.register_error(_ESCAPE, _escape_unencodable)
