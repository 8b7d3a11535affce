"""The arithmetic of the cost model, checked against values computed by hand."""

import math

import pytest

from benchmarks.bill import PRICES, Bill, Machine, dollars
from benchmarks.lognormal import Lognormal
from local.capacity import Item, read_units, size, write_units


def test_a_million_requests_cost_what_the_price_list_says() -> None:
    bill = Bill()

    bill.add("API", "http_api_request", 3)
    bill.add_logs("logs", 2**30 / 1_000_000 - 26, 1)

    assert bill["API"].usd == pytest.approx(3.00)
    assert bill["logs"].usd == pytest.approx(0.50)
    assert bill.total == pytest.approx(3.50)


def test_every_price_says_where_it_was_read_and_when() -> None:
    for name, price in PRICES.items():
        assert set(price) == {"usd", "per", "source", "read"}, name
        assert dollars(name, price["per"]) == price["usd"]


def test_half_of_the_answers_are_quicker_than_the_median() -> None:
    assert Lognormal(3, 0.5).at(0.5) == pytest.approx(3 * math.exp(-0.125))


def test_a_function_with_a_seventh_of_the_memory_takes_seven_times_as_long_for_its_work_but_not_for_its_waits() -> None:
    assert Machine(1769, "").seconds(cpu=0.1, calls=2) == pytest.approx(0.1 + 0.01)
    assert Machine(253, "").seconds(cpu=0.1, calls=2) == pytest.approx(0.7 + 0.01, rel=0.01)


def test_items_are_measured_as_the_developer_guide_says() -> None:
    item: Item = {"session": {"S": "ä" * 10}, "attempt": {"N": "123"}, "cancel_requested": {"BOOL": True}}
    assert size(item) == (7 + 20) + (7 + 3) + (16 + 1)

    large: Item = {"a": {"S": "x" * 4095}}
    assert write_units(item) == 1
    assert write_units(item, large) == 4
    assert read_units([large], consistent=True) == 1
    assert read_units([large, item], consistent=True) == 2
    assert read_units([large], consistent=False) == 0.5
    assert read_units([], consistent=True) == 1
