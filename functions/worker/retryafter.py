"""Reads the time that a provider asks to wait from the headers of its refusal. Providers use three forms:
`retry-after-ms`; `Retry-After`, with seconds (some providers send fractions) or an HTTP date; and
`x-ratelimit-reset-NAME` beside `x-ratelimit-remaining-NAME: 0`. A reset is a duration ("6m0s"), a number of seconds, a
time in seconds or milliseconds since the epoch, or an ISO 8601 time.
"""

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

LONGEST_SECONDS = 86_400.0
"""Longer waits count as a day, because no turn lives that long."""

# Compiled at the first use, because the import is part of every cold start.
_REMAINING = r"(.*ratelimit)-remaining(.*)|(.*ratelimit.*)-remaining"
_NUMBER = r"[0-9]{1,15}(\.[0-9]{0,12})?"
_DURATION = (
    r"(?:([0-9]{1,9})d)?(?:([0-9]{1,9})h)?(?:([0-9]{1,9})m)?(?:([0-9]{1,9}(?:\.[0-9]{0,12})?)s)?(?:([0-9]{1,9})ms)?"
)
_UNITS = (86_400.0, 3600.0, 60.0, 1.0, 0.001)
_EPOCH_SECONDS = 1e9  # A larger number is a time since the epoch, and not a duration.
_EPOCH_MILLISECONDS = 1e12


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """The seconds to wait, from 0 to LONGEST_SECONDS. None if no header names a time. `headers`: names in lower case,
    or a mapping that ignores case. `now`: seconds since the epoch."""
    waits = [*_asked(headers, now), *_resets(headers, now)]
    return min(max(*waits, 0.0), LONGEST_SECONDS) if waits else None


def _asked(headers: Mapping[str, str], now: float) -> Iterator[float]:
    milliseconds, value = (headers.get(name, "").strip() for name in ("retry-after-ms", "retry-after"))
    if re.fullmatch(_NUMBER, milliseconds):
        yield float(milliseconds) / 1000
    elif re.fullmatch(_NUMBER, value):
        yield float(value)
    elif (moment := _date(value)) is not None:
        # Compare the HTTP date with the server's clock (the header Date) if possible, because clocks differ.
        sent_at = _date(headers.get("date", ""))
        yield moment - (now if sent_at is None else sent_at)


def _resets(headers: Mapping[str, str], now: float) -> Iterator[float]:
    for name, remaining in headers.items():
        found = re.fullmatch(_REMAINING, name.lower())
        if found and re.fullmatch(r"0+(\.0*)?", remaining.strip()):
            before, dimension, whole = found.groups()
            reset = f"{whole}-reset" if whole else f"{before}-reset{dimension}"
            seconds = _until(headers.get(reset, "").strip(), now)
            if seconds is not None:
                yield seconds


def _until(value: str, now: float) -> float | None:
    if re.fullmatch(_NUMBER, value):
        number = float(value)
        if number >= _EPOCH_MILLISECONDS:
            return number / 1000 - now
        return number - now if number >= _EPOCH_SECONDS else number
    if value and (found := re.fullmatch(_DURATION, value)):
        return sum(float(part) * unit for part, unit in zip(found.groups(), _UNITS, strict=True) if part)
    try:
        moment = datetime.fromisoformat(value)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() - now
    except (ValueError, OverflowError):
        return None


def _date(value: str) -> float | None:
    try:
        moment = parsedate_to_datetime(value)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None
