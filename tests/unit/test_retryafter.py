"""The time that a provider asks to wait, in all forms that providers use."""

import pytest

from retryafter import LONGEST_SECONDS, retry_after

NOW = 1_800_000_000.0  # 2027-01-15 08:00:00 UTC

ASKED = {
    "whole seconds": ({"retry-after": "7"}, 7),
    "fractions": ({"retry-after": " 0.25 "}, 0.25),
    "an HTTP date": ({"retry-after": "Fri, 15 Jan 2027 08:00:30 GMT"}, 30),
    "an HTTP date, by the clock of the server": (
        {"retry-after": "Fri, 15 Jan 2027 09:00:30 GMT", "date": "Fri, 15 Jan 2027 09:00:10 GMT"},
        20,
    ),
    "a date in the past": ({"retry-after": "Fri, 15 Jan 2027 07:00:00 GMT"}, 0),
    "milliseconds": ({"retry-after-ms": "1500"}, 1.5),
    "milliseconds, which are exact, and seconds": ({"retry-after-ms": "1500", "retry-after": "2"}, 1.5),
    "milliseconds that are none": ({"retry-after-ms": "soon", "retry-after": "2"}, 2),
    "a reset of OpenAI's": ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "6m0s"}, 360),
    "a reset in milliseconds": ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "12ms"}, 0.012),
    "a reset of Groq's": ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "1h2m59.56s"}, 3779.56),
    "a reset in days": ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1d"}, 86_400),
    "a reset in seconds": ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "30"}, 30),
    "a reset as a time": ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "1800000045"}, 45),
    "a reset as a time in milliseconds": (
        {"X-RateLimit-Remaining": "0"} | {"x-ratelimit-reset": "1800000045500"},
        45.5,
    ),
    "a reset of Anthropic's": (
        {"anthropic-ratelimit-requests-remaining": "0", "anthropic-ratelimit-requests-reset": "2027-01-15T08:01:00Z"},
        60,
    ),
    "a dimension that has some left": (
        {"x-ratelimit-remaining-tokens": "10", "x-ratelimit-reset-tokens": "6m0s"},
        None,
    ),
    "the longest of those that have none left": (
        {
            "x-ratelimit-remaining-tokens": "0",
            "x-ratelimit-reset-tokens": "9s",
            "x-ratelimit-remaining-requests": "0",
            "x-ratelimit-reset-requests": "4s",
            "x-ratelimit-remaining-images": "3",
            "x-ratelimit-reset-images": "100s",
        },
        9,
    ),
    "at least both": ({"retry-after": "1", "x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "20s"}, 20),
    "more than a day": ({"retry-after": "999999999"}, LONGEST_SECONDS),
    "nothing": ({"content-type": "application/json"}, None),
}


@pytest.mark.parametrize(("headers", "seconds"), ASKED.values(), ids=ASKED)
def test_a_wait_is_read_in_every_form(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers, NOW) == (None if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize(
    "value", ["", "soon", "-5", "nan", "inf", "1e9", "٣", "Fri, 99 Jan 2027 08:00:30 GMT", "0" * 5000, "9" * 400]
)
def test_a_wait_that_cannot_be_read_is_none(value: str) -> None:
    remaining = {"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": value}

    assert retry_after({"retry-after": value, "retry-after-ms": value} | remaining, NOW) is None
