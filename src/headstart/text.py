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
    return _UNSAFE.sub(_escape, text)


def visible_line(text: str) -> str:
    r"""Return a name as one line: as `visible`, and its tabs and line feeds are escapes too."""
    return _UNSAFE_OR_BREAK.sub(_escape, text)


def escape_what_cannot_be_written(stream: TextIO) -> None:
    r"""Let a stream write characters that its encoding lacks as escapes, such as `\u72ac`, instead of raising."""
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is not None and getattr(stream, "errors", None) in ("strict", "surrogateescape"):
        reconfigure(errors=_ESCAPE)


def _escape(match: re.Match[str]) -> str:
    return json.dumps(match[0])[1:-1]


def _escape_error(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return json.dumps(error.object[error.start : error.end])[1:-1], error.end


codecs.register_error(_ESCAPE, _escape_error)
