"""Prints all output of the commands. Tables, logs and servers contain other people's text, so this module escapes every
line."""

import sys
import traceback
from typing import TextIO

_MAX_CHARACTERS = 1000
"""The maximum length of a printed line in characters. An attribute of an item can have 400 KB."""


def printable(value: object) -> str:
    """The text of `value` on one line, without characters that could control a terminal.

    Control characters, line breaks, and characters that are invisible or turn the direction of text become Python's
    escapes. Long texts are shortened.
    """
    text = str(value)
    shown = text[:_MAX_CHARACTERS] + ("…" if len(text) > _MAX_CHARACTERS else "")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in shown)


def say(line: object) -> None:
    """Print a line of a command's result."""
    _print(line, sys.stdout)


def complain(line: object) -> None:
    """Print a line about an error."""
    _print(line, sys.stderr)


def complain_of_bug(error: Exception) -> None:
    """Print where an unexpected error happened, then its type and text."""
    for frame in traceback.extract_tb(error.__traceback__):
        complain(f'File "{frame.filename}", line {frame.lineno}, in {frame.name}')
    complain(f"{type(error).__name__}: {error}")


def _print(line: object, stream: TextIO) -> None:
    encoding = stream.encoding or "utf-8"
    print(printable(line).encode(encoding, "backslashreplace").decode(encoding), file=stream)
