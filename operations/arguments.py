"""Reads and checks the arguments of the commands. The errors of these checks do not quote an argument."""

import argparse
import re
from typing import NoReturn
from urllib.parse import urlsplit

from operations.output import printable
from turnqueue.http import MAX_OWNER_CHARACTERS
from turnqueue.turn import SESSION_ID, Key, is_utf8

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


class Parser(argparse.ArgumentParser):
    """A parser that escapes control characters in argparse's errors, because these errors quote unknown arguments."""

    def error(self, message: str) -> NoReturn:
        super().error(printable(message))


def stack_name(text: str) -> str:
    return _matching(
        text, r"[A-Za-z][A-Za-z0-9-]{0,127}", "1 to 128 letters, digits and hyphens, the first one a letter"
    )


def word(text: str) -> str:
    return _matching(text, r"[A-Za-z0-9_-]{1,64}", "1 to 64 letters, digits, hyphens and underscores")


def region(text: str) -> str:
    return _matching(text, r"[a-z0-9-]{1,32}", "a region such as us-east-1")


def table_name(text: str) -> str:
    return _matching(text, r"[A-Za-z0-9_.-]{3,255}", "3 to 255 letters, digits, dots, hyphens and underscores")


def group(text: str) -> str:
    return _matching(
        text, r"[A-Za-z0-9_-]{1,32}", "a group of OwnerLimits: 1 to 32 letters, digits, hyphens, underscores"
    )


def key_id(text: str) -> str:
    return _matching(text, r"[0-9a-f]{12}", "12 hexadecimal digits, as `keys list` shows them")


def session_id(text: str) -> str:
    return _matching(text, SESSION_ID.pattern, "1 to 64 letters, digits, hyphens and underscores")


def task_id(text: str) -> str:
    if not Key.of_task("owner", text):
        raise argparse.ArgumentTypeError("must be a session id, a dot and a ULID of 26 characters")
    return text


def owner(text: str) -> str:
    if not (0 < len(text) <= MAX_OWNER_CHARACTERS and is_utf8(text)):
        raise argparse.ArgumentTypeError(f"must have 1 to {MAX_OWNER_CHARACTERS} characters of UTF-8")
    return text


def count(text: str) -> int:
    return int(_matching(text, r"[1-9][0-9]{0,8}", "a whole number from 1 to 999,999,999"))


def duration(text: str) -> int:
    """A duration in seconds, from a text such as "24h"."""
    return (
        int(_matching(text, r"[0-9]{1,6}[smhd]", "a number and s, m, h or d: 24h, for example")[:-1]) * _UNITS[text[-1]]
    )


def api_url(text: str) -> str:
    """A URL to which the command may send a token."""
    try:
        parts = urlsplit(text)
        safe = parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOOPBACK)
        plain = bool(parts.hostname and re.fullmatch(r"[!-~]+", text)) and not (parts.query or parts.fragment)
        anonymous = "@" not in parts.netloc
    except ValueError:
        safe = plain = anonymous = False
    if not (safe and plain and anonymous):
        raise argparse.ArgumentTypeError("must be https://…, or http:// on this machine, without a user or a query")
    return text.rstrip("/")


def _matching(text: str, pattern: str, form: str) -> str:
    if not re.fullmatch(pattern, text):
        raise argparse.ArgumentTypeError(f"must be {form}")
    return text
