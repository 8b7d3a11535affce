"""The cost of an answer, by the table of prices."""

import json
import re
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from development import cfn
from prices import Price, parse_prices

PATTERN = cfn.template()["Parameters"]["ModelPrices"]["AllowedPattern"]


def spent(prompt: Any, completion: Any, cached: Any = None) -> dict[str, Any]:
    return {"prompt_tokens": prompt, "completion_tokens": completion, "cached_tokens": cached}


TABLES: dict[str, dict[str, Price]] = {
    "": {},
    "gpt-4.1-mini:0.4/1.6": {"gpt-4.1-mini": Price(0.4, 1.6, 0.4)},
    "a:0.4/1.6/0.1,ft:gpt:org::b:10/20": {"a": Price(0.4, 1.6, 0.1), "ft:gpt:org::b": Price(10, 20, 10)},
}


@pytest.mark.parametrize("table", TABLES)
def test_a_table_is_read_and_the_template_takes_it(table: str) -> None:
    assert re.fullmatch(PATTERN, table)
    assert parse_prices(table) == TABLES[table]


@pytest.mark.parametrize("table", ["a", "a:1", "a:1/2/3/4", ":1/2", "a:1/x", "a:1/2,", "a:-1/2", "a b:1/2", "a:1/2 "])
def test_the_template_takes_no_other(table: str) -> None:
    assert not re.fullmatch(PATTERN, table)


def test_cached_tokens_cost_what_the_table_says() -> None:
    assert Price(2, 8, 0.5).dollars(spent(1_000_000, 500_000, 400_000)) == 0.6 * 2 + 0.4 * 0.5 + 0.5 * 8
    assert Price(2, 8, 2).dollars(spent(1_000_000, 0, 400_000)) == 2


@pytest.mark.parametrize("usage", [{}, spent(None, 1), spent(1, None), spent("1", 1)])
def test_what_was_not_counted_has_no_price(usage: dict[str, Any]) -> None:
    assert Price(1, 1, 1).dollars(usage) is None


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine is no bug
@given(st.integers(0, 10**6), st.integers(0, 10**6), st.none() | st.integers(0, 10**6))
def test_a_price_is_in_whole_micro_dollars_and_none_too_many(prompt: int, completion: int, cached: int | None) -> None:
    dollars = Price(0.4, 1.6, 0.1).dollars(spent(prompt, completion, cached))

    assert dollars is not None
    micros = round(dollars * 1_000_000)
    assert micros / 1_000_000 == dollars == json.loads(json.dumps(dollars))
    assert 0 <= micros <= prompt * 0.4 + completion * 1.6 + 0.5
